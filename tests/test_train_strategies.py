"""tools/train.py: every strategy, killed and resumed; Ctrl-C; a budget of time; broken files; --check."""

import random
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from scripts import WORDS, assert_same_run, draw_noise, ended, run, script, table

from sftlib.adaptation import LoRA
from sftlib.backbones import load_backbone
from sftlib.datasets import image_folder, loader
from sftlib.features import extract, linear_probe
from sftlib.strategies import STRATEGIES, assembled, groups, last_stage, load_trained, start_from_probe


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return draw_noise(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def wholes(pictures, tmp_path_factory):
    """strategy -> a run of it that nothing stopped"""
    done = {}

    def of(strategy):
        if strategy not in done:
            done[strategy] = tmp_path_factory.mktemp("runs") / strategy
            script("train").main([str(pictures), "--out", str(done[strategy]), *WORDS, "--strategy", strategy])
        return done[strategy]

    return of


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_killed_at_any_moment_and_resumed_every_strategy_ends_to_the_bit_as_if_never_stopped(
    strategy, pictures, wholes, tmp_path
):
    after = random.choice(["1 worker", "epoch 1/3", "epoch 2/3"])
    words = [pictures, "--out", tmp_path, *WORDS, "--strategy", strategy, "--checkpoint-every", "1"]
    ended("train", signal.SIGKILL, after, *words)
    words = [str(pictures), "--out", str(tmp_path), *WORDS, "--strategy", strategy, "--checkpoint-every", "1"]
    assert script("train").main([*words, "--resume"]) == 0
    assert_same_run(tmp_path, wholes(strategy))


def test_ctrl_c_ends_with_130_and_a_word_and_the_run_can_go_on(pictures, wholes, tmp_path):
    code, errors = ended("train", signal.SIGINT, "epoch 1/9", pictures, "--out", tmp_path, *WORDS, "--epochs", "9")
    assert code == 130 and errors.splitlines()[-1].startswith("train.py: stopped; --resume goes on"), errors
    assert "Traceback" not in errors, errors
    script("train").main(["--out", str(tmp_path), "--resume"])
    assert [row["epoch"] for row in table(tmp_path / "log.csv")] == list("123456789")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_trains_what_its_strategy_says_and_predict_rebuilds_it(strategy, pictures, wholes, tmp_path):
    out = wholes(strategy)
    model, classes, _ = load_trained(out / "best.pt")
    assert classes == ["dark", "grey", "light"]
    start = load_backbone("squeezenet1_1", size=33).state_dict()
    state = {name.replace(".base.", "."): v for name, v in model.backbone.cpu().state_dict().items()}
    moved = {name.split(".")[0] for name, v in start.items() if not torch.equal(v, state[name])}
    top = last_stage(model.backbone)
    stages = {"stem", "stage1", "stage2", "stage3", "stage4"}
    assert moved == {"probe": set(), "lora": set(), "partial": {top}, "full": stages, "lp-ft": stages}[strategy]
    lora = [m for m in model.backbone.modules() if isinstance(m, LoRA)]
    assert (strategy == "lora") == bool(lora) and all(m.B.abs().max() > 0 for m in lora)
    assert script("predict").main([str(out), str(pictures / "grey"), "--out", str(tmp_path / "p.csv")]) == 0
    assert len(table(tmp_path / "p.csv")) == 11


def test_the_start_from_a_probe_is_the_probe_of_least_validation_loss(pictures):
    data = image_folder.load(pictures, size=33)
    f = load_backbone("squeezenet1_1", size=33)
    model = assembled("lp-ft", f, 3)
    train, val = (loader(part, f.preprocess, batch_size=7) for part in (data.train, data.val))
    chosen = start_from_probe(model, train, val, l2=(0.3, 30.0))
    (z, y), (held_z, held_y) = extract(f, train), extract(f, val)
    heads = {l2: linear_probe(z, y, num_classes=3, l2=l2) for l2 in (0.3, 30.0)}
    losses = {l2: torch.nn.functional.cross_entropy(head(held_z), held_y).item() for l2, head in heads.items()}
    assert chosen == min(losses, key=losses.get)
    assert torch.equal(model.head.weight, heads[chosen].weight) and torch.equal(model.head.bias, heads[chosen].bias)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_batchnorm_of_a_strategy_keeps_its_statistics_and_groups_name_what_learns(strategy):
    f = load_backbone("efficientnet_lite0", pretrained=False, size=33)
    model = assembled(strategy, f, 3).train()
    before = {n: b.clone() for n, b in model.named_buffers() if "running" in n}
    model(torch.randn(5, 3, 33, 33))
    assert before and all(torch.equal(b, before[n]) for n, b in model.named_buffers() if "running" in n)
    named = {group["name"]: group["lr"] for group in groups(model, rate_f=0.1, rate_g=0.2)}
    assert named == ({"g": 0.2} if strategy == "probe" else {"f": 0.1, "g": 0.2})


def test_an_unknown_strategy_is_refused():
    with pytest.raises(ValueError, match="got the strategy 'frozen'; expected one of probe, partial, lora, full"):
        assembled("frozen", load_backbone("squeezenet1_1", pretrained=False, size=33), 3)


# --- a budget of time ----------------------------------------------------------------------------------------------


def planned(monkeypatch, pictures, seconds, step_s, epochs):
    """How many epochs the script plans, when each step takes so long by its clock"""
    train, now = script("train"), [0.0]
    train.BEGAN = 0.0
    own = train.fit

    def slow(*arguments, **named):
        for record in own(*arguments, **named):
            now[0] += step_s
            yield record

    train.fit = slow
    monkeypatch.setattr(train, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    words = [str(pictures), "--out", "unused", "--size", "33", "--batch", "5", "--time-budget", str(seconds)]
    options = train.train_options.arguments([*words, *(["--epochs", str(epochs)] if epochs else [])], "")
    data = image_folder.load(pictures, size=33)
    model, _ = train.build(options, 3)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    _, val, plain = train.loaders(options, data, model.backbone.preprocess, train.Group())
    found = train.planned(options, model, plain, val, train.FLOAT32)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    return found, len(plain) + len(val) / 2


@pytest.mark.parametrize("seconds, epochs", [(100, None), (100, 3), (1, None), (10_000, None)])
def test_as_many_epochs_are_planned_as_fit_into_the_time_and_nothing_moves(seconds, epochs, pictures, monkeypatch):
    found, steps = planned(monkeypatch, pictures, seconds, 0.5, epochs)
    fitting = int((0.85 * seconds - 5 * 0.5) / (0.5 * steps))
    assert found == max(1, min(fitting, epochs or 50))


def test_a_planned_run_is_resumed_with_its_plan(pictures, tmp_path, capsys):
    words = [str(pictures), "--out", str(tmp_path), "--size", "33", "--batch", "11", "--strategy", "probe"]
    train = script("train")
    train.planned = lambda *_: 2
    train.main([*words, "--time-budget", "7"])
    assert "2 epoch(s) fit into 7 s" in capsys.readouterr().out
    assert [row["epoch"] for row in table(tmp_path / "log.csv")] == ["1", "2"]
    again = script("train")
    again.planned = None
    again.main([*words, "--time-budget", "7", "--resume"])
    again.main(["--out", str(tmp_path), "--resume"])
    with pytest.raises(ValueError, match="got --time-budget 8.0, and .* is of a run with 7.0"):
        again.main([*words, "--time-budget", "8", "--resume"])


# --- broken files, last batches, --check -----------------------------------------------------------------------------


def test_broken_files_are_refused_by_name_or_left_out_and_named(pictures, tmp_path, capsys):
    root = shutil.copytree(pictures, tmp_path / "pictures")
    (root / "dark" / "broken.png").write_bytes(b"no picture")
    words = [str(root), "--out", str(tmp_path / "run"), *WORDS, "--strategy", "probe"]
    with pytest.raises(ValueError, match="dark/broken.png: no picture"):
        script("train").main(words)
    assert script("train").main([*words, "--skip-broken"]) == 0
    assert "left out: dark/broken.png: no picture" in capsys.readouterr().out
    assert len(table(tmp_path / "run" / "log.csv")) == 3


def test_what_lies_in_folders_of_one_name_stays_in_one_part_when_asked(pictures, tmp_path, capsys):
    root, train = tmp_path / "pictures", script("train")
    for path in pictures.rglob("*.png"):
        place = root / path.parent.name / f"day {int(path.stem) % 5}"
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    words = [str(root), "--out", str(tmp_path / "run"), *WORDS, "--strategy", "probe"]
    with pytest.raises(ValueError, match="holds the same folders as those beside it[^§]*--keep-folders for groups=…"):
        train.main(words)
    data = train.pictures(train.train_options.arguments([*words, "--keep-folders"], ""), print)
    days = [{name.split("/")[1] for name in part.names} for part in (data.train, data.val, data.test)]
    assert sum(map(len, days)) == len(set.union(*days)) == 5 and all(days)
    assert train.main([*words, "--keep-folders"]) == 0 and len(table(tmp_path / "run" / "log.csv")) == 3
    assert train.main(["--out", str(tmp_path / "run"), "--resume"]) == 0  # remembers it


def test_a_smaller_last_batch_can_be_left_out(pictures, tmp_path):
    words = [str(pictures), "--out", str(tmp_path), "--size", "33", "--batch", "11", "--epochs", "1", "--freeze"]
    script("train").main([*words, "--drop-last"])
    data = image_folder.load(pictures, size=33)
    (row,) = table(tmp_path / "log.csv")
    assert len(data.train) % 11 and int(row["train_n"]) == len(data.train) // 11 * 11
    assert int(row["val_n"]) == len(data.val)


def test_check_says_what_is_odd_trains_nothing_and_its_exit_code_tells(pictures, tmp_path):
    done = run("train", pictures, "--out", tmp_path / "run", "--size", "33", "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "33 pictures looked at" in done.stdout and "checks, " in done.stdout, done.stdout
    assert not (tmp_path / "run").exists()
    root = shutil.copytree(pictures, tmp_path / "pictures")
    with Image.open(root / "dark" / "3.png") as image:
        image.resize((82, 74), Image.Resampling.BICUBIC).save(root / "light" / "other.png")
    done = run("train", root, "--out", tmp_path / "run", "--size", "33", "--check")
    assert done.returncode == 1 and "copy in another class (1)" in done.stdout, done.stdout + done.stderr
