"""What a GPU would find out, on a machine without one.

In FakeTensorMode a tensor has a device, a shape and no values: an operation on tensors of two devices fails, and so
does reading a value, which would make a step wait. "lazy" stands in for the GPU, as autograd runs its backward pass
without a driver; "cuda" itself where no gradient is needed. Streams are played by a log that is read afterwards.
"""

import importlib.util
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import D, K, N, tiny_model
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from sftlib import metrics
from sftlib.adaptation import freeze
from sftlib.arithmetic import precision as measuring
from sftlib.backbones import load_backbone
from sftlib.backbones.preprocessing import Preprocess
from sftlib.datasets import PictureSplit, augment, loader, on_device
from sftlib.datasets.loading import Loader
from sftlib.features import extract
from sftlib.losses import balancers, features, margins, penalties, prototypes
from sftlib.losses.co_tuning import co_tuning
from sftlib.model import LinearHead, Model
from sftlib.runtime import Precision, out_of_memory
from sftlib.training import Controls, Objective, evaluate, fit, forward, measure_precision
from sftlib.training.parts import Kept


@contextmanager
def fake(device="lazy"):
    """Inside, what is built is on that device, except inside ``as_ever()``."""
    with FakeTensorMode(), torch.device(device):
        yield


def as_ever():
    """New tensors are on the CPU unless they are told, as where the library runs."""
    return torch.device("cpu")


def batch(n=N, side=5):
    return torch.randn(n, 3, side, side), torch.zeros(n, dtype=torch.long)


def steps(model, optimizer, count=19, data=None, **settings):
    """Updates up to the first look at the losses, which is the twentieth"""
    records = fit(model, [data or batch()] * count, optimizer, epochs=1, **settings)
    with as_ever():
        return [record for _, record in zip(range(count), records, strict=False)]


# --- no step mixes devices, or waits ---------------------------------------------------------------------------


def test_the_stand_in_sees_what_a_gpu_would_refuse_and_wait_for():
    with fake():
        x, y = batch()
        for wait in (lambda: x.sum().item(), lambda: bool(x.sum() > 0), lambda: x.tolist()):
            with pytest.raises(DataDependentOutputException):
                wait()
        with pytest.raises(RuntimeError, match="[Dd]evice"):
            x + torch.zeros_like(x, device="cpu")
        model = tiny_model()
        F.cross_entropy(model(x), y).backward()
        assert {p.grad.device.type for p in model.parameters()} == {"lazy"}


@pytest.mark.parametrize("name", ["squeezenet1_1", "efficientnet_lite0", "resnet50"])
def test_a_run_of_each_kind_of_network_stays_on_the_device_and_never_waits(name):
    with fake():
        f = load_backbone(name, pretrained=False, size=64)
        model = Model(f, LinearHead(f.feature_dim, K))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        records = steps(model, optimizer, 3, batch(2, 64), schedule=lambda step: 1 / (step + 1), controls=Controls())
        assert [r.step for r in records] == [1, 2, 3] and records[-1].run.tally.examples == 6
        sums = [v for measure in records[-1].run.tally.measures.values() for v in vars(measure).values()]
        sums += [v for held in sums if isinstance(held, dict) for v in held.values()]
        tensors = [t for t in (*records[-1].losses, *sums) if isinstance(t, torch.Tensor)]
        assert len(tensors) == 8 and {t.device.type for t in tensors} == {"lazy"}
        with pytest.raises(DataDependentOutputException):
            records[-1].loss  # noqa: B018


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop])
def test_nineteen_steps_of_every_optimizer_with_penalty_and_frozen_part_never_wait(optimizer):
    with fake():
        model = tiny_model()
        freeze(model.backbone.conv)
        records = steps(
            model, optimizer([p for p in model.parameters() if p.requires_grad], lr=0.1),
            penalty=lambda model: model.head.weight.square().sum(),
        )  # fmt: skip
        assert len(records) == 19


def held(loss, *tensors, **settings):
    """A loss of (z, y) beside tensors of its own"""
    return lambda z, y: loss(z, y, *tensors, **settings)


FEATURE_LOSSES = {
    "center": lambda: features.CenterLoss(K, D, rate=0.3),
    "contrastive": lambda: held(features.supervised_contrastive, temperature=0.3),
    "learned prototypes": lambda: prototypes.LearnedPrototypes(K, D),
    "running prototypes": lambda: prototypes.RunningPrototypes(K, D),
    "one-hot": lambda: prototypes.ProjectedOneHot(K, D),
    "simplex": lambda: held(prototypes.cosine_prototype, prototypes.simplex_prototypes(K, D)),
    "arcface": lambda: held(margins.arcface, torch.randn(K, D), scale=7.0, margin=0.3),
    "cosface": lambda: held(margins.cosface, torch.randn(K, D), scale=7.0, margin=0.3),
    "shrinkage": lambda: lambda z, y: penalties.batch_spectral_shrinkage(z, k=2),
    "co-tuning": lambda: held(co_tuning, torch.rand(K, D)),
}


@pytest.mark.parametrize("name", FEATURE_LOSSES)
def test_no_feature_loss_leaves_the_device_or_waits(name, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *a, **k: nullcontext())  # which does not know the stand-in
    with fake():
        model, loss = tiny_model(), FEATURE_LOSSES[name]()
        own = list(loss.parameters()) if isinstance(loss, nn.Module) else []
        assert len(steps(model, torch.optim.SGD([*model.parameters(), *own], lr=0.1), 3, feature_loss=loss)) == 3


COMBINES = {
    "ratio": lambda: balancers.gradient_norm_ratio("backbone.conv.weight"),
    "uncertainty": balancers.UncertaintyWeights,
    "GradNorm": lambda: balancers.GradNorm("backbone.conv.weight"),
    "PCGrad": lambda: balancers.pcgrad,
}


@pytest.mark.parametrize("name", COMBINES)
def test_no_balancer_of_two_losses_leaves_the_device_or_waits(name):
    with fake():
        model, combine = tiny_model(), COMBINES[name]()
        own = list(combine.parameters()) if isinstance(combine, nn.Module) else []
        optimizer = torch.optim.SGD([*model.parameters(), *own], lr=0.1)
        assert len(steps(model, optimizer, 3, feature_loss=lambda z, y: z.square().sum(1).mean(), combine=combine)) == 3


@pytest.fixture
def with_bfloat16(monkeypatch):
    """Autocast asks the driver otherwise."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)


def test_bfloat16_on_cuda_gives_float32_losses_on_the_device(with_bfloat16):
    """Forward alone: autograd needs a driver for tensors on "cuda"."""
    with fake("cuda"), torch.no_grad():
        x, y = batch()
        model = tiny_model()
        with as_ever():
            outcome = forward(model, x, y, Objective(), Precision(torch.bfloat16, True))
        assert {(t.device.type, t.dtype) for t in (outcome.loss, outcome.output)} == {("cuda", torch.float32)}


# --- reading comes last ----------------------------------------------------------------------------------------


def counted(count, seen, device="cpu"):
    for i in range(count):
        seen.append(i)
        x, y = batch()
        yield x.to(device), y.to(device)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_evaluation_reads_its_sums_after_the_last_batch(device):
    seen = []
    with fake("cuda"):
        model = tiny_model()
        with as_ever(), pytest.raises(DataDependentOutputException):
            evaluate(model, counted(5, seen, device))
    assert seen == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("precision", [None, Precision(torch.bfloat16, True)])
def test_features_come_to_the_cpu_in_float32(precision, with_bfloat16):
    with fake("cuda"):
        backbone = tiny_model().backbone
        with as_ever():
            z, y = extract(backbone, list(counted(3, [], "cuda")), precision=precision)
    assert z.shape == (3 * N, D) and y.shape == (3 * N,)
    assert {z.device.type, y.device.type} == {"cpu"} and z.dtype is torch.float32


def test_calibration_of_what_lies_on_a_device_reads_once_and_mixes_nothing():
    with fake("cuda"):
        logits, y = torch.randn(N, K), torch.zeros(N, dtype=torch.long)
        with as_ever(), pytest.raises(DataDependentOutputException):
            metrics.expected_calibration_error(logits.softmax(1), y)


# --- the arithmetic is measured with whole batches -------------------------------------------------------------


@pytest.mark.parametrize("room, used", [(100, 23), (11, 11), (7, 5)])
def test_a_device_measures_with_the_whole_batch_or_what_memory_holds(room, used, monkeypatch):
    """With a few examples the time would be that of launching the kernels, and the same in every arithmetic."""
    seen = []

    def choose(step, examples, *, budget_s):
        step(Precision())
        return seen.append(examples) or examples

    def small(self, x):
        if len(x[0]) > room:
            raise torch.OutOfMemoryError(f"no room for {len(x[0])}")

    model = tiny_model().to("meta")
    model.backbone.register_forward_pre_hook(lambda self, x: small(self, x))
    monkeypatch.setattr(measuring, "choose_precision", choose)
    x, y = torch.empty(23, 3, 5, 5, device="meta"), torch.empty(23, device="meta").long()
    assert measure_precision(model, x, y) == used and seen == [used]


def test_an_error_that_is_not_of_memory_is_not_tried_again(monkeypatch):
    monkeypatch.setattr(measuring, "choose_precision", lambda *a, **k: (_ for _ in ()).throw(RuntimeError("other")))
    with pytest.raises(RuntimeError, match="other"):
        measure_precision(tiny_model().to("meta"), *(t.to("meta") for t in batch()))


# --- out of memory ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_second_try_has_the_memory_and_the_random_numbers_of_the_first(device, monkeypatch):
    log, backend = [], getattr(torch, device)
    monkeypatch.setattr(backend, "get_rng_state", lambda *where: torch.tensor([7]))
    monkeypatch.setattr(backend, "set_rng_state", lambda state, *where: log.append(("state", state.item(), *where)))
    monkeypatch.setattr(backend, "empty_cache", lambda: log.append("emptied"))
    where = torch.device(device)
    Kept([tiny_model()], where).restore()
    assert log == ["emptied", ("state", 7, *[where] * (device == "cuda"))]


def test_the_messages_of_devices_without_memory_are_known():
    """cuDNN's is what remains when each way of computing a convolution had none for its work space."""
    for said in (
        "CUDA out of memory. Tried to allocate 2.00 GiB", "MPS backend out of memory (MPS allocated: 9 GB)",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "CUDA error: out of memory",
        "GET was unable to find an engine to execute this computation",
    ):  # fmt: skip
        assert out_of_memory(RuntimeError(said)), said
    assert not out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))


# --- batches made ahead ----------------------------------------------------------------------------------------


def split_of(n, device="cpu"):
    pictures = torch.zeros(n, 3, 7, 7, dtype=torch.uint8, device=device)
    return PictureSplit(pictures, torch.zeros(n, dtype=torch.long, device=device), ("",) * n)


CUT = augment.Chain((augment.Crop(3), augment.flip, augment.rotate))


def ahead_of(split, device, change=CUT):
    return on_device.prefetch(
        loader(split, torch.Tensor.float, batch_size=5, shuffle=True, augment=change,
               generator=torch.Generator().manual_seed(7)), device,
    )  # fmt: skip


def test_nothing_is_sent_without_waiting_except_to_cuda(monkeypatch):
    """On MPS such a copy reads memory that may have been freed since: pytorch issues 139550 and 189690."""
    sent, to = [], torch.Tensor.to

    def log(self, *where, **how):
        sent.append(how.get("non_blocking", False))
        return to(self, *where, **how)

    monkeypatch.setattr(torch.Tensor, "to", log)
    model = tiny_model().to("meta")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for split in (split_of(13), split_of(13, "meta")):
        records = fit(model, ahead_of(split, "meta"), optimizer, epochs=1)
        assert [next(records).step for _ in range(2)] == [1, 2]
    assert len(sent) > 20 and not any(sent)


def test_preprocessing_on_cuda_sends_its_tables_without_waiting_for_the_step(monkeypatch):
    sent, to = [], torch.Tensor.to

    def log(self, *where, **how):
        if self.device.type == "cpu":
            sent.append(how.get("non_blocking", False))
        return to(self, *where, **how)

    monkeypatch.setattr(torch.Tensor, "to", log)
    monkeypatch.setattr(torch.Tensor, "new_tensor", None)  # which would wait
    with FakeTensorMode():
        preprocess = Preprocess(size=37, resize=37, mean=(0.2, 0.3, 0.5), std=(0.5, 0.3, 0.2))
        x = preprocess(torch.zeros(5, 3, 37, 37, dtype=torch.uint8, device="cuda"))
    assert x.device.type == "cuda" and sent == [True, True]


class Streams:
    """A stand-in for torch.cuda's streams: `log` has (what, stream that it was queued on, what it is about)."""

    def __init__(self, monkeypatch):
        self.log, self.now, self.made = [], self.new("step"), 0
        for name in ("Stream", "stream", "current_stream"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        to = torch.Tensor.to
        note = self.note
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda t, stream: note("keep", (t.data_ptr(), stream.name)))
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda t: note("pin", t.data_ptr()) or t)
        monkeypatch.setattr(
            torch.Tensor, "to",
            lambda t, where, **how: note("send", how) or t if "cuda" in str(where) else to(t, where, **how),
        )  # fmt: skip

    def note(self, what, about=None):
        self.log.append((what, self.now.name, about))

    def new(self, name):
        class Stream:
            device_index = 0

            def wait_stream(stream, other):
                self.log.append(("wait", stream.name, other.name))

            def wait_event(stream, event):
                self.log.append(("wait", stream.name, event))

            def record_event(stream):
                self.log.append(("event", stream.name, event := object()))
                return event

        Stream.name = name
        return Stream()

    def Stream(self, index, priority=0):
        self.made += 1
        return self.new("ahead")

    def current_stream(self, device):
        return self.now

    @contextmanager
    def stream(self, stream):
        before, self.now = self.now, stream
        yield
        self.now = before


@pytest.fixture
def streams(monkeypatch):
    on_device._side_stream.cache_clear()
    yield Streams(monkeypatch)
    on_device._side_stream.cache_clear()


def test_a_batch_is_made_on_the_side_and_kept_until_the_step_has_used_it(streams):
    def change(pictures, generator):
        streams.note("make")
        return pictures

    for x, y in ahead_of(split_of(13), "cuda", change):
        streams.note("use", (x.data_ptr(), y.data_ptr()))
    log = streams.log
    assert log[0] == ("wait", "ahead", "step")  # whoever wrote the pictures
    assert {stream for what, stream, _ in log if what in ("make", "pin", "send")} == {"ahead"}
    assert [about for what, _, about in log if what == "send"] == [{"non_blocking": True}] * 6
    events = [about for what, stream, about in log if what == "event" and stream == "ahead"]
    used = [i for i, (what, _, _) in enumerate(log) if what == "use"]
    assert len(events) == len(used) == 3
    for k, i in enumerate(used):
        x, y = log[i][2]
        # each given after waiting for its own event, and recorded with the stream of the step
        assert log[i - 3 : i] == [
            ("wait", "step", events[k]), ("keep", "step", (x, "step")), ("keep", "step", (y, "step")),
        ]  # fmt: skip
        made = [j for j, (what, _, _) in enumerate(log) if what == "make"]
        assert made[k] < log.index(("event", "ahead", events[k])) < i
        assert k == 2 or made[k + 1] < i < (made[k + 2] if k == 0 else len(log))  # one ahead, and no more


def test_the_rows_of_an_epoch_live_in_the_side_stream_that_reads_them(streams, monkeypatch):
    orders, order = [], Loader._rows
    monkeypatch.setattr(Loader, "_rows", lambda self: orders.append(streams.now.name) or order(self))
    list(ahead_of(split_of(13), "cuda"))
    assert orders == ["ahead"]


def test_all_epochs_and_loaders_share_one_side_stream(streams):
    """The allocator keeps freed memory by stream: each further stream would hold its own."""
    for _ in range(2):
        batches = ahead_of(split_of(13), "cuda")
        for _ in range(3):
            assert len(list(batches)) == 3
    assert streams.made == 1


# --- the benchmark ---------------------------------------------------------------------------------------------


def test_the_benchmark_leaves_out_a_loop_of_others_that_fails_but_not_ours(capsys):
    spec = importlib.util.spec_from_file_location("gpu", Path(__file__).parents[1] / "benchmarks" / "gpu.py")
    gpu = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gpu)

    def failing():
        raise RuntimeError("no kernel\nat all")
        yield

    cpu = torch.device("cpu")
    rates = gpu.best_rates({"timm": failing(), "ours": iter(range(100))}, 7, 2, 3, cpu)
    assert rates["timm"] != rates["timm"] and rates["ours"] > 0  # NaN
    assert "timm does not run here: RuntimeError: ['no kernel']" in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="no kernel"):
        gpu.best_rates({"ours": failing()}, 7, 2, 3, cpu)
