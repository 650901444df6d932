import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from helpers import D, K, batches, plain_model, tiny_model

from sftlib.losses import CenterLoss, center, fixed_weight, supervised_contrastive
from sftlib.runtime import FLOAT32, out_of_memory
from sftlib.training import Objective, Step, fit
from sftlib.training.parts import Parts


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def to_origin(z, y):
    return z.square().sum(1).mean() / 2


def run(model, micro_batch=None, loader=None, **settings):
    settings = {"epochs": 2, "feature_loss": to_origin, "feature_weight": 0.3, "micro_batch": micro_batch} | settings
    records = list(fit(model, loader or batches(3), sgd(model), **settings))
    return [r for r in records if isinstance(r, Step)], records[-1]


def parameters(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


class Memory(torch.nn.Module):
    """A backbone for which more than `room` examples are too many from call `start` on"""

    def __init__(self, backbone, room, start=0, error=torch.OutOfMemoryError):
        super().__init__()
        self.backbone, self.room, self.start, self.error, self.sizes = backbone, room, start, error, []

    def forward(self, x):
        self.sizes.append(len(x))
        z = self.backbone(x)  # moves what a forward pass moves
        if len(x) > self.room and len(self.sizes) > self.start:
            raise self.error("CUDA out of memory. Tried to allocate 13 GiB\nand more")
        return z


def short(room, model=None, **settings):
    model = model or plain_model()
    model.backbone = Memory(model.backbone, room, **settings)
    return model


@pytest.mark.parametrize("size", [1, 2, 5, 13, 17])
def test_parts_of_any_size_give_the_update_and_the_records_of_the_whole_batch(size):
    whole, parts = plain_model(), plain_model()
    penalty = lambda model: model.head.weight.square().sum()  # noqa: E731
    steps, epoch = run(whole, penalty=penalty)
    others, other = run(parts, size, penalty=penalty)
    torch.testing.assert_close(parameters(whole), parameters(parts), rtol=1e-5, atol=1e-6)
    for a, b in zip(steps, others, strict=True):
        values = [(s.loss, s.task_loss, s.feature_loss) for s in (a, b)]
        assert values[0] == pytest.approx(values[1], rel=1e-5)
        torch.testing.assert_close(a.losses.task_loss, b.losses.task_loss, rtol=1e-4, atol=1e-5)
        assert (a.micro_batch, b.micro_batch) == (None, size)
    assert other.train == pytest.approx(epoch.train, rel=1e-5)


def test_the_gradient_is_the_one_that_one_example_after_the_other_gives():
    model, (x, y) = plain_model(), batches()[0]
    each = [
        torch.autograd.grad(F.cross_entropy(model(x[i : i + 1]), y[i : i + 1]), list(model.parameters()))
        for i in range(13)
    ]
    expected = [sum(gradients) / 13 for gradients in zip(*each, strict=True)]
    parts, optimizer = Parts(model, 5, Objective(), FLOAT32), torch.optim.SGD(model.parameters(), lr=0.0)
    parts.backward(x, y, parts.of(y), Objective(), optimizer)
    for p, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient)


def test_memory_that_runs_out_at_the_third_step_is_said_once_and_nothing_is_lost():
    model, from_the_start = short(4, start=2), plain_model()
    with pytest.warns(UserWarning, match=r"13 examples at once \(CUDA out .* 13 GiB\)\. From .* parts of 4") as said:
        steps, epoch = run(model)
    assert len(said) == 1
    assert [s.micro_batch for s in steps] == [None, None, 4, 4, 4, 4]
    _, other = run(from_the_start, 4)
    torch.testing.assert_close(parameters(model), parameters(from_the_start), rtol=1e-5, atol=1e-6)
    assert epoch.train == pytest.approx(other.train, rel=1e-5)
    assert model.backbone.sizes[:9] == [13, 13, 13, 7, 4, 4, 4, 1, 4]  # 13 → 7 → 4: tried as means, then computed


def test_a_batch_that_failed_is_computed_again_from_the_same_draws_and_buffers():
    """With room for the batch at once after all, the second attempt must equal one that never failed."""
    ends = []
    for fails in (False, True):
        model = tiny_model()
        model.backbone = Memory(model.backbone, room=0 if fails else 99, start=2)
        parts_of_whole = Parts._halve

        def forgive(parts, n, model=model):
            model.backbone.room = 99

        Parts._halve = forgive
        try:
            torch.manual_seed(5)
            run(model)
        finally:
            Parts._halve = parts_of_whole
        ends.append((parameters(model), model.backbone.backbone.norm.running_var, torch.rand(3)))
        assert len(model.backbone.sizes) == 6 + fails
    for a, b in zip(*ends, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("anything"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 7 bytes"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 7 bytes"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, expected):
    assert out_of_memory(error) is expected


def test_the_cpu_running_out_is_handled_and_other_errors_pass():
    with pytest.warns(UserWarning, match="parts of 7"):
        run(short(7, error=RuntimeError))
    model = plain_model()
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        run(model, loader=[(torch.zeros(13, 2), batches()[0][1])])


def test_too_little_memory_for_one_example_is_a_clear_error_and_moves_no_parameter():
    model = short(0)
    start = parameters(model)
    with pytest.raises(MemoryError, match="does not suffice for one example .*CUDA out of memory"):
        run(model)
    assert torch.equal(start, parameters(model))


def test_batchnorm_that_follows_the_batch_is_named():
    with pytest.warns(UserWarning, match="except that BatchNorm in train mode"):
        run(short(7, tiny_model()))


def contrastive(z, y):
    return supervised_contrastive(z, y, temperature=0.5)


def weighted(logits, y):
    return F.cross_entropy(logits, y, weight=torch.tensor([1.0, 2.0, 5.0]))


@pytest.mark.parametrize(
    ("losses", "name"),
    [
        ({"feature_loss": contrastive}, "feature_loss"),
        ({"task_loss": weighted}, "task_loss"),
        ({"feature_loss": CenterLoss(K, D)}, "feature_loss"),  # its centers move with every part
    ],
)
def test_losses_that_are_no_means_over_examples_cannot_be_cut(losses, name):
    losses, model = copy.deepcopy(losses), plain_model()
    start = parameters(model)
    with pytest.raises(ValueError, match=f"{name} of 13 examples is .* expected the same, a mean over examples"):
        run(model, 4, **losses)
    assert torch.equal(start, parameters(model))
    with pytest.raises(ValueError, match=rf"(?s)(^CUDA out of memory.*: |^){name} of 13 examples"):
        run(short(7), **losses)


def test_a_loss_with_state_that_rests_can_be_cut_and_trying_it_leaves_no_trace():
    centers = torch.nn.Parameter(torch.randn(K, D, generator=torch.Generator().manual_seed(2)))
    ends = []
    for size in (None, 4):
        model = plain_model()
        run(model, size, feature_loss=lambda z, y: center(z, y, centers))
        ends.append(parameters(model))
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-6)


def test_a_combine_and_a_wrong_size_are_refused_at_the_call():
    with pytest.raises(ValueError, match="got combine and a batch to be cut"):
        run(plain_model(), 4, combine=fixed_weight(0.5))
    for size in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match="got micro_batch="):
            run(plain_model(), size)


def test_a_batch_that_fits_is_not_cut_and_nothing_is_said():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = short(13)
        run(model, 13)
    assert model.backbone.sizes == [13] * 6


class Normalised(torch.nn.Module):
    """A feature loss with a BatchNorm of its own"""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(D, affine=False)

    def forward(self, z, y):
        return self.norm(z).square().mean()


def test_a_batchnorm_within_a_loss_needs_two_examples_too_unless_it_is_in_eval_mode():
    one = [(x[:1], y[:1]) for x, y in batches(2)]
    with pytest.raises(ValueError, match="got a batch of 1 example and norm, a BatchNorm in train mode"):
        run(plain_model(), loader=one, feature_loss=Normalised())
    run(plain_model(), loader=one, feature_loss=Normalised().eval())
