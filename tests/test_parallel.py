"""Several processes: two workers under torchrun (Gloo, loopback only) against one process on the whole batch.

One launch does all of tests/parallel_worker.py, at whose end a worker dies; a second one runs tools/train.py.
"""

import csv
import importlib.util
import os
import re
from pathlib import Path

import parallel_worker as worker
import pytest
import torch
import torch.distributed as dist
from helpers import plain_model, said
from launching import ALONE, CLOSE, SAME, assert_same_state, torchrun
from PIL import Image

from sftlib.datasets import loader
from sftlib.runtime import Group
from sftlib.training import Parallel, Shards, evaluate, fit, load_checkpoint, workers

TESTS = Path(__file__).parent
ROOT = TESTS.parent


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workers")
    return torchrun(TESTS / "parallel_worker.py", folder, monitor_s=5), folder


@pytest.fixture(scope="module")
def found(launched):
    process, folder = launched
    assert (folder / "1.pt").exists(), said(process)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


# --- the same numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in worker.RUNS if name != "bf16"])
def test_two_workers_end_with_the_parameters_of_one_process(found, name):
    expected = worker.in_one_process(name)
    for own in found:
        assert_same_state(own[name]["state"], expected["state"], **CLOSE)


@pytest.mark.parametrize("name", [*worker.RUNS, "files", "resumed"])
def test_workers_stay_equal_bit_for_bit(found, name):
    assert_same_state(found[0][name]["state"], found[1][name]["state"], **SAME)


def test_bf16_differs_by_its_rounding_only(found):
    expected = worker.in_one_process("bf16")["state"]
    assert_same_state(found[0]["bf16"]["state"], expected, rtol=0.02, atol=0.002)


@pytest.mark.parametrize("name", [name for name in worker.RUNS if name != "bf16"])
def test_measures_are_those_of_all_examples(found, name):
    expected = worker.in_one_process(name)["epochs"]
    for own in found:
        for (train, val), (its_train, its_val) in zip(own[name]["epochs"], expected, strict=True):
            assert (train["n"], val["n"]) == (worker.N, 17) == (its_train["n"], its_val["n"])
            for mine, its in ((train, its_train), (val, its_val)):
                assert list(mine) == list(its)
                assert mine["accuracy"] == its["accuracy"]  # whole numbers, divided once
                assert mine == pytest.approx(its, rel=1e-5)


def test_losses_of_steps_are_of_the_own_rows(found):
    rows = [[3, 3, 3, 1], [4, 4, 4, 1]]
    expected = worker.in_one_process("frozen f")["losses"][:4]
    theirs = [own["frozen f"]["losses"][:4] for own in found]
    for k, whole in enumerate(expected):
        n = [rows[rank][k] for rank in (0, 1)]
        assert (n[0] * theirs[0][k] + n[1] * theirs[1][k]) / sum(n) == pytest.approx(whole, rel=1e-5)
        assert theirs[0][k] != theirs[1][k]


def test_some_rows_of_a_worker_are_all_of_the_class_that_does_not_count():
    worker_0 = Shards(worker.batches(), Group(0, 2, torch.device("cpu")))
    assert [bool(worker.CLASS_WEIGHTS[y].sum()) for _, y in worker_0] == [True, True, False, False]


def test_frozen_parts_do_not_move(found):
    for name, still in (("frozen f", "backbone.1"), ("partly frozen f", "backbone.1"), ("frozen g", "head")):
        build = worker.RUNS[name][0]
        start = build(0).state_dict()
        for key in (k for k in start if k.startswith(still)):
            assert torch.equal(found[1][name]["state"][key], start[key]), (name, key)


def test_pictures_from_files_give_the_same(found):
    model = plain_model()
    data = worker.batches(worker.Files(worker.split()))
    expected = worker.result(model, fit(model, data, worker.sgd(model), **worker.SETTINGS))
    assert_same_state(found[1]["files"]["state"], expected["state"], **CLOSE)


def test_a_resumed_run_ends_as_one_that_was_not_interrupted(found):
    for own in found:
        assert_same_state(own["resumed"]["state"], own["all"]["state"], **SAME)
        assert own["resumed"]["losses"] == own["all"]["losses"][-4:]


# --- refusals --------------------------------------------------------------------------------------------------


def test_batchnorm_in_train_mode_is_refused_with_the_remedy(found):
    for own in found:
        assert "backbone.1 would take BatchNorm statistics" in own["refusals"]["train mode"]
        assert "call eval_stats_train_affine(model) or freeze f" in own["refusals"]["train mode"]
        assert "SyncBatchNorm" in own["refusals"]["train mode"]
        assert "would take BatchNorm statistics" in own["refusals"]["train mode inside frozen"]


def test_workers_that_draw_differently_are_told(found):
    for own in found:
        assert "differ in their state of the loader's generator" in own["refusals"]["own seed"]


def test_a_worker_without_memory_says_which_micro_batch_to_try(found):
    for own, n in zip(found, (3, 4), strict=True):  # its slice of the first batch
        refusal = own["refusals"]["out of memory"]
        assert f"did not suffice for {n} examples at once (CUDA out of memory. Tried to allocate 13 GiB);" in refusal
        assert f"from the last checkpoint with micro_batch={n // 2} or less in every worker" in refusal
        assert "for 2 examples at once" in own["refusals"]["out of memory in parts"]
        assert "micro_batch=1 or less" in own["refusals"]["out of memory in parts"]


def test_what_cannot_be_shared_out_is_refused():
    eight = Group(0, 8, torch.device("cpu"))
    with pytest.raises(ValueError, match="batches of 7 for 8 workers; expected an example for each"):
        Shards(worker.batches(), eight)
    with pytest.raises(ValueError, match="5 examples for 8 workers"):
        Shards(loader(worker.split(5), worker.preprocess, batch_size=11), eight)
    model, two = plain_model(), Group(0, 2, torch.device("cpu"))
    data, validation = (Shards(worker.batches(worker.split(22)), two) for _ in range(2))
    with pytest.raises(ValueError, match="a last batch of 1 for 2 workers; expected an example for each in training"):
        fit(Parallel(model, two), data, worker.sgd(model), epochs=1)
    whole = Shards(worker.batches(), two)
    fit(Parallel(model, two), whole, worker.sgd(model), epochs=1, val_loader=validation).close()
    data = loader(worker.split(22), worker.preprocess, batch_size=7, drop_last=True)
    fit(Parallel(model, two), Shards(data, two), worker.sgd(model), epochs=1).close()


def test_fit_names_what_several_workers_need():
    model, two = plain_model(), Group(0, 2, torch.device("cpu"))
    data, both = Shards(worker.batches(), two), Parallel(model, two)
    for rows, name in ((worker.batches(), "Loader"), (Shards(worker.batches(), ALONE), "Shards for 1 worker")):
        for loaders in ({"train_loader": rows}, {"train_loader": data, "val_loader": rows}):
            with pytest.raises(ValueError, match=f"got a {name}.* in one of 2 workers; expected Shards"):
                fit(both, optimizer=worker.sgd(model), epochs=1, **loaders)
        with pytest.raises(ValueError, match=f"got a {name}.* in one of 2 workers; expected Shards"):
            evaluate(both, rows)
    with pytest.raises(ValueError, match=r"no gradient would reach it: freeze\(model.head\)"):
        fit(both, data, worker.sgd(model), epochs=1, task_loss=None, feature_loss=worker.to_origin)
    with pytest.raises(ValueError, match="got combine in several workers; expected fixed weights"):
        fit(both, data, worker.sgd(model), epochs=1, feature_loss=worker.to_origin, combine=lambda losses, m: losses[0])
    penalty = torch.nn.Linear(2, 3)
    optimizer = torch.optim.SGD([*model.parameters(), *penalty.parameters()], lr=0.1)
    with pytest.raises(ValueError, match="Linear as penalty; its state would differ"):
        fit(both, data, optimizer, epochs=1, penalty=penalty)


def test_a_workers_rows_are_no_data_for_a_model_that_shares_nothing():
    model, two = plain_model(), Group(0, 2, torch.device("cpu"))
    data, whole = Shards(worker.batches(), two), worker.batches()
    words = r"got Shards for 2 workers and a model of one; expected Parallel\(model, group\)"
    with pytest.raises(ValueError, match=words):
        fit(model, data, worker.sgd(model), epochs=1)
    with pytest.raises(ValueError, match=words):
        fit(model, whole, worker.sgd(model), epochs=1, val_loader=data)
    with pytest.raises(ValueError, match=words):
        evaluate(model, data)


# --- one process, slices, sums ---------------------------------------------------------------------------------


def test_without_torchrun_all_is_as_without_a_group():
    with workers() as group:
        assert group.leads and group.world == 1
        model = Parallel(plain_model(), Group(0, 1, torch.device("cpu")))
        own = worker.result(model, fit(model, Shards(worker.batches(), ALONE), worker.sgd(model), **worker.SETTINGS))
    expected = worker.in_one_process("all")
    assert_same_state(own["state"], expected["state"], **SAME)
    assert own["losses"] == expected["losses"]
    assert [train for train, _ in own["epochs"]] == [train for train, _ in expected["epochs"]]


@pytest.mark.parametrize("files", [False, True])
@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_slices_of_all_workers_are_the_whole_batch(world, files):
    data = worker.Files(worker.split()) if files else worker.split()
    whole = list(worker.batches(data))
    slices = [list(Shards(worker.batches(data), Group(r, world, torch.device("cpu")))) for r in range(world)]
    for k, (x, y) in enumerate(whole):
        sizes = [len(own[k][1]) for own in slices]
        assert max(sizes) - min(sizes) <= 1
        assert torch.equal(torch.cat([own[k][0] for own in slices]), x)
        assert torch.equal(torch.cat([own[k][1] for own in slices]), y)


def test_only_the_own_rows_are_preprocessed():
    seen = []
    data = loader(worker.split(), lambda p: seen.append(len(p)) or p.float(), batch_size=7)
    list(Shards(data, Group(1, 2, torch.device("cpu"))))
    assert seen == [4, 4, 4, 1]


def test_measures_of_one_worker_are_left_alone():
    model = plain_model()
    found = evaluate(Parallel(model, ALONE), Shards(worker.val_batches(), ALONE))
    assert found == evaluate(model, worker.val_batches()) and found["n"] == 17


def test_state_is_that_of_a_plain_model():
    model = plain_model()
    assert list(Parallel(model, ALONE).state_dict()) == list(model.state_dict())
    assert len(list(Parallel(model, ALONE).parameters())) == len(list(model.parameters()))


# --- a worker dies ---------------------------------------------------------------------------------------------


def test_the_death_of_a_worker_ends_the_run_and_is_named(launched):
    process, _ = launched
    assert process.returncode != 0, said(process)
    assert "worker 0 lost contact with another one after step" in process.stderr, said(process)
    assert "The last checkpoint is whole: start again from it" in process.stderr, said(process)
    assert re.search(r"rank +: 1 .*\n +exitcode +: 7", process.stderr), said(process)


def test_an_error_ends_its_worker_at_once_without_waiting_for_the_others(monkeypatch, capsys):
    calls = []

    def end(code):
        calls.append(f"exit {code}")
        raise SystemExit

    monkeypatch.setattr(dist, "is_torchelastic_launched", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(dist, "init_process_group", lambda backend, timeout: calls.append(backend))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: calls.append("waits"))
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(os, "_exit", end)
    with pytest.raises(SystemExit), workers():
        raise KeyError("a picture is missing")
    assert calls == ["gloo", "exit 1"]
    assert "a picture is missing" in capsys.readouterr().err


def test_no_worker_warned(launched):
    assert "warning" not in launched[0].stderr.lower(), said(launched[0])


def test_the_last_checkpoint_outlives_a_worker(launched):
    _, folder = launched
    model = plain_model(5)
    assert load_checkpoint(folder / "dies.pt", model, worker.sgd(model)).epoch == 1
    expected = plain_model()
    for _ in fit(expected, worker.batches(), worker.sgd(expected), epochs=1):
        pass
    assert_same_state(model.state_dict(), expected.state_dict(), **CLOSE)
    assert [p.name for p in folder.iterdir() if "partial" in p.name] == []


# --- the script ------------------------------------------------------------------------------------------------


def script():
    spec = importlib.util.spec_from_file_location("train_script", ROOT / "tools" / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """root/train/CLASS/…, root/val/CLASS/…: 11 and 5 pictures of 40 pixels: batches of 4, 4, 3 and of 4, 1"""
    root, g = tmp_path_factory.mktemp("pictures"), torch.Generator().manual_seed(0)
    for part, n in (("train", 11), ("val", 5)):
        for i in range(n):
            folder = root / part / ("dark", "light")[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            noise = torch.randint(128, (40, 40, 3), generator=g, dtype=torch.uint8)
            Image.fromarray((noise + 127 * (i % 2)).numpy()).save(folder / f"{i}.png")
    return root


WORDS = ("--size", "33", "--batch", "4", "--epochs", "2", "--rate-f", "0.0005", "--seed", "3")


def logged(folder):
    with open(folder / "log.csv", encoding="utf-8", newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def of_two(pictures, tmp_path_factory):
    """The script in two workers"""
    folder = tmp_path_factory.mktemp("two")
    return torchrun(ROOT / "tools" / "train.py", pictures, "--out", folder, *WORDS), folder


def test_the_script_gives_one_process_and_two_workers_the_same_log(pictures, of_two, tmp_path):
    process, folder = of_two
    assert process.returncode == 0, said(process)
    assert "warning" not in process.stderr.lower(), said(process)
    lines = ("epoch 1/2", "epoch 2/2", "2 worker(s), cpu")
    assert [process.stdout.count(line) for line in lines] == [1, 1, 1], said(process)  # one log
    script().main([str(pictures), "--out", str(tmp_path), *WORDS, "--micro-batch", "2"])
    two, one = logged(folder), logged(tmp_path)
    assert [row["train_n"] for row in two] == [11, 11] and [row["val_n"] for row in two] == [5, 5]
    for mine, its in zip(two, one, strict=True):
        assert mine == pytest.approx(its, rel=1e-4)
    states = [torch.load(path / "last.pt")["model"] for path in (folder, tmp_path)]
    assert_same_state(*states, rtol=1e-3, atol=1e-5)


def test_weighted_stopped_early_and_calibrated_one_process_and_two_workers_agree(pictures, tmp_path):
    more = ("--class-weights", "--label-smoothing", "0.1", "--best-by", "loss", "--patience", "1", "--temperature")
    process = torchrun(ROOT / "tools" / "train.py", pictures, "--out", tmp_path / "two", *WORDS, *more)
    assert process.returncode == 0, said(process)
    script().main([str(pictures), "--out", str(tmp_path / "one"), *WORDS, *more])
    two, one = (torch.load(tmp_path / name / "best.pt", weights_only=True) for name in ("two", "one"))
    assert two["settings"]["temperature"] == pytest.approx(one["settings"]["temperature"], rel=1e-3)
    assert_same_state(two["model"], one["model"], rtol=1e-3, atol=1e-5)
    for mine, its in zip(logged(tmp_path / "two"), logged(tmp_path / "one"), strict=True):
        assert mine == pytest.approx(its, rel=1e-4)


def test_a_worker_killed_within_an_epoch_and_started_again_leaves_the_same_to_the_bit(pictures, of_two, tmp_path):
    words = [pictures, "--out", tmp_path, *WORDS, "--checkpoint-every", 1, "--resume"]
    own_port = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    process = torchrun("--max-restarts=1", TESTS / "killed_worker.py", *words, **own_port)
    assert process.returncode == 0, said(process)
    assert process.stdout.count("2 worker(s), cpu") == 2, said(process)  # two lives
    assert "goes on after epoch 1 and 1 of 3 batches" in process.stdout, said(process)
    assert logged(tmp_path) == logged(of_two[1])
    ends = [torch.load(path / "last.pt") for path in (tmp_path, of_two[1])]
    assert_same_state(*(end["model"] for end in ends), **SAME)
    momentum = [[t["momentum_buffer"] for t in end["optimizer"]["state"].values()] for end in ends]
    assert all(torch.equal(a, b) for a, b in zip(*momentum, strict=True)) and len(momentum[0]) > 2


def test_the_script_resumes_and_keeps_what_is_there(pictures, tmp_path):
    main = script().main
    words = [str(pictures), *WORDS, "--freeze"]
    main([*words, "--out", str(tmp_path / "whole")])
    out = ["--out", str(tmp_path / "halves")]
    stopped = script()
    stopped.write = None  # ends the run with a TypeError, after the first checkpoint
    with pytest.raises(TypeError):
        stopped.main([*words, *out])
    with pytest.raises(ValueError, match="is there already: --resume goes on from it"):
        main([*words, *out])
    main([*words, *out, "--resume"])
    states = [torch.load(tmp_path / name / "last.pt")["model"] for name in ("halves", "whole")]
    assert_same_state(*states, **SAME)
    assert logged(tmp_path / "halves") == logged(tmp_path / "whole")
    main([*words, *out, "--resume"])  # nothing left to do
    assert logged(tmp_path / "halves") == logged(tmp_path / "whole")


def test_the_script_refuses_restarts_in_which_workers_may_wait_for_dead_ones(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "1")
    monkeypatch.delenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", raising=False)
    with pytest.raises(ValueError, match="got --max-restarts; expected the environment variable TORCH_DISABLE_SHARE"):
        script().main(["--out", str(tmp_path)])


@pytest.mark.parametrize("option", ["--micro-batch", "--checkpoint-every"])
def test_the_script_refuses_a_number_below_one(option, tmp_path, capsys):
    with pytest.raises(SystemExit):
        script().main(["--out", str(tmp_path), option, "0"])
    assert f"argument {option}" in capsys.readouterr().err and not list(tmp_path.iterdir())
