"""tools/train.py in one process, and tools/predict.py: what a run keeps, refuses and says. Several workers:
tests/test_parallel.py."""

import csv
import re
import shutil

import pytest
import torch
from PIL import Image
from scripts import CLASSES, assert_same_run, draw_noise, run, script, table
from scripts import WORDS as COMMON

from sftlib.backbones import load_backbone
from sftlib.datasets import image_folder
from sftlib.model import LinearHead, Model
from tools import train_end

WORDS = (*COMMON, "--freeze")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return draw_noise(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def whole(pictures, tmp_path_factory):
    """A run that nothing stopped"""
    out = tmp_path_factory.mktemp("runs") / "whole"
    script("train").main([str(pictures), "--out", str(out), *WORDS])
    return out


def stopped(pictures, out, where, *more):
    """A run that ends with a KeyboardInterrupt where the script calls save_checkpoint or write in its epoch 2"""
    train, calls = script("train"), []
    own = getattr(train, where)

    def ends(*arguments, **named):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return own(*arguments, **named)

    setattr(train, where, ends)
    with pytest.raises(KeyboardInterrupt):
        train.main([str(pictures), "--out", str(out), *WORDS, *more])


@pytest.mark.parametrize("where", ["save_checkpoint", "write", "best"])
def test_a_run_stopped_anywhere_and_resumed_with_the_folder_alone_leaves_the_same_files(
    where, pictures, whole, tmp_path
):
    stopped(pictures, tmp_path, where)
    script("train").main(["--out", str(tmp_path), "--resume"])
    assert_same_run(tmp_path, whole)


def test_the_log_lost_between_two_writes_is_made_again_from_the_checkpoint(whole, tmp_path):
    out = shutil.copytree(whole, tmp_path / "run")
    (out / "log.csv").unlink()
    script("train").main(["--out", str(out), "--resume"])
    assert (out / "log.csv").read_text() == (whole / "log.csv").read_text()


def test_the_best_epoch_is_kept_and_it_alone_meets_the_test_pictures_once(pictures, whole, monkeypatch):
    log = table(whole / "log.csv")
    wanted = max(log, key=lambda row: (float(row["val_accuracy"]), -float(row["val_loss"])))["epoch"]
    (row,) = table(whole / "test.csv")
    state = torch.load(whole / "best.pt", weights_only=True)
    assert row["epoch"] == wanted == str(state["epoch"])
    f = load_backbone("squeezenet1_1", pretrained=False, size=33)
    model = Model(f, LinearHead(f.feature_dim, 3)).eval()
    model.load_state_dict(state["model"])
    test = image_folder.load(pictures, size=33).test
    with torch.inference_mode():
        right = model(f.preprocess(test.pictures)).argmax(1) == test.labels
    assert float(row["test_accuracy"]) == pytest.approx(right.float().mean().item())
    assert int(row["test_n"]) == len(test) > 2
    again = script("train")
    monkeypatch.setattr(train_end, "predict", None)
    again.main(["--out", str(whole), "--resume"])  # asks for nothing that is there


@pytest.mark.parametrize(
    "words, name",
    [
        (("--size", "35"), "--size 35"),
        (("--epochs", "2"), "--epochs 2"),
        (("--epochs", "4"), "--epochs 4"),
        (("--batch", "7"), "--batch 7"),
        (("--backbone", "efficientnet_lite0"), "--backbone efficientnet_lite0"),
        (("--seed", "4"), "--seed 4"),
        (("--warmup", "3"), "--warmup 3"),
        (("--random",), "--random True"),
        (("--strategy", "lora"), "--strategy lora"),
        (("--drop-last",), "--drop-last True"),
        (("--skip-broken",), "--skip-broken True"),
        (("--class-weights",), "--class-weights True"),
        (("--class-sampling",), "--class-sampling True"),
        (("--label-smoothing", "0.1"), "--label-smoothing 0.1"),
        (("--best-by", "loss"), "--best-by loss"),
        (("--patience", "2"), "--patience 2"),
        (("--flips",), "--flips True"),
        (("--temperature",), "--temperature True"),
    ],
)
def test_options_that_differ_from_the_runs_are_refused_by_name(words, name, whole):
    before = (whole / "last.pt").read_bytes()
    with pytest.raises(ValueError, match=f"got {name}.*is of a run with .*leave the option out"):
        script("train").main(["--out", str(whole), "--resume", *words])
    assert (whole / "last.pt").read_bytes() == before


def test_a_class_of_another_name_and_other_pictures_are_refused(pictures, whole, tmp_path):
    renamed = shutil.copytree(pictures, tmp_path / "renamed")
    (renamed / "dark").rename(renamed / "zero")
    out = tmp_path / "run"
    stopped(pictures, out, "save_checkpoint")
    with pytest.raises(ValueError, match=r"got classes \['grey', 'light', 'zero'\], and .* \['dark', 'grey', "):
        script("train").main([str(renamed), "--out", str(out), "--resume"])
    other = shutil.copytree(pictures, tmp_path / "other")
    for path in sorted(other.rglob("*.png")):
        with Image.open(path) as image:
            image.transpose(Image.Transpose.ROTATE_180).save(path)
    with pytest.raises(ValueError, match="got the place of a loader with data="):
        script("train").main([str(other), "--out", str(out), "--resume"])
    moved = shutil.copytree(pictures, tmp_path / "moved")
    script("train").main([str(moved), "--out", str(out), "--resume"])
    assert (out / "log.csv").read_text() == (whole / "log.csv").read_text()


def test_rates_that_change_at_a_resume_are_applied(pictures, whole, tmp_path):
    stopped(pictures, tmp_path, "save_checkpoint")
    script("train").main(["--out", str(tmp_path), "--resume", "--rate-g", "0.005"])
    (group,) = torch.load(tmp_path / "last.pt", weights_only=True)["optimizer"]["param_groups"]
    assert group["initial_lr"] == 0.005
    mine, its = table(tmp_path / "log.csv"), table(whole / "log.csv")
    assert mine[0] == its[0] and mine[2]["train_loss"] != its[2]["train_loss"]


def test_after_a_loss_that_is_not_finite_the_advice_can_be_followed(pictures, tmp_path):
    words = [pictures, "--size", "33", "--batch", "5", "--epochs", "3", "--warmup", "0", "--out", tmp_path]
    train = script("train")
    own = train.epochs

    def explodes(options, group, model, optimizer, *rest):
        for record in own(options, group, model, optimizer, *rest):
            yield record
            for entry in optimizer.param_groups:
                entry["initial_lr"] = 1e30

    train.epochs = explodes
    with pytest.raises(FloatingPointError, match=r"last.pt is of before that: .*--rate-f 0.0001 --rate-g 0.001"):
        train.main(list(map(str, words)))
    for name in ("last.pt", "best.pt"):
        state = torch.load(tmp_path / name, weights_only=True)
        assert state["epoch"] == 1 and all(v.isfinite().all() for v in state["model"].values())
    script("train").main(["--out", str(tmp_path), "--resume", "--rate-f", "0.0001", "--rate-g", "0.001"])
    assert [row["epoch"] for row in table(tmp_path / "log.csv")] == ["1", "2", "3"]


@pytest.mark.parametrize(
    "words, message",
    [
        (("--timeout", "-1"), "argument --timeout: got -1; expected a finite number above 0"),
        (("--timeout", "nan"), "argument --timeout: got nan"),
        (("--rate-g", "-0.1"), "argument --rate-g: got -0.1"),
        (("--rate-f", "inf"), "argument --rate-f: got inf"),
        (("--epochs", "0"), "argument --epochs: got 0; expected a whole number of at least 1"),
        (("--batch", "2.5"), "argument --batch: got 2.5"),
        (("--time-budget", "0"), "argument --time-budget: got 0; expected a finite number above 0"),
        (("--strategy", "lpft"), "argument --strategy: invalid choice: 'lpft'"),
        (("--seed", "-3"), "argument --seed: got -3"),
        (("--size", "3"), "train.py: .*at least 32"),
        (("--label-smoothing", "1"), "got 1; expected a finite number of at least 0 and at most 0.99"),
        (("--patience", "0"), "argument --patience: got 0"),
        (("--best-by", "f1"), "argument --best-by: invalid choice: 'f1'"),
        (("--class-weights", "--class-sampling"), "expected one: both would count rare classes twice"),
        (("--backbone", "squeeznet1_1"), "train.py: .*did you mean 'squeezenet1_1'"),
        (
            ("--backbone", "minilm_l6"),
            "train.py: got --backbone minilm_l6, which takes texts; expected",
        ),
        (("nowhere",), "train.py: .*nowhere.* does not exist"),
    ],
)
def test_bad_values_are_told_in_plain_words_with_exit_code_2(words, message, tmp_path, pictures):
    given = () if words[0] == "nowhere" else (pictures,)
    done = run("train", *given, *words, "--out", tmp_path / "run")
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert re.search(message, done.stderr), done.stderr
    assert not (tmp_path / "run" / "last.pt").exists()


def test_a_run_among_the_pictures_is_refused_and_leaves_nothing(pictures):
    for out in (pictures, pictures / "run", pictures / "dark" / ".." / "run"):
        with pytest.raises(ValueError, match="got --out .* within .*; expected a folder outside"):
            script("train").main([str(pictures), "--out", str(out)])
    assert sorted(p.name for p in pictures.iterdir()) == sorted(CLASSES)


def test_what_another_run_left_at_its_end_is_not_taken_for_this_ones(pictures, whole, tmp_path):
    out = shutil.copytree(whole, tmp_path / "run")
    (out / "last.pt").unlink()
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for more in ((), ("--resume",)):
        with pytest.raises(ValueError, match="test.csv is there, of another run.*expected a new folder"):
            script("train").main([str(pictures), "--out", str(out), *WORDS, *more])
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_file_in_the_place_of_the_run_is_told(pictures, tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(ValueError, match="got --out .*run, which is a file; expected a folder"):
        script("train").main([str(pictures), "--out", str(tmp_path / "run"), *WORDS])
    assert (tmp_path / "run").read_text() == "mine"


def test_a_run_that_is_there_is_refused_before_a_picture_is_read(pictures, whole, monkeypatch):
    train = script("train")
    monkeypatch.setattr(train.image_folder, "load", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(ValueError, match="is there already: --resume goes on from it, another --out keeps it"):
        train.main([str(pictures), "--out", str(whole), *WORDS])


# --- predict.py --------------------------------------------------------------------------------------------------


def test_a_folder_is_predicted_as_the_trained_model_does_on_its_own_pictures(pictures, whole, tmp_path):
    target = tmp_path / "predicted.csv"
    assert script("predict").main([str(whole), str(pictures), "--out", str(target), "--batch", "7"]) == 0
    rows = {row["file"]: row for row in table(target)}
    data = image_folder.load(pictures, size=33)
    state = torch.load(whole / "best.pt", weights_only=True)
    f = load_backbone("squeezenet1_1", pretrained=False, size=33)
    model = Model(f, LinearHead(f.feature_dim, 3)).eval()
    model.load_state_dict(state["model"])
    names = [name for split in (data.train, data.val, data.test) for name in split.names]
    with torch.inference_mode():
        p = model(f.preprocess(torch.cat([s.pictures for s in (data.train, data.val, data.test)]))).softmax(1)
    assert len(rows) == len(names) == 33 and list(next(iter(rows.values()))) == ["file", "class", *data.classes]
    for name, expected in zip(names, p, strict=True):
        row = rows[name]
        assert [float(row[c]) for c in data.classes] == pytest.approx(expected.tolist(), abs=2e-5)
        assert row["class"] == max(data.classes, key=lambda c, row=row: float(row[c]))


def test_a_single_file_nested_folders_and_broken_files(pictures, whole, tmp_path):
    done = run("predict", whole, pictures / "dark" / "3.png")
    assert done.returncode == 0, done.stderr
    header, row = csv.reader(done.stdout.splitlines())
    assert (header, row[0]) == (["file", "class", "dark", "grey", "light"], "3.png")
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    shutil.copy(pictures / "dark" / "3.png", deep / "é, 3.png")
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "empty.png").touch()
    (tmp_path / "notes.txt").write_text("not a picture")
    done = run("predict", whole, tmp_path)
    assert done.returncode == 1, done.stderr
    (again,) = csv.DictReader(done.stdout.splitlines())
    assert [again["file"], *list(again.values())[1:]] == ["a/b/é, 3.png", *row[1:]]
    assert "broken.jpg: " in done.stderr and "empty.png: an empty file" in done.stderr, done.stderr
    assert "notes" not in done.stderr, done.stderr


def test_what_cannot_be_predicted_is_told_in_plain_words(pictures, whole, tmp_path):
    (tmp_path / "run").mkdir()
    torch.save({"model": {}}, tmp_path / "run" / "best.pt")
    (tmp_path / "nothing").mkdir()
    for words, message in (
        ((tmp_path, tmp_path), "best.pt does not exist"),
        ((tmp_path / "run", tmp_path), "was not written by tools/train.py"),
        ((whole, tmp_path / "nowhere"), "does not exist; expected a picture"),
        ((whole, tmp_path / "nothing"), "no file has a picture's suffix"),
        ((whole, pictures, "--out", tmp_path / "gone" / "a.csv"), "lies in no folder that is there; expected a file"),
        ((whole, pictures, "--out", tmp_path), "which is a folder; expected a file"),
    ):
        done = run("predict", *words)
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_prediction_that_ends_early_leaves_the_table_of_before(error, pictures, whole, tmp_path, monkeypatch):
    predict, out = script("predict"), tmp_path / "predicted.csv"
    assert predict.main([str(whole), str(pictures), "--out", str(out)]) == 0 and len(table(out)) == 33
    before, own, calls = out.read_bytes(), predict.predicted, []

    def ends(*arguments, **named):
        calls.append(1)
        if len(calls) == 2:
            raise error
        return own(*arguments, **named)

    monkeypatch.setattr(predict, "predicted", ends)
    with pytest.raises(error):
        predict.main([str(whole), str(pictures), "--out", str(out), "--batch", "11"])
    assert out.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["predicted.csv"]
