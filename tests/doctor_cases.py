"""Set-ups for the doctor, as `diagnose` is given them: for each code two that it must find, and a sound twin."""

import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD, Adam, AdamW
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, WeightedRandomSampler

from sftlib.adaptation import freeze, merge_lora, wrap_lora
from sftlib.backbones import Preprocess
from sftlib.datasets import PictureSplit, augment, loader
from sftlib.losses import LearnedPrototypes

N, D, K = 53, 7, 3


def g(seed=0):
    return torch.Generator().manual_seed(seed)


def vectors(n=N, *, seed=0, classes=K, low=0):
    x = torch.randn(n, D, generator=g(seed))
    return x, torch.arange(n) % classes + low


def loader_of(*tensors, batch_size=8, shuffle=True, **more):
    return DataLoader(TensorDataset(*tensors), batch_size=batch_size, shuffle=shuffle, generator=g(5), **more)


def plain(out=K, seed=1):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(D, 11), nn.Tanh(), nn.Linear(11, out))


class Net(nn.Module):
    """A body with BatchNorm and dropout, and a head; in other people's style"""

    def __init__(self, classes=K, norm=True):
        super().__init__()
        torch.manual_seed(2)
        self.body = nn.Sequential(
            nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5) if norm else nn.Identity(), nn.ReLU(), nn.Dropout(0.1)
        )
        self.fc = nn.Linear(5, classes)

    def forward(self, x):
        return self.fc(self.body(x).mean((2, 3)))


def pictures(n=N, *, seed=0, side=19):
    return torch.randn(n, 3, side, side, generator=g(seed)), torch.arange(n) % K


def setup(model, optimizer=None, **more):
    trained = [p for p in model.parameters() if p.requires_grad] or list(model.parameters())
    return {"model": model, "optimizer": optimizer or SGD(trained, lr=0.05), **more}


def with_data(model, optimizer=None, **more):
    """The set-up with vectors, or pictures where the model takes them"""
    data = pictures() if isinstance(model, Net) else vectors()
    return setup(model, optimizer, train_loader=loader_of(*data), **more)


def changed(model, work):
    work(model)
    return model


def frozen_body(model, mode=None):
    model.body.requires_grad_(False)
    if mode is not None:
        model.train()
        model.body.train(mode)
    return model


# ------------------------------------------------------------------------------------------- parameters and optimizer


def optimizer_with(params, more, kind=SGD, **settings):
    optimizer = kind(params, lr=0.05, **settings)
    more(optimizer)
    return optimizer


def head_replaced(when_before: bool):
    model = plain()
    optimizer = SGD(model.parameters(), lr=0.05)
    model[2] = nn.Linear(11, K)
    return setup(model, optimizer if when_before else SGD(model.parameters(), lr=0.05))


def body_replaced():
    model = Net()
    optimizer = Adam(model.parameters(), lr=1e-3)
    model.body = copy.deepcopy(model.body)
    return setup(model, optimizer)


def frozen_and_held(stale: bool, kind=SGD, **settings):
    model = plain()
    if stale:
        model(vectors()[0]).sum().backward()
    model[0].requires_grad_(False)
    return setup(model, kind(model.parameters(), lr=0.05, **settings))


def frozen_and_not_held():
    model = plain()
    model[0].requires_grad_(False)
    return setup(model, SGD(model[2].parameters(), lr=0.05, momentum=0.9))


def prototypes(held: bool, *, by_name="feature_loss"):
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone, self.head = plain(5), nn.Linear(5, K)

        def cut(self, x):
            z = self.backbone(x)
            return z, self.head(z)

        def forward(self, x):
            return self.cut(x)[1]

    model, loss = Cut(), LearnedPrototypes(K, 5)
    groups = [{"params": model.parameters()}] + ([{"params": loss.parameters()}] if held else [])
    optimizer = SGD(groups, lr=0.01)
    if by_name == "feature_loss":
        told = {"task_loss": F.cross_entropy, "feature_loss": loss}
    else:

        def step(x, y):
            optimizer.zero_grad()
            z, output = model.cut(x)
            (F.cross_entropy(output, y) + loss(z, y)).backward()
            optimizer.step()

        told = {"step": step}
    return setup(model, optimizer, train_loader=loader_of(*vectors()), **told)


class Tied(nn.Module):
    def __init__(self, bias=False):
        super().__init__()
        torch.manual_seed(3)
        self.embedding, self.body = nn.Embedding(23, 5), nn.Linear(5, 5)
        self.out = nn.Linear(5, 23, bias=bias)
        self.out.weight = self.embedding.weight

    def forward(self, ids):
        return self.out(torch.tanh(self.body(self.embedding(ids)))).mean(1)


def tied(frozen, bias=False):
    """``frozen``: names of parts that require no gradient, the last words of "part: bool" """
    model = Tied(bias)
    for part, needs in frozen.items():
        model.get_submodule(part).requires_grad_(needs)
    return setup(model)


def lora(work):
    model = nn.Sequential(nn.Linear(D, 11), nn.Tanh(), nn.Linear(11, K))
    wrap_lora(model, rank=2, alpha=4)
    optimizer = SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    work(model)
    return setup(model, optimizer)


def zeros(model):
    nn.init.zeros_(model[0].A)


class PeftLinear(nn.Module):
    """A layer as peft names its parts"""

    def __init__(self, scaling):
        super().__init__()
        self.base_layer = nn.Linear(D, K).requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(D, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, K, bias=False)})
        self.scaling = {"default": scaling}


def one_rate(same: bool):
    model = plain()
    rates = [0.05, 0.05 if same else 0.5]
    groups = [{"params": model[i].parameters(), "lr": lr} for i, lr in zip((0, 2), rates, strict=True)]
    return setup(model, SGD(groups, lr=0.1), backbone=model[0], head=model[2])


PARAMETERS = {
    "nothing_trains": (
        lambda: setup(plain().requires_grad_(False)),
        lambda: setup(changed(Net(), freeze)),
        lambda: setup(changed(Net(), lambda m: freeze(m.body))),
    ),
    "trainable_not_in_optimizer": (
        lambda: setup((m := plain()), SGD(m[2].parameters(), lr=0.05)),
        lambda: head_replaced(True),
        lambda: head_replaced(False),
    ),
    "parameter_in_two_groups": (
        lambda: setup((m := plain()), optimizer_with(m.parameters(), lambda o: o.param_groups.append(
            {**o.param_groups[0], "params": list(m[2].parameters())}))),
        lambda: setup((m := plain()), optimizer_with(m.parameters(), lambda o: o.param_groups[0]["params"].append(
            m[2].weight))),
        lambda: setup((m := plain()), SGD([{"params": m[0].parameters()}, {"params": m[2].parameters()}], lr=0.05)),
    ),
    "frozen_parameter_in_optimizer": (
        lambda: frozen_and_held(True, momentum=0.9),
        lambda: frozen_and_held(False, AdamW, weight_decay=0.1),
        frozen_and_not_held,
    ),
    "parameters_of_a_replaced_part": (lambda: head_replaced(True), body_replaced, lambda: head_replaced(False)),
    "loss_parameters_not_in_optimizer": (
        lambda: prototypes(False),
        lambda: prototypes(False, by_name="step"),
        lambda: prototypes(True),
    ),
    "shared_parameter_half_frozen": (
        lambda: tied({"body": False}),
        lambda: tied({"embedding": False, "body": True}, bias=True),
        lambda: tied({"body": True}, bias=True),
    ),
    "requires_grad_set_on_a_module": (
        lambda: setup(changed(Net(), lambda m: setattr(m.body, "requires_grad", False))),
        lambda: setup(changed(plain(), lambda m: [setattr(layer, "requires_grad", False) for layer in m])),
        lambda: setup(changed(plain(), lambda m: m[0].requires_grad_(False))),
    ),
    "rate_is_no_rate": (
        lambda: setup((m := plain()), optimizer_with(m.parameters(), lambda o: o.param_groups[0].update(lr=-0.1))),
        lambda: setup((m := plain()), SGD(m.parameters(), lr=0.0)),
        lambda: setup((m := plain()), SGD(m.parameters(), lr=0.1)),
    ),
    "same_rate_for_backbone_and_head": (
        lambda: one_rate(True),
        lambda: setup((m := Net()), Adam(m.parameters(), lr=1e-3), backbone=m.body, head=m.fc),
        lambda: one_rate(False),
    ),
    "non_finite_parameters": (
        lambda: setup(changed(plain(), lambda m: m[0].weight.data[1].fill_(float("nan")))),
        lambda: setup(changed(Net(), lambda m: m.body[1].running_var.fill_(float("inf")))),
        lambda: setup(Net()),
    ),
    "non_finite_gradients": (
        lambda: setup(changed(plain(), lambda m: setattr(m[0].weight, "grad", torch.full((11, D), float("nan"))))),
        lambda: with_data(plain(), task_loss=lambda out, y: (out - out.detach()).norm(dim=1).sqrt().mean()),
        lambda: with_data(plain()),
    ),
    "lora_changes_nothing": (
        lambda: lora(lambda m: merge_lora(m)),
        lambda: setup(PeftLinear(0.0)),
        lambda: setup(PeftLinear(2.0)),
    ),
}  # fmt: skip

# ------------------------------------------------------------------------------------------------------------- modes


class Resetting(Net):
    """train() sets a part back, whatever the mode"""

    def train(self, mode=True):
        super().train(mode)
        self.body.train()
        return self


class Dropping(nn.Module):
    def __init__(self, training=None):
        super().__init__()
        torch.manual_seed(4)
        self.layers, self.mode = plain(), training

    def forward(self, x):
        return self.layers(F.dropout(x, 0.3, training=self.training if self.mode is None else self.mode))


def ordinary_step(model, optimizer, before=lambda model: None):
    def step(x, y):
        before(model)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def stepping(model, before=lambda model: None):
    optimizer = SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    return with_data(model, optimizer, step=ordinary_step(model, optimizer, before))


def evaluating(eval_first: bool, no_grad=True, model=None):
    model, x = model or Net(), pictures()[0]

    def evaluate():
        model.train(not eval_first)
        with torch.set_grad_enabled(not no_grad):
            model(x)
        model.train()

    return setup(model, evaluate=evaluate)


def epoch_right(model):
    model.train()
    model.body.eval()


def small_batches(size, n=N, model=None, **more):
    return setup(model or Net(), train_loader=loader_of(*pictures(n), batch_size=size, **more))


MODES = {
    "frozen_batchnorm_in_train_mode": (
        lambda: setup(frozen_body(Net(), True)),
        lambda: stepping(frozen_body(Net())),
        lambda: setup(changed(Net(), lambda m: freeze(m.body))),
    ),
    "freeze_undone_by_train": (
        lambda: setup(frozen_body(Net(), False)),
        lambda: stepping(frozen_body(Net(), False), lambda m: m.train()),
        lambda: stepping(frozen_body(Net(), False), epoch_right),
    ),
    "requires_grad_is_no_freeze": (
        lambda: setup(frozen_body(Net()).eval()),
        lambda: setup(nn.Sequential(frozen_body(Net()), nn.Linear(K, 2)).eval()),
        lambda: setup(changed(Net(), lambda m: freeze(m.body)).eval()),
    ),
    "dropout_in_a_frozen_part": (
        lambda: setup(frozen_body(Net(norm=False))),
        lambda: setup(nn.Sequential(nn.Sequential(nn.Linear(D, 5), nn.Dropout(0.2)).requires_grad_(False), plain(5))),
        lambda: setup(changed(Net(norm=False), lambda m: freeze(m.body))),
    ),
    "frozen_batchnorm_without_statistics": (
        lambda: setup(changed(Net(), lambda m: freeze(_without_statistics(m).body))),
        lambda: setup(frozen_body(_without_statistics(Net())).eval()),
        lambda: setup(changed(Net(), lambda m: freeze(m.body))),
    ),
    "eval_does_not_reach": (
        lambda: setup(Resetting()),
        lambda: setup(changed(Net(), lambda m: setattr(m.body[3], "train", lambda mode=True: m.body[3]))),
        lambda: setup(Net()),
    ),
    "random_in_eval_mode": (
        lambda: with_data(Dropping(True)),
        lambda: with_data(Resetting()),
        lambda: with_data(Dropping()),
    ),
    "eval_mode_in_training": (
        lambda: stepping(Net().eval()),
        lambda: stepping(nn.Sequential(nn.Linear(D, 11), nn.Dropout(0.2), nn.Linear(11, K)), lambda m: m.eval()),
        lambda: stepping(Net().eval(), lambda m: m.train()),
    ),
    "train_mode_in_evaluation": (
        lambda: evaluating(False),
        lambda: evaluating(False, no_grad=False),
        lambda: evaluating(True),
    ),
    "gradients_in_evaluation": (
        lambda: evaluating(True, no_grad=False),
        lambda: evaluating(True, no_grad=False, model=Net(norm=False)),
        lambda: evaluating(True),
    ),
    "tiny_batches_with_batchnorm": (
        lambda: small_batches(2),
        lambda: small_batches(4),
        lambda: small_batches(2, model=changed(Net(), lambda m: freeze(m.body))),
    ),
    "last_batch_of_one": (
        lambda: small_batches(13),
        lambda: small_batches(8, n=17),
        lambda: small_batches(13, drop_last=True),
    ),
}


def _without_statistics(model):
    model.body[1] = nn.BatchNorm2d(5, track_running_stats=False)
    return model


# -------------------------------------------------------------------------------------------------------------- data


class Named(TensorDataset):
    """With what a data set of pictures in folders says of itself"""

    def __init__(self, *tensors, **attributes):
        super().__init__(*tensors)
        self.__dict__ |= attributes


class Noisy(Dataset):
    """Vectors that are moved at random, by torch or by a generator of its own"""

    def __init__(self, x, y, rng=None, noise=0.1):
        self.x, self.y, self.rng, self.noise = x, y, rng, noise

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        draw = torch.randn(D) if self.rng is None else torch.from_numpy(self.rng.normal(size=D)).float()
        return self.x[i] + self.noise * draw, self.y[i]


def two(train, val, **more):
    model = more.pop("model", None) or plain()
    return setup(model, train_loader=_loader(train), val_loader=_loader(val), **more)


def _loader(data):
    return DataLoader(data if isinstance(data, Dataset) else TensorDataset(*data), batch_size=8, shuffle=True)


def rows(*picked, seed=0):
    data = TensorDataset(*vectors(seed=seed))
    return [Subset(data, list(some)) for some in picked]


def copies(shared, noise=0.0, seed=9):
    """Pictures of which some of validation are those of training, with a little noise"""
    x, y = smooth(N, seed=1), torch.arange(N) % K
    other = smooth(29, seed=2)
    other[:shared] = x[:shared] + noise * torch.randn(shared, 3, 32, 32, generator=g(seed))
    return two((x, y), (other, torch.arange(29) % K), model=Net())


def smooth(n, seed):
    return F.interpolate(torch.randn(n, 3, 4, 4, generator=g(seed)), size=32, mode="bilinear")


def balance(few, many, **more):
    y = torch.tensor([0] * many + [1] * few)[torch.randperm(few + many, generator=g(1))]
    x = torch.randn(few + many, D, generator=g(2))
    weights = 1 / torch.bincount(y)[y].double()
    if more.pop("drawn", False):
        sampler = WeightedRandomSampler(weights, len(y), generator=g(3))
        return setup(plain(2), train_loader=DataLoader(TensorDataset(x, y), batch_size=8, sampler=sampler), **more)
    return setup(plain(2), train_loader=loader_of(x, y), **more)


def with_workers(rng, **more):
    data = Noisy(*vectors(), rng=rng)
    return setup(plain(), train_loader=DataLoader(data, batch_size=8, shuffle=True, num_workers=2, **more))


def solar_like(draws):
    split = PictureSplit(
        torch.randint(256, (29, 3, 19, 19), dtype=torch.uint8, generator=g()), torch.arange(29) % K,
        tuple(f"{i}.png" for i in range(29)),
    )  # fmt: skip
    val = loader(split, OWN, batch_size=8, augment=augment.flip if draws else None)
    return setup(Net(), val_loader=val)


def class_order(shuffle, x=None):
    x = torch.randn(N, D, generator=g()) if x is None else x
    y = (torch.arange(N) * K // N).sort().values
    return setup(plain(), train_loader=loader_of(x, y, shuffle=shuffle, batch_size=5))


NAMES = {"patients": tuple(f"patient{i % 17}/{i}.png" for i in range(N))}

DATA = {
    "non_finite_inputs": (
        lambda: with_data(plain()) | {"train_loader": loader_of(vectors()[0].log(), vectors()[1])},
        lambda: two(vectors(), (vectors(seed=3)[0] / 0, vectors()[1])),
        lambda: two(vectors(), vectors(seed=3)),
    ),
    "labels_start_at_1": (
        lambda: setup(plain(), train_loader=loader_of(*vectors(low=1))),
        lambda: setup(plain(), train_loader=DataLoader(list(zip(*vectors(low=1), strict=True)), batch_size=8)),
        lambda: setup(plain(), train_loader=loader_of(*vectors())),
    ),
    "labels_out_of_range": (
        lambda: setup(plain(), train_loader=loader_of(*vectors(classes=5))),
        lambda: setup(plain(), train_loader=loader_of(*vectors(low=-1))),
        lambda: setup(plain(), train_loader=loader_of(*vectors())),
    ),
    "classes_missing_in_training": (
        lambda: setup(plain(5), train_loader=loader_of(*vectors())),
        lambda: two(vectors(classes=2), vectors(seed=3)),
        lambda: two(vectors(), vectors(seed=3)),
    ),
    "heavy_imbalance": (
        lambda: balance(3, 97),
        lambda: balance(2, 51, task_loss=nn.CrossEntropyLoss()),
        lambda: balance(3, 97, drawn=True),
    ),
    "training_not_shuffled": (
        lambda: class_order(False),
        lambda: setup(plain(), train_loader=[(x, torch.full((5,), i % K)) for i, x in enumerate(
            torch.randn(11, 5, D, generator=g()))]),
        lambda: class_order(True),
    ),
    "label_maps_differ": (
        lambda: two(Named(*vectors(), class_to_idx={"cat": 0, "dog": 1}), Named(
            *vectors(seed=3), class_to_idx={"dog": 0, "cat": 1})),
        lambda: two(Named(*vectors(), classes=["a", "b", "c"]), Named(*vectors(seed=3), classes=["a", "c"])),
        lambda: two(Named(*vectors(), classes=["a", "b", "c"]), Named(*vectors(seed=3), classes=["a", "b", "c"])),
    ),
    "splits_overlap": (
        lambda: two(*rows(range(30), range(25, 53))),
        lambda: two(vectors(), tuple(torch.cat([a[:7], b]) for a, b in zip(vectors(), vectors(seed=3), strict=True))),
        lambda: two(*rows(range(30), range(30, 53))),
    ),
    "near_duplicates": (
        lambda: copies(7, noise=0.01),
        lambda: copies(11, noise=0.02),
        lambda: copies(0),
    ),
    "groups_across_splits": (
        lambda: two(vectors(), vectors(seed=3), groups=([i // 3 for i in range(N)], [i // 3 + 15 for i in range(N)])),
        lambda: two(Named(*vectors(), names=NAMES["patients"]), Named(
            *vectors(seed=3), names=tuple(f"patient{i % 5 + 16}/x{i}.png" for i in range(N)))),
        lambda: two(Named(*vectors(), names=NAMES["patients"]), Named(
            *vectors(seed=3), names=tuple(f"patient{i % 5 + 20}/x{i}.png" for i in range(N)))),
    ),
    "validation_augmented": (
        lambda: setup(plain(), val_loader=DataLoader(Noisy(*vectors()), batch_size=8)),
        lambda: solar_like(True),
        lambda: solar_like(False),
    ),
    "unseeded_workers": (
        lambda: with_workers(np.random.default_rng(0), generator=g()),
        lambda: with_workers(np.random.RandomState(0)),
        lambda: with_workers(np.random.default_rng(0), generator=g(), worker_init_fn=print),
    ),
}  # fmt: skip

# ----------------------------------------------------------------------------------------------------------- pictures

OWN = Preprocess(size=32, resize=32, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CAFFE = Preprocess(size=32, resize=32, mean=(104.0, 117.0, 123.0), std=(1.0, 1.0, 1.0), scale=1.0, bgr=True)


def photos(n=29, side=32):
    base = torch.tensor([190.0, 120.0, 60.0]).view(3, 1, 1)  # red things
    return (base + 30 * torch.randn(n, 3, side, side, generator=g())).clamp(0, 255).to(torch.uint8)


def prepared(prepare, own=OWN, **more):
    x = photos(**more)
    return setup(Net(), train_loader=loader_of(prepare(x), torch.arange(len(x)) % K, shuffle=False), preprocess=own)


def of_split(prepare):
    x = photos()
    split = PictureSplit(x, torch.arange(len(x)) % K, tuple(map(str, range(len(x)))))
    return setup(Net(), train_loader=loader(split, prepare, batch_size=8), preprocess=OWN)


def half(x):
    return (x.float() / 255 - 0.5) / 0.5


PICTURES = {
    "pixel_scale": (
        lambda: prepared(lambda x: x.float()),
        lambda: prepared(lambda x: x.float() / 255, own=CAFFE),
        lambda: prepared(OWN.normalise),
    ),
    "pixel_mean_and_deviation": (
        lambda: prepared(half),
        lambda: prepared(lambda x: x.float() / 255),
        lambda: prepared(OWN.normalise),
    ),
    "channel_order": (
        lambda: prepared(lambda x: OWN.normalise(x).flip(1)),
        lambda: of_split(lambda x: OWN.normalise(x.flip(1))),
        lambda: of_split(OWN.normalise),
    ),
    "picture_size": (
        lambda: prepared(OWN.normalise, own=OWN.at(224)),
        lambda: prepared(OWN.normalise, side=97),
        lambda: prepared(OWN.normalise),
    ),
}

# ----------------------------------------------------------------------------------------------------------- language


class Config:
    bos_token_id, eos_token_id, pad_token_id, is_encoder_decoder = 1, 2, 0, False


class Language(nn.Module):
    """A tiny language model in the style of transformers: it shifts the labels itself"""

    def __init__(self):
        super().__init__()
        torch.manual_seed(6)
        self.config = Config()
        self.embedding, self.out = nn.Embedding(23, 11), nn.Linear(11, 23)

    def forward(self, input_ids, attention_mask=None, labels=None):
        logits, loss = self.out(self.embedding(input_ids)), None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return type("Output", (), {"logits": logits, "loss": loss})()


def chats(change=lambda ids, labels: (ids, labels), n=8):
    """begin, a prompt of 4, an answer of 3, end of turn, padding of 2"""
    batches = []
    for seed in range(3):
        ids = torch.randint(5, 23, (n, 11), generator=g(seed))
        ids[:, 0], ids[:, 8], ids[:, 9:] = 1, 2, 0
        labels = ids.clone()
        labels[:, :5] = labels[:, 9:] = -100
        ids, labels = change(ids, labels)
        batches.append({"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels})
    model = Language()
    return setup(model, AdamW(model.parameters(), lr=1e-3), train_loader=batches)


def with_rows(rows):
    def change(ids, labels):
        labels[rows] = -100
        return ids, labels

    return change


def begun_twice(ids, labels):
    ids[:, 1] = 1
    return ids, labels


def ends_masked(ids, labels):
    return ids, labels.masked_fill(ids == 2, -100)


def shifted(ids, labels):
    return ids, torch.cat([labels[:, 1:], torch.full((len(ids), 1), -100)], dim=1)


LANGUAGE = {
    "batch_without_target": (
        lambda: chats(with_rows(slice(None))),
        lambda: setup(plain(), train_loader=loader_of(vectors()[0], torch.full((N,), -100))),
        lambda: chats(with_rows(slice(0, 2))),
    ),
    "prompt_in_the_loss": (
        lambda: chats(lambda ids, labels: (ids, ids.clone())),
        lambda: chats(lambda ids, labels: (ids, ids.masked_fill(ids == 0, -100))),
        chats,
    ),
    "end_of_turn_never_a_target": (
        lambda: chats(ends_masked),
        lambda: chats(lambda ids, labels: (ids.masked_fill(ids == 2, 7), labels.masked_fill(labels == 2, 7))),
        chats,
    ),
    "double_begin_token": (
        lambda: chats(begun_twice),
        lambda: chats(lambda ids, labels: (torch.cat([ids[:, :1], ids], 1), torch.cat([labels[:, :1], labels], 1))),
        chats,
    ),
    "labels_shifted_twice": (
        lambda: chats(shifted),
        lambda: chats(lambda ids, labels: (ids, torch.cat([ids[:, 1:], torch.full((len(ids), 1), -100)], dim=1))),
        chats,
    ),
}
