"""The experiments of notebook 05: tables are whole, rows come out again, each regime trains what its name says."""

import pytest
import torch
from tables import assert_whole, experiment_fixtures
from torch import nn

from sftlib.adaptation import is_frozen, trainable
from sftlib.backbones import load_backbone
from sftlib.features import Cached
from sftlib.model import LinearHead, Model
from sftlib.runtime import FLOAT32

SIZES = {"mono": 226, "poly": 661, "corrupted": 113 * 5 * 2}
COUNTS = ("tn", "fp", "fn", "tp")


module, table = experiment_fixtures("regimes")


def test_the_table_holds_every_seed_of_every_regime(module, table):
    assert_whole(module, table)


def test_accuracies_follow_from_the_counts(table):
    for row in table:
        for kind, n in SIZES.items():
            tn, fp, fn, tp = (int(row[f"{kind}_{count}"]) for count in COUNTS)
            assert tn + fp + fn + tp == n
            assert abs(float(row[f"{kind}_accuracy"]) - (tn + tp) / n) < 1e-4
            assert abs(float(row[f"{kind}_balanced"]) - (tn / (tn + fp) + tp / (fn + tp)) / 2) < 1e-4
            assert 0 <= float(row[f"{kind}_ece"]) <= 1


def test_a_regime_has_one_choice_and_one_cost_for_all_seeds(module, table):
    for columns in (("lr", "l2"), ("trained", "memory_mb")):
        kinds = {(row["regime"], *(row[c] for c in columns)) for row in table}
        assert len(kinds) == len(module.ROWS)
    assert {row["alpha"] for row in table if row["regime"] == "interpolation 0.25"} == {"0.25"}


def test_the_more_is_frozen_the_less_is_kept(table):
    depths = ("full", "above stem", "above stage1", "above stage2", "above stage3", "head only")
    of = {row["regime"]: row for row in table if row["seed"] == "0"}
    for column in ("trained", "memory_mb"):
        values = [float(of[name][column]) for name in depths]
        assert values == sorted(values, reverse=True) and len(set(values)) == len(depths)


@pytest.mark.parametrize("regime", ["probe", "head only"])
def test_a_row_of_the_table_comes_out_again(module, table, monkeypatch, regime):
    row = next(r for r in table if (r["regime"], r["seed"]) == (regime, "0"))
    monkeypatch.setattr(module, "choose", lambda regime: float(row["lr"]))
    monkeypatch.setattr(module, "choose_l2", lambda: float(row["l2"]))
    few = module.mono().test.subset(torch.arange(7))  # instead of 1,130 corrupted pictures: half of the time
    monkeypatch.setattr(module, "corruptions", lambda: dict.fromkeys(module.CORRUPTIONS, [few]))
    threads = torch.get_num_threads()
    new = module.run({"regime": regime}, 0)
    torch.set_num_threads(threads)
    assert str(new["trained"]) == row["trained"] and abs(new["memory_mb"] - float(row["memory_mb"])) < 0.01
    for part, close in (("val", 0.02), ("mono_balanced", 0.02), ("poly_balanced", 0.03)):
        assert abs(new[part] - float(row[part])) < close, part  # rounding on another machine may turn a few pictures


ALL = ("stem", "stage1", "stage2", "stage3", "stage4")
TRAINED = {
    "full": ALL,
    "LP-FT": ALL,
    "from scratch": ALL,
    "discriminative": ALL,
    "layer-wise decay": ALL,
    "LoRA": ALL,
    "biases": ALL,
    "gradual": (),  # in the first epoch
    "above stem": ALL[1:],
    "above stage1": ALL[2:],
    "above stage2": ("stage3", "stage4"),
    "above stage3": ("stage4",),
    "head only": (),
    "stem alone": ("stem",),
    "stage2 alone": ("stage2",),
}


def test_each_regime_trains_the_stages_that_it_names_and_the_head(module):
    assert set(TRAINED) == set(module.GUESS)
    for regime, stages in TRAINED.items():
        model = Model(load_backbone("squeezenet1_1", size=96), LinearHead(512, 2))
        groups = module.groups_of(regime, model, 0.1)
        held = {id(p) for group in groups for p in group["params"]}
        assert held == {id(p) for p in trainable(model)}, regime
        assert tuple(s for s in ALL if trainable(getattr(model.backbone, s))) == stages, regime
        assert len(trainable(model.head)) == 2
        assert max(group["lr"] for group in groups) == pytest.approx(0.1)
        below = module.cut_of(regime)
        if below is not None:
            lower = ALL[: ALL.index(below) + 1] if below != "pool" else ALL
            assert all(is_frozen(getattr(model.backbone, s)) for s in lower), regime


def test_biases_are_vectors_and_lora_adds_matrices_of_rank_8(module):
    for regime, wanted in (("biases", lambda p: p.ndim == 1), ("LoRA", lambda p: p.ndim == 4 and 8 in p.shape[:2])):
        model = Model(load_backbone("squeezenet1_1", size=96), LinearHead(512, 2))
        module.groups_of(regime, model, 0.1)
        assert all(wanted(p) for p in trainable(model.backbone)), regime


def test_gradual_trains_one_stage_more_each_epoch_from_the_top(module):
    torch.manual_seed(0)
    f = nn.Sequential()
    for stage in ALL:
        f.add_module(stage, nn.Linear(3, 3))
    model = Model(f, LinearHead(3, 2))
    starts = [getattr(f, stage).weight.detach().clone() for stage in ALL]
    optimizer = torch.optim.Adam(module.groups_of("gradual", model, 0.1))
    batches = Cached(features=torch.randn(11, 3), labels=torch.arange(11) % 2, batch_size=11)
    moved = []
    for record in module.fit_gradually(model, batches, optimizer, 0.1):
        if hasattr(record, "val"):
            moved.append(
                [not torch.equal(getattr(f, s).weight, w) for s, w in zip(ALL, starts, strict=True)].count(True)
            )
    assert moved == [0, 1, 2, 3, 4, 5]


def test_interpolation_starts_at_the_probe_ends_at_the_tuned_and_chooses_on_validation(module, monkeypatch):
    ends = [nn.Linear(3, 2) for _ in range(2)]
    monkeypatch.setattr(module, "choose", lambda regime: 0.1)
    monkeypatch.setattr(module, "start", lambda regime, seed: (ends[0], 0.0))
    monkeypatch.setattr(module, "train", lambda regime, lr, seed: (ends[1], {"trained": 8}))
    monkeypatch.setattr(module, "score", lambda model: (0.5, (model.bias - ends[1].bias).abs().sum().item()))
    for regime, a in (("interpolation 0.25", 0.25), ("interpolation", 1.0)):
        (model, cost), alpha = module.interpolated(regime, seed=0)
        assert alpha == a and cost == {"trained": 8}
        assert torch.allclose(model.weight, (1 - a) * ends[0].weight + a * ends[1].weight)


def test_the_rate_climbs_while_validation_improves_and_one_that_breaks_is_the_worst(module, monkeypatch):
    losses = {3e-4: 0.5, 1e-3: 0.4, 3e-3: 0.45, 1e-4: 0.6}
    tried = []

    def train(regime, lr, seed):
        tried.append(lr)
        if lr == 3e-3:
            raise FloatingPointError("the loss is nan")
        return lr, None

    monkeypatch.setattr(module, "train", train)
    monkeypatch.setattr(module, "score", lambda lr: (0.0, losses[lr]))
    assert module.choose("full") == 1e-3
    assert sorted(tried) == [1e-4, 3e-4, 1e-3, 3e-3]  # each once


def test_memory_counts_each_tensor_kept_for_backward_once_and_no_weights(module, monkeypatch):
    monkeypatch.setattr(module, "PRECISION", FLOAT32)
    model = Model(nn.Sequential(nn.Linear(7, 5), nn.Tanh()), nn.Linear(5, 3))
    x, y = torch.randn(11, 7), torch.arange(11) % 3
    by_hand = 4 * 11 * (7 + 5 + 3) + 8 * 11  # x, the tanh (read by two layers), log-probabilities; labels
    assert abs(module.kept_for_backward(model, x, y) - by_hand) <= 16
    model.backbone.requires_grad_(False)
    assert abs(module.kept_for_backward(model, x, y) - (by_hand - 4 * 11 * 7)) <= 16


def test_the_test_pictures_are_no_training_pictures(module):
    mono = module.mono()
    train = {name for part in (mono.train, mono.val) for name in part.names}
    assert not train & {*mono.test.names, *module.poly().names}
    assert (len(mono.test), len(module.poly())) == (SIZES["mono"], SIZES["poly"])
    assert set(module.training_pictures(3).names) <= set(mono.train.names)
    assert module.training_pictures(3).names != module.training_pictures(4).names
