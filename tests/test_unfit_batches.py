"""What `fit` and `evaluate` say of losses, inputs and loaders that do not fit, of two runs at once, and of NaN."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers import K, N, batches, message, plain_model

from sftlib.datasets import loader, news
from sftlib.training import evaluate, fit


class Promising(list):
    """A loader that says another number of batches than it has"""

    def __init__(self, batches, promised):
        super().__init__(batches)
        self.promised = promised

    def __len__(self):
        return self.promised


def train(model, loader, **settings):
    return list(fit(model, loader, torch.optim.SGD(model.parameters(), lr=0.1), **({"epochs": 1} | settings)))


def swapped(output, y):
    return F.cross_entropy(y, output)


def complex_loss(output, y):
    return F.cross_entropy(output, y) * (1 + 0j)


def needs_wider(z, y):
    return (z @ z.new_zeros(z.shape[1] + 2, 3)).sum()


@pytest.mark.parametrize(
    "change, settings, words",
    [
        (lambda x, y: (x, y.float()), {"metric": None}, f"y ({N},) of torch.float32: the task_loss does not take them"),
        (lambda x, y: (x, y), {"task_loss": swapped}, f"got ({N}, {K}) of torch.float32 from the model, and y ({N},)"),
        (lambda x, y: (x, y), {"task_loss": complex_loss}, "task_loss of type torch.complex64; expected"),
        (lambda x, y: (x, y), {"feature_loss": needs_wider}, "the feature_loss does not take them"),
        (lambda x, y: ({"x": x}, y), {}, "got x as a dict, which the model does not take"),
    ],
)
def test_what_the_loss_or_the_model_cannot_take_is_named_before_anything_moves(change, settings, words):
    model = plain_model()
    before = [p.clone() for p in model.parameters()]
    changed = [change(x, y) for x, y in batches()]
    assert words in message(lambda: train(model, changed, **settings))
    assert all(map(torch.equal, before, model.parameters()))
    if "feature_loss" not in settings:
        assert words in message(lambda: evaluate(model, changed, **settings))


def test_an_error_of_the_losss_own_is_left_as_it_is():
    def own(output, y):
        raise RuntimeError("the table is not there")

    with pytest.raises(RuntimeError, match="the table is not there"):
        train(plain_model(), batches(), task_loss=own)


@pytest.mark.parametrize("promised, words", [(1, "more than 1 batches in epoch 1"), (3, "got 2 batches in epoch 1")])
def test_a_loader_that_gives_another_number_of_batches_than_its_len_is_refused(promised, words):
    assert words in message(lambda: train(plain_model(), Promising(batches(2), promised)))
    assert len(train(plain_model(), Promising(batches(2), 2))) == 3


def test_an_evaluation_whose_loss_is_nan_is_no_result():
    model, some = plain_model(), batches(3)
    some[1][0][2, 0, 0, 0] = math.nan
    with pytest.raises(FloatingPointError, match="mean loss of an evaluation is nan.*the parameters are finite"):
        evaluate(model, some)
    with pytest.raises(FloatingPointError, match="mean loss of an evaluation"):
        train(model, batches(), val_loader=some)
    with torch.no_grad():
        model.head.weight[1, 3] = math.inf
    with pytest.raises(FloatingPointError, match=r"head\.weight holds values that are not finite"):
        evaluate(model, batches())


def test_the_older_of_two_runs_of_one_model_ends_with_an_error():
    model, other = plain_model(), plain_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    older = fit(model, batches(), optimizer, epochs=1)
    next(older)
    train(other, batches())  # another model is none of its business
    newer = fit(model, batches(), optimizer, epochs=1)
    next(newer)
    with pytest.raises(ValueError, match="another fit has begun with this model since step 1"):
        next(older)
    assert len(list(newer)) == 2
    left = fit(model, batches(), optimizer, epochs=1)
    next(left)  # left, and never ended: the next run is not held up
    assert len(train(model, batches())) == 3


def test_a_loader_of_pictures_refuses_texts_and_names_the_other_one():
    with pytest.raises(ValueError, match="got a split of str; expected pictures.*nest_loader"):
        next(iter(loader(news.load().train, lambda x: x, batch_size=5)))
