"""One machinery for any x and y: each kind goes through all of it, and where it cannot, the error says why."""

import math
from dataclasses import replace
from pathlib import Path

import kinds
import kinds_worker
import pytest
import torch
from helpers import said
from kinds import KINDS, N, fresh, loader_of, optimizer_of, parameters_of, score_of
from launching import torchrun

from sftlib import batches
from sftlib.features import extract, linear_probe
from sftlib.model import eval_mode
from sftlib.training import Epoch, Step, evaluate, fit, load_checkpoint, predict, save_checkpoint
from sftlib.widgets import LiveRun

EPOCHS = 2  # of batches of 5, 5, 3


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]()


def run(kind, model, *, loader=None, optimizer=None, **more):
    torch.manual_seed(3)
    records = fit(
        model, loader or loader_of(kind), optimizer or optimizer_of(kind, model), epochs=EPOCHS,
        **{**kind.settings, **more},
    )  # fmt: skip
    return list(records)


def test_fit_learns_the_batch_and_measures_it(kind):
    model = kind.model()
    loader = loader_of(kind)
    validate = lambda m: evaluate(m, loader_of(kind, shuffle=False), **score_of(kind))  # noqa: E731
    before = parameters_of(kind, model)
    records = run(kind, model, loader=loader, validate=validate)
    epochs = [r for r in records if isinstance(r, Epoch)]
    steps = [r for r in records if isinstance(r, Step)]
    assert [s.n for s in steps] == [5, 5, 3] * EPOCHS and all(math.isfinite(s.loss) for s in steps)
    assert all(e.train["n"] == e.val["n"] == N and e.key == kind.key for e in epochs)
    assert 0 <= epochs[-1].val[kind.key] and not torch.equal(before, parameters_of(kind, model))
    moved = [p.grad is not None for p in model.parameters() if p.requires_grad]
    assert all(moved), "the gradient reaches every trainable parameter"


def test_evaluate_does_not_depend_on_the_batches(kind):
    model = kind.model()
    whole, parts = (
        evaluate(model, loader_of(kind, batch_size=size, shuffle=False), **score_of(kind)) for size in (N, 5)
    )
    assert whole.keys() == parts.keys() and whole["n"] == N
    for name, value in whole.items():
        assert parts[name] == pytest.approx(value, rel=1e-4, abs=1e-6, nan_ok=True), name


def test_predict_gives_every_output_in_order_and_leaves_the_modes(kind):
    model = kind.model().train()
    modes = [m.training for m in model.modules()]
    outputs, targets = zip(*predict(model, loader_of(kind, shuffle=False)), strict=True)
    assert [m.training for m in model.modules()] == modes
    assert sum(map(batches.count, outputs)) == N and sum(map(batches.count, targets)) == N
    x, y = kind.data()
    with torch.no_grad(), eval_mode(model):
        expected = model(batches.rows(x, slice(5, 10)))
    for a, b in zip(leaves(outputs[1]), leaves(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert all(
        torch.equal(a, b) for a, b in zip(leaves(targets[1]), leaves(batches.rows(y, slice(5, 10))), strict=True)
    )


def leaves(nest):
    found = []
    batches.each(lambda t: found.append(t) or t, nest)
    return found


def test_a_checkpoint_within_an_epoch_goes_on_to_the_bit(kind, tmp_path):
    ends, stop = [], 4  # in the second epoch
    for stopped in (False, True):
        kind = replace(kind, settings=fresh(kind))
        model = kind.model()
        optimizer, loader = optimizer_of(kind, model), loader_of(kind)
        torch.manual_seed(3)
        for record in fit(model, loader, optimizer, epochs=EPOCHS, **kind.settings):
            if stopped and isinstance(record, Step) and record.step == stop:
                save_checkpoint(tmp_path / "c.pt", model, optimizer, step=record)
                break
        if stopped:
            kind = replace(kind, settings=fresh(kind))
            model, loader = kind.model(), loader_of(kind)
            optimizer = optimizer_of(kind, model)
            torch.manual_seed(99)
            found = load_checkpoint(tmp_path / "c.pt", model, optimizer, **kind.loss_modules())
            record = list(fit(model, loader, optimizer, epochs=EPOCHS, resume=found, **kind.settings))[-1]
        ends.append((parameters_of(kind, model), str(record.train)))
    assert torch.equal(ends[0][0], ends[1][0]) and ends[0][1] == ends[1][1]


def test_parts_give_the_update_of_the_whole_batch(kind):
    if refused := kind.refused.get("parts"):
        with pytest.raises(ValueError, match=refused):
            run(kind, kind.model(), micro_batch=2)
        return
    ends = []
    for size in (None, 2):
        kind = replace(kind, settings=fresh(kind))
        model = kind.model()
        records = run(kind, model, micro_batch=size)
        ends.append((parameters_of(kind, model), records[-1].train))
    torch.testing.assert_close(ends[0][0], ends[1][0], rtol=1e-3, atol=1e-5)
    assert ends[1][1].keys() == ends[0][1].keys()
    for name, value in ends[0][1].items():
        assert ends[1][1][name] == pytest.approx(value, rel=1e-3, abs=1e-5, nan_ok=True), name


def test_features_are_extracted_and_a_probe_reads_vectors(kind):
    model = kind.model()
    z, y = extract(model.backbone, loader_of(kind, shuffle=False))
    assert batches.count(z) == batches.count(y) == N
    with torch.no_grad(), eval_mode(model):
        expected = model.backbone(batches.rows(kind.data()[0], slice(0, 5)))
    for a, b in zip(leaves(batches.rows(z, slice(0, 5))), leaves(expected), strict=False):
        if a.shape == b.shape:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    if kind.vector:
        probe = linear_probe(z, y, num_classes=kinds.K)
        assert probe.weight.shape == (kinds.K, z.shape[1])


def test_the_panel_follows_the_run_by_its_own_measure(kind):
    model = kind.model()
    loader, optimizer = loader_of(kind), optimizer_of(kind, model)
    validate = lambda m: evaluate(m, loader_of(kind, shuffle=False), **score_of(kind))  # noqa: E731
    panel = LiveRun(lambda: fit(model, loader, optimizer, epochs=EPOCHS, validate=validate, **kind.settings))
    history = panel.run()
    assert len(history["loss"]) == 3 * EPOCHS and len(history[f"val_{kind.key}"]) == EPOCHS
    assert kind.key.replace("_", " ") in panel.curves.value


@pytest.fixture(scope="module")
def of_workers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    done = torchrun(Path(__file__).parent / "kinds_worker.py", folder)
    assert done.returncode == 0, said(done)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("name", KINDS)
def test_two_workers_are_one_process(of_workers, name):
    first, second = (found[name] for found in of_workers)
    if refused := KINDS[name]().refused.get("workers"):
        assert refused in first["refused"] and refused in second["refused"]
        return
    alone, close = kinds_worker.run(name), KINDS[name]().close
    assert torch.equal(first["state"], second["state"]) and str(first["val"]) == str(second["val"])
    for part in ("train", "val"):
        assert first[part].keys() == alone[part].keys()
        for key, value in alone[part].items():
            assert first[part][key] == pytest.approx(value, rel=close, abs=close / 10), (part, key)
    torch.testing.assert_close(first["state"], alone["state"], rtol=close, atol=close / 100)


def test_a_detector_says_what_it_takes_and_what_its_losses_are():
    kind = KINDS["detection"]()
    model = kind.model()
    for settings, message in (
        ({"terms": batches.count}, "got single numbers as the model's output.*expected terms=None"),
        ({"task_loss": torch.nn.functional.cross_entropy}, "got a dict as the model's output.*sum_of_losses"),
        ({"task_loss": lambda output, y: output.mean()}, "got a dict as the model's output.*sum_of_losses"),
    ):
        with pytest.raises(ValueError, match=message):
            run(kind, model, **settings)
    x, y = next(iter(loader_of(kind)))
    one = torch.zeros(len(x[0]), 3, 64, 64)
    for wrong in (x[0], one, (one, x[1])):
        with pytest.raises(ValueError, match=r"expected \(\[N pictures\], \[N targets\] or None\)"):
            run(kind, model, loader=[(wrong, y)])


@pytest.mark.parametrize("kind_of", ["language model", "segmentation"])
def test_batches_of_one_sentence_or_picture_each_are_measured_as_all_at_once(kind_of):
    kind = KINDS[kind_of]()
    x, y = kind.data()
    ones = [(batches.rows(x, slice(i, i + 1)), batches.rows(y, slice(i, i + 1))) for i in range(N)]
    if kind_of == "language model":  # each with its own number of answers' tokens
        tokens = [int((t != -100).sum()) for _, t in ones]
        ones = [({**a, "answer": a["answer"][:, :n]}, t[:, :n]) for (a, t), n in zip(ones, tokens, strict=True) if n]
        assert len({t.shape for _, t in ones}) > 1
    model = kind.model()
    whole, found = evaluate(model, [(x, y)], **score_of(kind)), evaluate(model, ones, **score_of(kind))
    for name in ("loss", kind.key):
        assert found[name] == pytest.approx(whole[name], rel=1e-4), name
