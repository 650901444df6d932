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

from sftlib import checkpoints, training
from sftlib.checkpoints import load_checkpoint
from sftlib.parallel import Group, Parallel, Shards, fit, save_checkpoint
from sftlib.parallel.checkpoints import of_worker
from sftlib.training import Step


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
    states, losses = ([part[name] for part in progress["workers"]] for name in ("generators", "loss"))
    assert not torch.equal(*(state["torch"] for state in states))  # dropout drew for slices of 3 and of 4
    assert [count for _, count in losses] == [3 + 3, 4 + 4] and progress["loss"][1] == 14
    assert progress["loss"][0] == losses[0][0] + losses[1][0]


# --- another number of workers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("parallel", [False, True])
def test_one_process_goes_on_from_what_two_workers_wrote(launched, found, one_process, parallel):
    model, data = plain_model(5), parallel_worker.batches(seed=7)
    optimizer = parallel_worker.sgd(model)
    resume = load_checkpoint(launched[1] / "plain.pt", model, optimizer)
    val, settings = parallel_worker.val_batches(), parallel_worker.SETTINGS
    if parallel:
        model, data, val = Parallel(model, ALONE), Shards(data, ALONE), Shards(val, ALONE)
    loop = fit if parallel else training.fit
    records = loop(model, data, optimizer, val_loader=val, resume=resume, **settings)
    require_close_end(parallel_worker.result(model, records), one_process, 6)


def test_two_workers_go_on_from_what_one_process_wrote(found, one_process):
    for own in found:
        require_close_end(own["after one process"], one_process, 6)


@pytest.mark.parametrize("world", [1, 3, 5, 13])
def test_measures_are_shared_out_whole_and_none_is_empty(world):
    progress = {"loader": {}, "batch": 2, "loss": (torch.tensor(7.5), 13), "hits": (torch.tensor(11), 13)}
    found = checkpoints.Checkpoint(0, None, None, {}, progress=progress)
    own = [of_worker(found, Group(rank, world, torch.device("cpu"))).progress for rank in range(world)]
    for name, total in (("loss", 7.5), ("hits", 11)):
        sums, counts = zip(*(part[name] for part in own), strict=True)
        assert float(sum(sums)) == pytest.approx(total) and sum(counts) == 13 and min(counts) >= 1
        assert all(s.dtype == progress[name][0].dtype for s in sums)


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


def test_what_one_of_several_workers_would_write_is_refused(launched, found):
    for own in found:
        assert "expected sftlib.parallel.save_checkpoint in each" in own["refused"][0]
    assert not (launched[1] / "no.pt").exists()


def test_workers_that_go_on_from_different_places_are_told(found):
    for own in found:
        assert "the workers differ in their place in the epoch (here " in own["refused"][1]


def test_a_run_whose_loader_did_not_say_where_it_was_is_refused(tmp_path):
    model = plain_model()
    optimizer = parallel_worker.sgd(model)
    step = next(iter(training.fit(model, batches(4), optimizer, epochs=1)))
    checkpoints.save_checkpoint(tmp_path / "list.pt", model, optimizer, step=step)
    found = load_checkpoint(tmp_path / "list.pt", model, optimizer)
    with pytest.raises(ValueError, match="whose loader did not say where it was; expected .* sftlib.datasets.loader"):
        fit(Parallel(model, ALONE), Shards(parallel_worker.batches(), ALONE), optimizer, epochs=3, resume=found)
    with pytest.raises(ValueError, match="got a int as resume"):
        fit(Parallel(model, ALONE), Shards(parallel_worker.batches(), ALONE), optimizer, epochs=3, resume=3)


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
    model.group = Group(0, 2, torch.device("cpu"))
    monkeypatch.setattr(torch.distributed, "all_gather_object", broken)
    with pytest.raises(RuntimeError, match=r"worker 0 lost contact .* after step 3: .* peer \[127.0.0.1\]:11\)$"):
        save_checkpoint(tmp_path / "last.pt", model, optimizer, step=step)
    assert not list(tmp_path.iterdir())


def model_that_fits():
    model = plain_model()
    model.backbone.append(worker.Full())
    return model, parallel_worker.sgd(model)
