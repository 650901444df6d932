import os
import random

import pytest
import torch
import torch.nn.functional as F
from helpers import D, K, N, batches, plain_model, tiny_model
from torch import nn

from sftlib.model import LinearHead, Model, Standardise, Subsample, load_parts, save_parts
from sftlib.model.files import load_safely


def test_model_is_head_after_backbone():
    model = plain_model()
    x, _ = batches()[0]
    assert torch.equal(model(x), model.head(model.backbone(x)))


def test_linear_head_is_z_times_w_transposed_plus_b():
    head, z = LinearHead(D, K), torch.randn(N, D)
    by_hand = torch.stack([sum(z[:, d] * head.weight[k, d] for d in range(D)) + head.bias[k] for k in range(K)], 1)
    torch.testing.assert_close(head(z), by_hand)


def test_standardised_features_have_mean_0_and_the_stated_deviation_and_new_ones_are_moved_alike():
    z = torch.randn(N, D) * torch.linspace(0.1, 3, D) + 5
    layer, spread = Standardise(z.requires_grad_()), z.detach().numpy().std(0, ddof=1)
    assert not layer(z).mean(0).abs().gt(1e-5).any() and not list(layer.parameters())
    expected = torch.from_numpy(spread / (spread + 0.1 * spread.mean()))
    torch.testing.assert_close(layer(z).detach().std(0), expected)
    assert torch.equal(layer(z[:1]), layer(z)[:1]) and not layer.mean.requires_grad
    with pytest.raises(ValueError, match=r"got features of shape \(7,\)"):
        Standardise(torch.zeros(7))


def test_subsampling_takes_means_and_is_blind_to_padding():
    h, lengths = torch.rand(3, 13, 5), torch.tensor([13, 7, 9])
    thin, n = Subsample(4)((h, lengths))
    assert thin.shape == (3, 3, 5) and n.tolist() == [3, 1, 2]
    torch.testing.assert_close(thin[0, 1], sum(h[0, t] for t in (4, 5, 6, 7)) / 4)
    for i, length in enumerate(lengths.tolist()):
        alone, own = Subsample(4)((h[i : i + 1, :length], lengths[i : i + 1]))
        assert own.item() == alone.shape[1] == n[i]
        torch.testing.assert_close(alone[0], thin[i, : n[i]])
    assert torch.equal(Subsample(1)((h, lengths))[0], h)
    with pytest.raises(ValueError, match="got n=0; expected a whole number of frames"):
        Subsample(0)


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
    with pytest.raises(OSError, match="does not take the file .No space left on device.; what was there before"):
        save_parts(tiny_model(2), tmp_path)
    assert path.read_bytes() == old
    assert sorted(p.name for p in tmp_path.iterdir()) == ["backbone.pt", "head.pt"]


# --- f and g on disk --------------------------------------------------------------------------------------------


def test_a_flipped_bit_in_a_part_is_refused_or_changes_nothing(tmp_path):
    model, flips = tiny_model(1), random.Random(7)
    path = save_parts(model, tmp_path)["head"]
    whole, refused = path.read_bytes(), 0
    for bit in (flips.randrange(8 * len(whole)) for _ in range(300)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        other = tiny_model(2)
        try:
            load_parts(other, tmp_path, backbone=False)
        except ValueError as error:
            refused += "head.pt" in str(error)
        else:
            assert all(torch.equal(a, b) for a, b in zip(other.head.parameters(), model.head.parameters(), strict=True))
    assert refused > 100


def test_f_and_g_of_different_saves_are_refused_together_and_taken_one_by_one(tmp_path):
    first, second, model = tiny_model(1), tiny_model(2), tiny_model(3)
    save_parts(first, tmp_path / "a")
    save_parts(second, tmp_path / "b")
    (tmp_path / "b" / "backbone.pt").replace(tmp_path / "a" / "backbone.pt")
    before = model.backbone.conv.weight.clone()
    with pytest.raises(ValueError, match=r"come from different saves.* head=False and the other with backbone=False"):
        load_parts(model, tmp_path / "a")
    assert torch.equal(model.backbone.conv.weight, before)
    load_parts(model, tmp_path / "a", head=False)
    load_parts(model, tmp_path / "a", backbone=False)
    assert torch.equal(model.backbone.conv.weight, second.backbone.conv.weight)
    assert torch.equal(model.head.weight, first.head.weight)


def test_a_save_that_ends_between_its_two_files_is_seen(tmp_path, monkeypatch):
    save_parts(tiny_model(1), tmp_path)
    replace = os.replace

    def ends_after_the_first(source, target):
        replace(source, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", ends_after_the_first)
    with pytest.raises(KeyboardInterrupt):
        save_parts(tiny_model(2), tmp_path)
    with pytest.raises(ValueError, match="come from different saves"):
        load_parts(tiny_model(3), tmp_path)


def test_parts_stay_plain_state_dicts_and_parts_of_an_old_save_fit_together(tmp_path):
    model = tiny_model(1)
    paths = save_parts(model, tmp_path)
    for name, path in paths.items():
        state = torch.load(path, weights_only=True)
        assert state.keys() == getattr(model, name).state_dict().keys()
        getattr(tiny_model(2), name).load_state_dict(state)
        torch.save(dict(state), path)  # without a mark
    load_parts(tiny_model(2), tmp_path)


def test_partial_files_of_killed_saves_go_with_the_next_save_and_younger_ones_stay(tmp_path):
    save_parts(tiny_model(1), tmp_path)
    old, young = tmp_path / "head.pt.123.partial", tmp_path / "backbone.pt.124.partial"
    for path, time in ((old, 1), (young, 2**33)):
        path.write_bytes(b"half")
        os.utime(path, (time, time))
    save_parts(tiny_model(1), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["backbone.pt", young.name, "head.pt"]


def test_links_stay_links(tmp_path):
    (tmp_path / "disk").mkdir()
    for name in ("backbone.pt", "head.pt"):
        (tmp_path / name).symlink_to(tmp_path / "disk" / name)
    model, other = tiny_model(1), tiny_model(2)
    save_parts(model, tmp_path)
    assert all((tmp_path / name).is_symlink() for name in ("backbone.pt", "head.pt"))
    load_parts(other, tmp_path / "disk")
    assert torch.equal(other.head.weight, model.head.weight)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
@pytest.mark.parametrize("name", ["head.weight", "backbone.conv.weight", "backbone.norm.running_mean"])
def test_parts_that_are_not_finite_are_refused_by_name_unless_asked(name, value, tmp_path):
    model = tiny_model(1)
    save_parts(model, tmp_path)
    before = [path.read_bytes() for path in sorted(tmp_path.iterdir())]
    model.state_dict()[name].view(-1)[3:5] = value
    if name.endswith("running_mean") and value != value:  # a mask in a buffer may be infinite
        with pytest.raises(FloatingPointError, match="running_mean"):
            save_parts(model, tmp_path)
    if not name.endswith("running_mean"):
        with pytest.raises(FloatingPointError, match=f"1 value.* not finite: {name}.*allow_nonfinite=True"):
            save_parts(model, tmp_path)
        assert [path.read_bytes() for path in sorted(tmp_path.iterdir())] == before
    save_parts(model, tmp_path, allow_nonfinite=True)
    load_parts(tiny_model(2), tmp_path)


@pytest.mark.parametrize(
    "wrap, words",
    [
        (lambda state: [state], "holds a list; expected the state_dict of a module"),
        (lambda state: state["weight"], "holds a Tensor; expected the state_dict"),
        (lambda state: {"state_dict": dict(state), "epoch": 3}, "holds a dict under 'state_dict' among 2 entries"),
        (lambda state: {f"module.{k}": v for k, v in state.items()}, r"differ by 'module' \(of DataParallel"),
        (lambda state: {f"_orig_mod.{k}": v for k, v in state.items()}, r"'_orig_mod' \(of torch.compile\) alone"),
        (lambda state: {f"module._orig_mod.{k}": v for k, v in state.items()}, "'module' .* and '_orig_mod' "),
        (lambda state: {f"other.{k}": v for k, v in state.items()}, "build the same architecture first"),
        (lambda state: {k: v.tolist() for k, v in state.items()}, "'bias' has shape list there and"),
        (lambda state: {k: v.to("meta") for k, v in state.items()}, "has shape .without values. there"),
    ],
)
def test_a_file_of_another_form_is_named(wrap, words, tmp_path):
    path = save_parts(tiny_model(1), tmp_path)["head"]
    torch.save(wrap(torch.load(path, weights_only=True)), path)
    model = tiny_model(2)
    before = model.head.weight.clone()
    with pytest.raises(ValueError, match=words):
        load_parts(model, tmp_path)
    assert torch.equal(model.head.weight, before)


def test_the_folder_given_for_the_model_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"got a \w+Path as model; expected save_parts\(model, folder\)"):
        save_parts(tmp_path, plain_model())
    assert list(tmp_path.iterdir()) == []
