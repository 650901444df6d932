"""Two workers that each hold half of every tensor (Gloo, loopback only) against one process, in one launch."""

from pathlib import Path

import pytest
import sharded_worker as worker
import torch
from helpers import plain_model, said
from launching import ALONE, CLOSE, assert_same_state, torchrun

from sftlib.training import Sharded, evaluate, fit, load_checkpoint, save_checkpoint

EITHER_WAY = [f"{name} {how}" for name in ("all", "AdamW", "tied") for how in ("from one", "again")]


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    return torchrun(Path(__file__).with_name("sharded_worker.py"), folder, monitor_s=5), folder


@pytest.fixture(scope="module")
def found(launched):
    process, folder = launched
    assert (folder / "1.pt").exists(), said(process)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def end_of(folder, name, file):
    """The checkpoint at the end of a run in shards, loaded into one process -> its state, and the optimizer's"""
    build, prepare, _, _, optimizer = worker.RUNS[name]
    model = prepare(build(7))
    optimizer = optimizer(model)
    load_checkpoint(folder / file, model, optimizer, exact=False)
    return model.state_dict(), optimizer.state_dict()["state"]


@pytest.fixture(scope="module")
def alone():
    """name -> state, optimizer's state and epochs of the run in one process"""
    ends = {}
    for name, (build, prepare, settings, batches, optimizer) in worker.RUNS.items():
        model = prepare(build(0))
        optimizer = optimizer(model)
        settings = {key: v for key, v in settings.items() if key != "micro_batch"}
        epochs = worker.result(model, optimizer, batches(), settings)["epochs"]
        ends[name] = model.state_dict(), optimizer.state_dict()["state"], epochs
    return ends


@pytest.mark.parametrize("name", worker.RUNS)
def test_shards_end_with_the_parameters_and_the_optimizer_of_one_process(launched, found, alone, name):
    state, kept = end_of(launched[1], name, f"{name}.pt.end")
    assert_same_state(state, alone[name][0], **CLOSE)
    for number, entry in kept.items():
        assert_same_state(entry, alone[name][1][number], **CLOSE)


@pytest.mark.parametrize("name", worker.RUNS)
def test_measures_are_those_of_all_examples(found, alone, name):
    for own in found:
        for mine, its in zip(own[name]["epochs"], alone[name][2], strict=False):
            assert mine == pytest.approx(its, rel=1e-5)
        assert own[name]["epochs"][-1]["n"] == worker.N  # of `evaluate`, after the last epoch


@pytest.mark.filterwarnings("ignore:evaluate. the loader gives augmented")
@pytest.mark.parametrize("name", worker.RUNS)
def test_an_evaluation_before_and_between_epochs_is_that_of_one_process_and_moves_nothing(found, name):
    build, prepare, settings, batches, _ = worker.RUNS[name]
    expected = evaluate(prepare(build(0)), batches(), terms=settings.get("terms", len))
    assert all(own[name]["before"] == pytest.approx(expected, rel=1e-5) for own in found)


@pytest.mark.parametrize("name", worker.RUNS)
def test_each_worker_holds_about_half(found, name):
    (first, whole), (second, _) = (own[name]["held"] for own in found)
    assert first + second == whole and 0.4 * whole < second <= first < 0.6 * whole


@pytest.mark.parametrize("name", EITHER_WAY)
def test_a_checkpoint_within_an_epoch_goes_on_in_shards_whoever_wrote_it(launched, found, alone, name):
    kind, _, how = name.partition(" ")
    file = {"from one": f"{kind}.back.pt.end", "again": f"{kind}.again.pt.end"}[how]
    assert_same_state(end_of(launched[1], kind, file)[0], alone[kind][0], **CLOSE)
    assert all(own[name]["epochs"][-2] == pytest.approx(alone[kind][2][-1], rel=1e-5) for own in found)


@pytest.mark.parametrize("name", ["all", "AdamW", "tied"])
def test_a_checkpoint_of_shards_goes_on_in_one_process(launched, found, alone, name):
    build, prepare, settings, batches, optimizer = worker.RUNS[name]
    model = prepare(build(5))
    optimizer, data = optimizer(model), batches()
    resume = load_checkpoint(launched[1] / f"{name}.pt", model, optimizer, exact=False)
    for _ in fit(model, data, optimizer, resume=resume, **settings):
        pass
    assert_same_state(model.state_dict(), alone[name][0], **CLOSE)


@pytest.mark.parametrize(
    "case, words",
    [
        ("parts", "got micro_batch=3 for batches of 7 in 2 workers, 2 parts in some and 1 in others"),
        ("validation", "got a last batch of 1 for 2 workers"),
        ("evaluation", "got a last batch of 1 for 2 workers"),
        ("optimizer", "no group of the optimizer holds it"),
        ("statistics", "would take BatchNorm statistics from the batch"),
    ],
)
def test_what_would_hang_or_train_nothing_is_refused_in_every_worker(found, case, words):
    assert all(words in own["refused"][case] for own in found)


def test_after_the_workers_have_parted_a_shard_computes_nothing(found):
    assert all("whose workers have parted" in own["parted"] for own in found)


def test_without_workers_it_is_the_model_itself(tmp_path):
    model = Sharded(plain_model(), ALONE)
    optimizer = worker.worker.sgd(model)
    records = list(fit(model, worker.pictures(), optimizer, **worker.SETTINGS))
    save_checkpoint(tmp_path / "run.pt", model, optimizer, epoch=records[-1])
    other = plain_model()
    for _ in fit(other, worker.pictures(), worker.worker.sgd(other), **worker.SETTINGS):
        pass
    assert_same_state(model.state_dict(), other.state_dict(), rtol=0, atol=0)
