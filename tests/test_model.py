import pytest
import torch
import torch.nn.functional as F
from helpers import D, K, N, batches, plain_model, tiny_model
from torch import nn

from sftlib.model import LinearHead, Model, load_parts, load_safely, save_parts


def test_model_is_head_after_backbone():
    model = plain_model()
    x, _ = batches()[0]
    assert torch.equal(model(x), model.head(model.backbone(x)))


def test_linear_head_is_z_times_w_transposed_plus_b():
    head, z = LinearHead(D, K), torch.randn(N, D)
    by_hand = torch.stack([sum(z[:, d] * head.weight[k, d] for d in range(D)) + head.bias[k] for k in range(K)], 1)
    torch.testing.assert_close(head(z), by_hand)


def test_loss_at_zero_logits_is_log_k():
    head = LinearHead(D, K)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    loss = F.cross_entropy(head(torch.randn(N, D)), torch.randint(K, (N,)))
    assert loss.item() == pytest.approx(torch.log(torch.tensor(float(K))).item())


def test_gradient_reaches_every_parameter():
    model = tiny_model()
    x, y = batches()[0]
    F.cross_entropy(model(x), y).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_a_permuted_batch_gives_the_permuted_answer():
    model, (x, _) = tiny_model().eval(), batches()[0]
    order = torch.randperm(N)
    torch.testing.assert_close(model(x)[order], model(x[order]))


def test_head_refuses_features_that_are_not_flat():
    for shape in ((N, D, 1, 1), (N, D + 1), (D,)):
        with pytest.raises(ValueError, match=rf"expects \(N, {D}\)"):
            LinearHead(D, K)(torch.zeros(shape))


def test_sizes_and_parts_are_checked():
    with pytest.raises(ValueError, match="num_classes=0"):
        LinearHead(D, 0)
    with pytest.raises(ValueError, match="got a NoneType as head"):
        Model(nn.Identity(), None)


def test_f_and_g_saved_apart_and_recombined_give_the_same_bits(tmp_path):
    first, second, x = tiny_model(1).eval(), tiny_model(2).eval(), batches()[0][0]
    paths = save_parts(first, tmp_path / "new folder")
    assert sorted(p.name for p in paths.values()) == ["backbone.pt", "head.pt"]
    load_parts(second, tmp_path / "new folder")
    assert torch.equal(first(x), second(x))


def test_one_part_can_be_loaded_alone(tmp_path):
    first, second = tiny_model(1), tiny_model(2)
    head = second.head.weight.clone()
    save_parts(first, tmp_path)
    load_parts(second, tmp_path, head=False)
    assert torch.equal(second.backbone.conv.weight, first.backbone.conv.weight)
    assert torch.equal(second.head.weight, head)


def test_a_part_that_does_not_fit_changes_nothing(tmp_path):
    save_parts(tiny_model(1), tmp_path)
    model = Model(tiny_model(2).backbone, LinearHead(D, K + 2))
    before = model.backbone.conv.weight.clone()
    with pytest.raises(ValueError, match=r"'bias' has shape \(3,\) there and \(5,\) here"):
        load_parts(model, tmp_path)
    assert torch.equal(model.backbone.conv.weight, before)


def test_missing_truncated_and_foreign_files_are_named(tmp_path):
    model = tiny_model()
    with pytest.raises(ValueError, match="backbone.pt does not exist"):
        load_parts(model, tmp_path)
    path = save_parts(model, tmp_path)["head"]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="head.pt cannot be read"):
        load_parts(model, tmp_path)
    torch.save(nn.Linear(2, 2), path)  # a pickled module: would execute code
    with pytest.raises(ValueError, match="head.pt cannot be read"):
        load_safely(path)


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    model = tiny_model(1)
    path = save_parts(model, tmp_path)["backbone"]
    old = path.read_bytes()

    def full(state, file):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        save_parts(tiny_model(2), tmp_path)
    assert path.read_bytes() == old
    assert sorted(p.name for p in tmp_path.iterdir()) == ["backbone.pt", "head.pt"]
