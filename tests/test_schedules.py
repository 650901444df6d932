import pytest
import torch

from sftlib.schedules import warmup_cosine


def rates_of_torch(scheduler_of, steps):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler, rates = scheduler_of(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_cosine_equals_torch_without_warmup():
    theirs = rates_of_torch(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 16, eta_min=0.1), 17)
    ours = warmup_cosine(17, final=0.1)
    assert [ours(i) for i in range(17)] == pytest.approx(theirs)


def test_warmup_rises_linearly_to_one_and_then_falls():
    factor = warmup_cosine(29, warmup=5)
    assert [factor(i) for i in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    rest = [factor(i) for i in range(5, 29)]
    assert rest[0] == 1 and rest[-1] == pytest.approx(0) and rest == sorted(rest, reverse=True)


def test_bad_arguments():
    for bad in (lambda: warmup_cosine(5, warmup=5), lambda: warmup_cosine(0)):
        with pytest.raises(ValueError, match="expected"):
            bad()
