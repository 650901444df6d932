"""Two workers that stop anywhere and go on end, to the bit, as two that never stopped; another number, up to rounding.

One launch of tests/parallel_resume_worker.py, at whose end the memory of one worker runs out.
"""

import re
from pathlib import Path

import parallel_resume_worker as worker
import parallel_worker
import pytest
import torch
from helpers import batches, plain_model, said
from launching import ALONE, CLOSE, SAME, assert_same_state, torchrun

from sftlib.metrics import Accuracy
from sftlib.runtime import FLOAT32, Group
from sftlib.training import Controls, Objective, Parallel, Shards, Step, fit, load_checkpoint, save_checkpoint
from sftlib.training.parts import Parts
from sftlib.training.run import Run

NAMES = {"loss": ("total", "count"), "total": ("total", "count"), "accuracy": ("hits", "counted")}


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resumed")
    return torchrun(Path(__file__).with_name("parallel_resume_worker.py"), folder), folder


@pytest.fixture(scope="module")
def found(launched):
    process, folder = launched
    assert (folder / "1.pt").exists(), said(process)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.fixture(scope="module")
def one_process():
    return parallel_worker.in_one_process("all")


def require_same_end(own, whole, steps):
    assert_same_state(own["state"], whole["state"], **SAME)
    assert own["losses"] == whole["losses"][steps:]
    assert own["epochs"] == whole["epochs"][-len(own["epochs"]) :]  # measures of the broken epoch, to the bit


def require_close_end(own, expected, steps):
    assert_same_state(own["state"], expected["state"], **CLOSE)
    assert len(own["losses"]) == len(expected["losses"]) - steps
    for both in zip(own["epochs"], expected["epochs"][-len(own["epochs"]) :], strict=True):
        for mine, its in zip(*both, strict=True):
            assert (mine["n"], mine["accuracy"]) == (its["n"], its["accuracy"])
            assert mine["loss"] == pytest.approx(its["loss"], rel=1e-5)


# --- as many workers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [*worker.STOPS, "epoch 1"])
def test_stopped_anywhere_and_resumed_each_worker_ends_to_the_bit_as_if_never_stopped(found, place):
    for own in found:
        require_same_end(own[place], own["whole"], place if isinstance(place, int) else 4)


def test_the_parts_of_a_slice_are_in_the_file(found):
    for own in found:
        require_same_end(own["in parts"], own["whole in parts"], 6)


def test_the_file_holds_what_differs_between_workers(launched, found):
    progress = torch.load(launched[1] / "6.pt")["progress"]
    states, examples = ([part[name] for part in progress["workers"]] for name in ("generators", "examples"))
    assert not torch.equal(*(state["torch"] for state in states))  # dropout drew for slices of 3 and of 4
    assert examples == [3 + 3, 4 + 4] and progress["examples"] == 14
    for name, (total, counted) in NAMES.items():
        *own, whole = ([p["measures"][name][k] for k in (total, counted)] for p in (*progress["workers"], progress))
        assert [counts for _, counts in own] == examples and whole[1] == 14
        assert whole[0] == own[0][0] + own[1][0]


# --- another number of workers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("parallel", [False, True])
def test_one_process_goes_on_from_what_two_workers_wrote(launched, found, one_process, parallel):
    model, data = plain_model(5), parallel_worker.batches(seed=7)
    optimizer = parallel_worker.sgd(model)
    resume = load_checkpoint(launched[1] / "plain.pt", model, optimizer)
    val, settings = parallel_worker.val_batches(), parallel_worker.SETTINGS
    if parallel:
        model, data, val = Parallel(model, ALONE), Shards(data, ALONE), Shards(val, ALONE)
    records = fit(model, data, optimizer, val_loader=val, resume=resume, **settings)
    require_close_end(parallel_worker.result(model, records), one_process, 6)


def test_two_workers_go_on_from_what_one_process_wrote(found, one_process):
    for own in found:
        require_close_end(own["after one process"], one_process, 6)


@pytest.mark.parametrize("file", ["6.pt", "alone.pt"])
@pytest.mark.parametrize("world", [1, 2, 3, 5, 7])
def test_any_number_of_workers_takes_up_all_that_was_counted_once(launched, world, file):
    saved, runs = torch.load(launched[1] / file)["progress"], []
    for rank in range(world):
        data = Shards(parallel_worker.batches(seed=7), group := Group(rank, world, torch.device("cpu")))
        model = plain_model()
        model.group = group
        runs.append(Run(data, Parts(model, None, Objective(), FLOAT32), Accuracy, Controls()))
        assert len(list(runs[-1].resume(saved))) == 2  # of 4 batches
    assert sum(run.tally.examples for run in runs) == 14 == saved["examples"]
    for name, keys in NAMES.items():
        for key in keys:
            counted = sum(run.tally.measures[name].state().get(key, 0) for run in runs)
            assert float(counted) == pytest.approx(float(saved["measures"][name][key]), rel=1e-6) and counted > 0


# --- one worker through Parallel, and refusals -----------------------------------------------------------------


def test_one_process_saves_and_goes_on_by_the_same_calls(tmp_path, one_process):
    model, optimizer, records = worker.going(ALONE, plain_model, 0)
    for record in records:
        if isinstance(record, Step) and record.step == 7:
            path = save_checkpoint(tmp_path / "last.pt", model, optimizer, step=record, seed=11, settings={"a": 1})
            break
    model, _, records = worker.going(ALONE, plain_model, 5, path)
    require_same_end(parallel_worker.result(model, records), one_process, 7)
    said = load_checkpoint(path, plain_model(), optimizer)
    assert (said.seed, said.settings, said.epoch) == (11, {"a": 1}, 1)


def test_workers_that_go_on_from_different_places_are_told(found):
    for own in found:
        assert "the workers differ in their place in the epoch (here " in own["refused"]


@pytest.mark.parametrize("world", [1, 2])
def test_a_run_whose_loader_did_not_say_where_it_was_is_refused(tmp_path, world):
    model, group = plain_model(), Group(0, world, torch.device("cpu"))
    optimizer = parallel_worker.sgd(model)
    step = next(iter(fit(model, batches(4), optimizer, epochs=1)))
    save_checkpoint(tmp_path / "list.pt", model, optimizer, step=step)
    found = load_checkpoint(tmp_path / "list.pt", model, optimizer)
    model, data = Parallel(model, group), Shards(parallel_worker.batches(), group)
    with pytest.raises(ValueError, match="of a run with another kind of loader than this Shards .*build it as the run"):
        next(fit(model, data, optimizer, epochs=3, resume=found))
    with pytest.raises(ValueError, match="got a int as resume"):
        fit(model, data, optimizer, epochs=3, resume=3)


# --- memory runs out in one worker -----------------------------------------------------------------------------


def test_memory_that_runs_out_in_one_worker_ends_the_run_with_what_to_pass(launched):
    process, folder = launched
    assert process.returncode != 0, said(process)
    words = r"MemoryError: memory did not suffice for 4 examples .* micro_batch=2 or less"
    assert re.search(words, process.stderr), said(process)
    assert load_checkpoint(folder / "memory.pt", *model_that_fits()).progress["batch"] == worker.OUT_AT - 4
    assert "warning" not in process.stderr.lower(), said(process)


def test_a_worker_that_waits_in_save_checkpoint_for_one_that_is_gone_says_so(tmp_path, monkeypatch):
    def broken(parts, part):
        raise RuntimeError("Connection closed by peer [127.0.0.1]:11\nand more")

    model, optimizer, records = worker.going(ALONE, plain_model, 0)
    step = [next(records) for _ in range(3)][-1]
    step.run.group = Group(0, 2, torch.device("cpu"))
    monkeypatch.setattr(torch.distributed, "all_gather_object", broken)
    with pytest.raises(RuntimeError, match=r"worker 0 lost contact .* after step 3: .* peer \[127.0.0.1\]:11\)$"):
        save_checkpoint(tmp_path / "last.pt", model, optimizer, step=step)
    assert not list(tmp_path.iterdir())


def model_that_fits():
    model = plain_model()
    model.backbone.append(worker.Full())
    return model, parallel_worker.sgd(model)
