"""tools/train.py: what its loss counts, which epoch it keeps, how it looks in the end; each killed and resumed too."""

import math
import random
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch
from scripts import CLASSES, WORDS, assert_same_run, draw_noise, ended, run, script, table

from sftlib.datasets import image_folder, loader
from sftlib.metrics import temperature
from sftlib.strategies import load_trained
from tools import train_end

ALL = (
    "--class-weights",
    "--label-smoothing",
    "0.2",
    "--best-by",
    "loss",
    "--patience",
    "2",
    "--flips",
    "--temperature",
)
PROBE = (*WORDS, "--strategy", "probe", "--rate-g", "0.0003")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """19, 11 and 7 pictures of three classes"""
    root = draw_noise(tmp_path_factory.mktemp("pictures"), count=19)
    for name, n in (("grey", 11), ("light", 7)):
        for i in range(n, 19):
            (root / name / f"{i}.png").unlink()
    return root


@pytest.fixture(scope="module")
def trained(pictures, tmp_path_factory):
    """Options -> a run with them that nothing stopped"""
    done = {}

    def of(*words):
        if words not in done:
            done[words] = tmp_path_factory.mktemp("runs") / str(len(done))
            assert script("train").main([str(pictures), "--out", str(done[words]), *words]) == 0
        return done[words]

    return of


def looked(out, pictures, part):
    """-> z (N, K) of a run's best.pt for a part, z of the mirrored pictures, labels (N,)"""
    model, _, size = load_trained(out / "best.pt")
    split = getattr(image_folder.load(pictures, size=size), part)
    ((x, y),) = loader(split, model.backbone.preprocess, batch_size=len(split))
    with torch.no_grad():
        return model(x).double(), model(x.flip(-1)).double(), y


def naive(z, y, w, smoothing):
    """Sum over examples and classes of the weighted targets' cross-entropy, over the sum of weights"""
    K, total = z.shape[1], 0.0
    for logits, k in zip(z.tolist(), y.tolist(), strict=True):
        norm = math.log(sum(math.exp(v) for v in logits))
        for c in range(K):
            target = (1 - smoothing) * (c == k) + smoothing / K
            total -= w[c] * target * (logits[c] - norm)
    return total / sum(w[k] for k in y.tolist())


def test_the_loss_is_weighted_and_smoothed_whatever_the_batches(pictures, trained):
    out = trained(*PROBE, "--class-weights", "--label-smoothing", "0.2", "--best-by", "loss")
    counts = image_folder.load(pictures, size=33).train.labels.bincount().tolist()
    assert len(set(counts)) == 3
    w = [1 / n for n in counts]
    best = min(table(out / "log.csv"), key=lambda row: float(row["val_loss"]))
    (tested,) = table(out / "test.csv")
    assert tested["epoch"] == best["epoch"]
    for part, loss in (("val", best["val_loss"]), ("test", tested["test_loss"])):
        z, _, y = looked(out, pictures, part)
        assert float(loss) == pytest.approx(naive(z, y, w, 0.2), rel=1e-5)
        assert float(loss) != pytest.approx(naive(z, y, [1] * 3, 0.2), rel=1e-3)


def test_sampling_gives_each_class_as_often(pictures, tmp_path):
    train = script("train")
    words = [str(pictures), "--out", str(tmp_path), "--size", "33", "--batch", "5", "--class-sampling"]
    options = train.train_options.arguments(words, "")
    data = image_folder.load(pictures, size=33)
    batches, val, plain = train.loaders(options, data, load_preprocess(), train.Group())
    y = torch.cat([y for _ in range(60) for _, y in batches])
    shares = y.bincount().double() / len(y)
    assert (shares - 1 / 3).abs().max() < 0.05 and batches.redraws
    assert torch.cat([y for _, y in plain]).tolist() == data.train.labels.tolist()


def load_preprocess():
    from sftlib.backbones import load_backbone

    return load_backbone("squeezenet1_1", pretrained=False, size=33).preprocess


@pytest.mark.parametrize(
    "by, accuracies, losses, patience, best, ends",
    [
        ("accuracy", (0.5, 0.7, 0.7, 0.6), (1.0, 0.9, 0.8, 0.1), 1, 3, 4),
        ("accuracy", (0.5, 0.7, 0.7, 0.6), (1.0, 0.9, 0.9, 0.1), 2, 2, 4),
        ("loss", (0.5, 0.7, 0.7, 0.6), (1.0, 0.9, 0.8, 0.1), 1, 4, None),
        ("loss", (0.9, 0.7, 0.7, 0.6), (1.0, 1.0, 1.0, 1.0), 2, 1, 3),
        ("loss", (0.9, 0.7, 0.7, 0.6), (1.0, 1.1, 1.2, 1.3), None, 1, None),
    ],
)
def test_an_epoch_is_best_by_what_was_asked_and_the_run_ends_that_long_after_it(
    by, accuracies, losses, patience, best, ends
):
    log = [[i + 1, 0.1, 0.9, 7, b, a, 5] for i, (a, b) in enumerate(zip(accuracies, losses, strict=True))]
    options = SimpleNamespace(best_by=by, patience=patience, epochs=9)
    assert train_end.best(log, by)[0] == best
    over = [train_end.is_over(log[:n], options) for n in range(5)]
    assert over == [ends is not None and n >= ends for n in range(5)]
    assert train_end.is_over(log, SimpleNamespace(best_by=by, patience=None, epochs=4))


def test_patience_ends_a_run_and_a_resume_does_not_go_on(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(train_end, "best", lambda log, by: log[0])
    train = script("train")
    train.main([str(pictures), "--out", str(tmp_path), *PROBE, "--epochs", "9", "--patience", "2"])
    assert [row["epoch"] for row in table(tmp_path / "log.csv")] == ["1", "2", "3"]
    assert table(tmp_path / "test.csv")[0]["epoch"] == "1"
    before = (tmp_path / "last.pt").read_bytes()
    script("train").main(["--out", str(tmp_path), "--resume"])
    assert len(table(tmp_path / "log.csv")) == 3 and (tmp_path / "last.pt").read_bytes() == before


def test_the_temperature_is_that_of_the_validation_pictures_and_goes_into_g(pictures, trained, tmp_path):
    plain, scaled = trained(*PROBE), trained(*PROBE, "--temperature")
    z, _, y = looked(plain, pictures, "val")
    T = torch.load(scaled / "best.pt", weights_only=True)["settings"]["temperature"]
    assert T == pytest.approx(temperature(z, y), rel=1e-5) and abs(T - 1) > 0.01
    assert torch.allclose(looked(scaled, pictures, "test")[0], looked(plain, pictures, "test")[0] / T, atol=1e-5)
    z, _, y = looked(plain, pictures, "test")
    (row,), (other,) = (table(out / "test.csv") for out in (scaled, plain))
    assert float(row["test_loss"]) == pytest.approx(naive(z / T, y, [1] * 3, 0), rel=1e-5)
    assert row["test_accuracy"] == other["test_accuracy"]
    assert (
        script("predict").main([str(scaled), str(pictures / "grey" / "3.png"), "--out", str(tmp_path / "p.csv")]) == 0
    )
    named = image_folder.load(pictures, size=33)
    where = next((part, getattr(named, part).names.index("grey/3.png")) for part in ("train", "val", "test")
                 if "grey/3.png" in getattr(named, part).names)  # fmt: skip
    p = (looked(plain, pictures, where[0])[0][where[1]] / T).softmax(0)
    found = table(tmp_path / "p.csv")[0]
    assert [float(found[c]) for c in sorted(CLASSES)] == pytest.approx(p.tolist(), abs=2e-5)


def test_two_looks_are_tested_and_predicted_when_asked_for(pictures, trained, tmp_path):
    out = trained(*PROBE, "--flips")
    z, mirrored, y = looked(out, pictures, "test")
    p = (z.softmax(1) + mirrored.softmax(1)) / 2
    (row,) = table(out / "test.csv")
    assert float(row["test_loss"]) == pytest.approx(-p[torch.arange(len(y)), y].log().mean().item(), rel=1e-5)
    assert float(row["test_accuracy"]) == pytest.approx((p.argmax(1) == y).double().mean().item())
    assert table(trained(*PROBE) / "test.csv")[0]["test_loss"] != row["test_loss"]
    names = image_folder.load(pictures, size=33).test.names
    words = [str(out), str(pictures), "--out", str(tmp_path / "p.csv"), "--flips"]
    assert script("predict").main(words) == 0
    rows = {row["file"]: row for row in table(tmp_path / "p.csv")}
    for name, wanted in zip(names, p.tolist(), strict=True):
        assert [float(rows[name][c]) for c in sorted(CLASSES)] == pytest.approx(wanted, abs=2e-5)


# --- stopped and resumed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [ALL, ("--class-sampling", "--temperature")], ids=["weights", "sampling"])
def test_killed_at_any_moment_and_resumed_ends_to_the_bit_as_if_never_stopped(more, pictures, trained, tmp_path):
    after = random.choice(["1 worker", "epoch 1/3", "epoch 2/3", "epoch 3/3"])
    words = ("--checkpoint-every", "1", "--strategy", "probe", *more)
    ended("train", signal.SIGKILL, after, pictures, "--out", tmp_path, *WORDS, *words)
    assert script("train").main([str(pictures), "--out", str(tmp_path), *WORDS, *words, "--resume"]) == 0
    assert_same_run(tmp_path, trained(*WORDS, *words))


@pytest.mark.parametrize("where", ["save_atomically", "temperature", "write"])
def test_stopped_at_its_end_and_resumed_it_is_calibrated_once(where, pictures, trained, tmp_path, monkeypatch):
    words = ("--checkpoint-every", "1", "--strategy", "probe", *ALL)
    own = getattr(train_end, where)

    def stops(*given, **named):
        if where == "save_atomically":  # after it
            own(*given, **named)
        raise KeyboardInterrupt

    train = script("train")
    monkeypatch.setattr(train_end, where, stops)
    with pytest.raises(KeyboardInterrupt):
        train.main([str(pictures), "--out", str(tmp_path), *WORDS, *words])
    monkeypatch.undo()
    assert not (tmp_path / "test.csv").exists()
    script("train").main(["--out", str(tmp_path), "--resume"])
    assert_same_run(tmp_path, trained(*WORDS, *words))


# --- a table of labels -----------------------------------------------------------------------------------------------


def labelled(pictures, root):
    """The same pictures in one folder, their labels in a table"""
    shutil.copytree(pictures, root / "all")
    rows = [
        f"all/{path.relative_to(pictures).as_posix()},{path.parent.name}" for path in sorted(pictures.rglob("*.png"))
    ]
    (root / "labels.csv").write_text("\n".join(["file,label", *rows]) + "\n")
    return root / "labels.csv"


def test_labels_come_from_a_table_and_a_resume_finds_it_again(pictures, tmp_path):
    path = labelled(pictures, tmp_path / "root")
    words = [str(tmp_path / "root"), "--labels", "labels.csv", "--out", str(tmp_path / "run"), *PROBE, "--epochs", "1"]
    script("train").main(words)
    _, classes, _ = load_trained(tmp_path / "run" / "best.pt")
    assert classes == ["dark", "grey", "light"]
    (row,) = table(tmp_path / "run" / "log.csv")
    (tested,) = table(tmp_path / "run" / "test.csv")
    assert int(row["train_n"]) + int(row["val_n"]) + int(tested["test_n"]) == 37
    train = script("train")
    train.write = interrupted
    words[words.index("--out") + 1] = str(tmp_path / "other")
    with pytest.raises(KeyboardInterrupt):
        train.main([*words, "--epochs", "2"])
    script("train").main(["--out", str(tmp_path / "other"), "--resume"])
    assert table(tmp_path / "other" / "log.csv")[0]["train_n"] == row["train_n"]
    shutil.rmtree(tmp_path / "other")
    with pytest.raises(KeyboardInterrupt):
        train.main([*words, "--epochs", "2"])
    path.write_text(path.read_text().replace("all/dark/3.png,dark", "all/dark/3.png,grey"))
    with pytest.raises(ValueError, match="got the place of a loader with data="):
        script("train").main(["--out", str(tmp_path / "other"), "--resume"])


def interrupted(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "line, words",
    [
        ("all/dark/99.png,dark", "named in line 39, is no picture file that is here"),
        ("all/dark/3.png", "line 39: got 1 columns; expected two, file and label"),
        ("all/dark/3.png,light", "has two labels, dark and light .line 39."),
        ("../x.png,dark", "line 39: file '../x.png': expected a path below the folder"),
    ],
)
def test_a_wrong_line_is_named_by_its_number_with_exit_code_2(line, words, pictures, tmp_path):
    path = labelled(pictures, tmp_path / "root")
    path.write_text(path.read_text() + line + "\n")
    out = tmp_path / "run"
    with pytest.raises(ValueError, match=words):
        script("train").main([str(tmp_path / "root"), "--labels", str(path), "--out", str(out), *PROBE])


def test_a_table_without_its_pictures_is_told_in_plain_words(tmp_path):
    done = run("train", "--labels", "labels.csv", "--out", tmp_path / "run")
    assert done.returncode == 2 and "got --labels without PICTURES" in done.stderr, done.stderr
