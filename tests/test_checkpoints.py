import pytest
import torch
from helpers import D, K, N, TinyBackbone, batches, plain_model, tiny_model

from sftlib.adaptation import freeze, param_groups
from sftlib.checkpoints import load_checkpoint, save_checkpoint
from sftlib.model import LinearHead, Model
from sftlib.runtime import Precision
from sftlib.training import fit


class Shuffled:
    """A loader that draws its order from a generator, as the course's own does."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)
        (self.data,) = batches(1, n=N)

    def __len__(self):
        return 3

    def __iter__(self):
        order = torch.randperm(N, generator=self.generator)
        for part in order.split(5):
            yield self.data[0][part], self.data[1][part]


def everything(seed=0):
    model, loader = tiny_model(seed), Shuffled(seed)
    return model, torch.optim.AdamW(model.parameters(), lr=0.01), loader


def bits(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def test_a_run_resumed_after_an_epoch_ends_as_the_uninterrupted_one_to_the_bit(tmp_path):
    model, optimizer, loader = everything()
    torch.manual_seed(7)
    list(fit(model, loader, optimizer, epochs=4))
    expected = bits(model)

    model, optimizer, loader = everything()
    torch.manual_seed(7)
    list(fit(model, loader, optimizer, epochs=2))
    path = save_checkpoint(
        tmp_path / "run" / "last.pt", model, optimizer, epoch=2, generator=loader.generator, seed=7,
        precision=Precision(torch.bfloat16, True),
    )  # fmt: skip

    model, optimizer, loader = everything(seed=3)  # other weights, other order: all comes from the file
    torch.manual_seed(99)
    found = load_checkpoint(path, model, optimizer, generator=loader.generator)
    loader.data = Shuffled(0).data
    list(fit(model, loader, optimizer, epochs=4, first_epoch=found.epoch + 1))
    assert all(torch.equal(v, expected[k]) for k, v in model.state_dict().items())
    assert (found.epoch, found.seed, found.precision) == (2, 7, Precision(torch.bfloat16, True))
    assert found.versions["torch"] == torch.__version__


def test_a_feature_loss_with_state_travels_along(tmp_path):
    model, optimizer, _ = everything()
    centers = torch.nn.Linear(2, 3)
    path = save_checkpoint(tmp_path / "last.pt", model, optimizer, epoch=1, feature_loss=centers)
    other = torch.nn.Linear(2, 3)
    load_checkpoint(path, model, optimizer, feature_loss=other)
    assert torch.equal(centers.weight, other.weight)


def test_files_that_do_not_fit_are_named_and_change_nothing(tmp_path):
    model, optimizer, _ = everything()
    path = save_checkpoint(tmp_path / "last.pt", model, optimizer, epoch=1)
    other = Model(TinyBackbone(), LinearHead(D, K + 2))
    before = bits(other)
    with pytest.raises(ValueError, match="head.bias"):
        load_checkpoint(path, other, torch.optim.AdamW(other.parameters()))
    assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items())
    freeze(model.backbone)
    with pytest.raises(ValueError, match=r"groups of \[5\] tensors, here are \[2\]"):
        load_checkpoint(path, model, torch.optim.AdamW(param_groups(g=(model.head, 0.1))))


def test_foreign_newer_and_damaged_files_are_named(tmp_path):
    model, optimizer, _ = everything()
    path = save_checkpoint(tmp_path / "last.pt", model, optimizer, epoch=1)
    state = torch.load(path, weights_only=True)
    torch.save(state | {"format": 99}, tmp_path / "newer.pt")
    with pytest.raises(ValueError, match="format 99"):
        load_checkpoint(tmp_path / "newer.pt", model, optimizer)
    torch.save(plain_model().state_dict(), tmp_path / "foreign.pt")
    with pytest.raises(ValueError, match="no checkpoint of a run"):
        load_checkpoint(tmp_path / "foreign.pt", model, optimizer)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match="cannot be read"):
        load_checkpoint(path, model, optimizer)
