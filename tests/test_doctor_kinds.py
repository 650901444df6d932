"""Sound set-ups of every kind, tuned in every way: nothing above a note. And how the report reads."""

import time

import pytest
import torch
import torch.nn.functional as F
from doctor_step_cases import CASES
from kinds import KINDS, fresh
from torch import nn
from torch.optim import SGD, AdamW

from sftlib.adaptation import (
    eval_stats_train_affine,
    freeze,
    geometric_rates,
    param_groups,
    train_biases_only,
    train_only,
    wrap_lora,
)
from sftlib.backbones import load_backbone
from sftlib.datasets import NestSplit, augment, loader, nest_loader, solar_cells
from sftlib.doctor import Finding, Findings, diagnose
from sftlib.model import LinearHead, Model
from sftlib.training import train_step


def full(model):
    return {"backbone": (model.backbone, 3e-3), "head": (model.head, 1e-2)}


def probe(model):
    freeze(model.backbone)
    return {"head": (model.head, 1e-2)}


def lora(model):
    wrap_lora(model.backbone, rank=2, alpha=4)
    return {"backbone": (model.backbone, 1e-2), "head": (model.head, 1e-2)}


def biases(model):
    train_biases_only(model.backbone)
    return {"backbone": (model.backbone, 1e-2), "head": (model.head, 1e-2)}


def top(model):
    """The uppermost part of f that has weights, and g"""
    parts = [part for part in model.backbone.children() if any(True for _ in part.parameters())]
    train_only(model.backbone, parts[-1])
    return {"top": (parts[-1], 3e-3), "head": (model.head, 1e-2)}


def by_depth(model):
    rates = geometric_rates(dict(model.backbone.named_children()), lr=3e-3, factor=2.6)
    return rates | {"head": (model.head, 1e-2)}


def after_probe(model):
    """LP-FT: the head is trained first, then all at a small rate"""
    return {"backbone": (model.backbone, 1e-4), "head": (model.head, 1e-4)}


STRATEGIES = {"full": full, "probe": probe, "LoRA": lora, "biases": biases, "top": top, "by depth": by_depth,
              "LP-FT": after_probe}  # fmt: skip


# An LSTM has no layer that LoRA wraps, and calls its biases otherwise; this Llama has none
IMPOSSIBLE = {("language model", "biases"), ("words in sound", "LoRA"), ("words in sound", "biases"),
              ("transcripts", "LoRA"), ("transcripts", "biases")}  # fmt: skip
SOUND = [(name, strategy) for name in KINDS for strategy in STRATEGIES if (name, strategy) not in IMPOSSIBLE]


def sound(name, strategy=full, optimizer=SGD, batch_size=4):
    """A set-up of a kind as `diagnose` takes it, its examples split in two"""
    kind = KINDS[name]()
    model, settings = kind.model(), fresh(kind)
    split = NestSplit(*kind.data())
    groups = strategy(model)
    groups |= {name: (part, 1e-2) for name, part in settings.items() if isinstance(part, nn.Module)}
    generator = torch.Generator().manual_seed(1)
    return {
        "model": model, "optimizer": optimizer(param_groups(**groups), lr=1e-3),
        "train_loader": nest_loader(split.subset(range(8)), batch_size=batch_size, shuffle=True, generator=generator),
        "val_loader": nest_loader(split.subset(range(8, 13)), batch_size=batch_size),
        "task_loss": settings.get("task_loss"), "feature_loss": settings.get("feature_loss"),
    }  # fmt: skip


@pytest.mark.parametrize("name, strategy", SOUND)
def test_a_sound_set_up_has_no_finding_above_a_note(name, strategy):
    for optimizer in (SGD, AdamW):
        found = diagnose(**sound(name, STRATEGIES[strategy], optimizer))
        assert found.mistakes == [], found


@pytest.mark.parametrize("name", KINDS)
def test_the_courses_own_step_is_sound(name):
    given = sound(name)
    kind = KINDS[name]()
    model, optimizer = given["model"], given["optimizer"]
    terms = {"terms": kind.settings["terms"]} if "terms" in kind.settings else {}
    task_loss = given.pop("task_loss") or F.cross_entropy

    def step(x, y):
        model.train()
        train_step(
            model, x, y, optimizer, task_loss=task_loss, feature_loss=given["feature_loss"], feature_weight=0.5,
            clip=1.0, **terms,
        )  # fmt: skip

    found = diagnose(**given, step=step)
    assert found.mistakes == [] and found.looked_at > 60, found


class Maps(nn.Module):
    """Outputs in a dict, as torchvision's segmenters give them"""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 5, 1)

    def forward(self, x):
        return {"out": self.layer(x)}


@pytest.mark.parametrize("task_loss", [F.cross_entropy, lambda output, y: F.cross_entropy(output["out"], y), None])
def test_a_loss_takes_outputs_in_a_dict_or_the_scores_in_it(task_loss):
    model = Maps()
    batches = [(torch.randn(4, 3, 7, 11), torch.randint(5, (4, 7, 11)))] * 2
    found = diagnose(model, SGD(model.parameters(), lr=0.1), train_loader=batches, task_loss=task_loss)
    assert found.mistakes == [] and not any("a step:" in words for words in found.not_looked_at), found


def test_pictures_and_boxes_by_zip_are_counted_as_examples():
    class Boxes(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, images, targets=None):
            means = torch.stack([self.layer(image.mean((1, 2))) for image in images])
            return {"box": means.pow(2).mean()} if self.training else means

    model = Boxes()
    data = [(torch.rand(3, 7 + i, 11), {"boxes": torch.rand(i, 4)}) for i in range(13)]
    batches = torch.utils.data.DataLoader(data, batch_size=5, collate_fn=lambda some: tuple(zip(*some, strict=True)))
    found = diagnose(model, SGD(model.parameters(), lr=0.1), train_loader=batches)
    assert found.mistakes == [] and not any("a step:" in words for words in found.not_looked_at), found


def test_a_schedule_that_begins_at_0_and_gathered_gradients_are_notes():
    model, x, y = nn.Linear(3, 2), torch.randn(5, 3), torch.tensor([0, 1, 0, 1, 0])
    optimizer, calls = SGD(model.parameters(), lr=0.1), []
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: epoch / 10)

    def step():
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        schedule.step()

    def gathering():
        F.cross_entropy(model(x), y).backward()
        calls.append(0)
        if len(calls) % 4 == 0:
            optimizer.step()
            optimizer.zero_grad()

    warm, gathered = diagnose(model, optimizer, step=step), diagnose(model, optimizer, step=gathering)
    assert warm.mistakes == [] and "rate_is_no_rate" in warm.codes and optimizer.param_groups[0]["lr"] == 0
    assert gathered.mistakes == [] and "optimizer_never_steps" in gathered.codes and calls == []


# --------------------------------------------------------------------------------------------------- real pictures


@pytest.fixture(scope="module")
def cells():
    return solar_cells.load()


def solar(cells, *, name="squeezenet1_1", strategy=full, size=128, augmented=True):
    f = load_backbone(name, size=size)
    model = Model(f, LinearHead(f.feature_dim, 2))
    if any(isinstance(m, nn.BatchNorm2d) for m in f.modules()):
        eval_stats_train_affine(f)
    flips = augment.Chain((augment.flip, augment.flip_vertical)) if augmented else None
    return {
        "model": model, "optimizer": SGD(param_groups(**strategy(model)), momentum=0.9),
        "train_loader": loader(cells.train, f.preprocess, batch_size=32, shuffle=True, augment=flips),
        "val_loader": loader(cells.val, f.preprocess, batch_size=32), "task_loss": F.cross_entropy,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["squeezenet1_1", "efficientnet_lite0"])
@pytest.mark.parametrize("strategy", ["full", "probe"])
def test_solar_cells_are_sound(cells, name, strategy):
    found = diagnose(**solar(cells, name=name, strategy=STRATEGIES[strategy]))
    assert found.mistakes == [], found


def test_the_look_takes_less_than_five_seconds(cells):
    """Computing time, so that a busy machine does not count"""
    given = solar(cells)
    start = time.process_time()
    diagnose(**given)
    assert time.process_time() - start < 5


def test_the_wrong_preprocessing_of_real_pictures_is_found(cells):
    given = solar(cells, augmented=False)
    wrong = load_backbone("efficientnet_lite0", size=128).preprocess
    given["train_loader"] = loader(cells.train, wrong, batch_size=32)
    found = diagnose(**given)
    assert {"pixel_scale", "pixel_mean_and_deviation"} & set(found.codes), found


# ------------------------------------------------------------------------------------------------------- the report


def report():
    return diagnose(**CASES["frozen_batchnorm_in_train_mode"][0]())


def test_the_report_reads_in_a_notebook_and_as_text():
    found = report()
    text, html = str(found), found._repr_html_()
    assert repr(found) == text and isinstance(found, list)
    for finding in found:
        for words in (finding.code, finding.sure):
            assert words in text and words in html
    assert "not looked at" in text and "Not looked at" in html and "needs step" in html
    assert html.count("<tr>") == 1 + len(found)


def test_names_cannot_write_into_the_page():
    html = Findings([Finding("code", "<script>", "a & b", "<b>", "note")])._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;" in html and "a &amp; b" in html


def test_the_surest_comes_first():
    found = Findings([Finding("a", "", "", "", "note"), Finding("b", "", "", "", "certain")])
    assert found.codes == ["b", "a"] and [f.code for f in found.mistakes] == ["b"]


def test_what_was_not_looked_at_is_said():
    model = nn.Linear(3, 2)
    found = diagnose(model, SGD(model.parameters(), lr=0.1))
    words = "\n".join(found.not_looked_at)
    for need in ("needs train_loader", "needs val_loader", "needs a loss", "needs step", "needs evaluate"):
        assert need in words
    assert "clip_before_unscale" in words


def test_bad_input_is_refused_with_words():
    model = nn.Linear(3, 2)
    optimizer = SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="expected a torch.nn.Module"):
        diagnose([model], optimizer)
    with pytest.raises(ValueError, match="expected a torch.optim.Optimizer"):
        diagnose(model, model.parameters())
    lazy = nn.LazyLinear(3)
    with pytest.raises(ValueError, match="give it one batch before"):
        diagnose(lazy, optimizer)
    with pytest.raises(ValueError, match="expected a function"):
        diagnose(model, optimizer, step=3)
    with pytest.raises(ValueError, match="without a train_loader"):
        diagnose(model, optimizer, step=lambda x, y: None)
    with pytest.raises(ValueError, match="expected one of certain, likely, note"):
        Finding("a", "", "", "", "sure")
