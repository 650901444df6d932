"""Every way in which pictures reach a network, multiplied out: in memory or from files, with a size or of their own, of
any map-style dataset; every extractor that needs no network; augmented or not; extract, evaluate, fit that is stopped
within an epoch and goes on, several workers. Expectations from a plain loop over files that Pillow reads."""

import contextlib
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from launching import SAME, assert_same_state, torchrun
from pictures_worker import AUGMENT, BATCH, SIDE, load_pictures, photographs, train
from PIL import Image, ImageOps
from torch.utils.data import Dataset

from sftlib.adaptation import eval_stats_train_affine
from sftlib.backbones import BACKBONES, load_backbone
from sftlib.datasets import loader
from sftlib.features import extract
from sftlib.model import LinearHead, Model
from sftlib.runtime import Group
from sftlib.training import Shards, Step, evaluate, fit, load_checkpoint, save_checkpoint

OFFLINE = [name for name, spec in BACKBONES.items() if spec.offline and spec.inputs == "pictures"]
WAYS = ["memory", "files of one size", "files as they are", "a dataset of one's own"]
SIZE = {"memory": 41, "files of one size": 41, "files as they are": None, "a dataset of one's own": None}


@dataclass
class OfFiles(Dataset):
    """What a user may write: no part of the course"""

    paths: list
    labels: list

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        return torch.from_numpy(np.array(Image.open(self.paths[i]))).permute(2, 0, 1), self.labels[i]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return photographs(tmp_path_factory.mktemp("photographs"))


@pytest.fixture(scope="module", params=OFFLINE)
def f(request):
    return load_backbone(request.param, size=SIDE)


def split_of(folder, way):
    split = load_pictures(folder, SIZE[way], 10**6 if way == "memory" else 0)
    if way == "a dataset of one's own":
        return OfFiles([folder / name for name in split.names], split.labels.tolist())
    return split


def batches_of(folder, way, preprocess, augment, **settings):
    generator = torch.Generator().manual_seed(5)
    change = AUGMENT if augment else None
    return loader(split_of(folder, way), preprocess, batch_size=BATCH, augment=change, generator=generator, **settings)


def plain_batches(folder, way, preprocess, augment):
    """x (n, 3, SIDE, SIDE), y (n,) of each batch, by a loop over what Pillow reads"""
    split, generator, size = load_pictures(folder, 41, 10**6), torch.Generator().manual_seed(5), SIZE[way]
    pictures = [Image.open(folder / name) for name in split.names]
    if size is not None:
        pictures = [ImageOps.fit(p, (size, size), Image.Resampling.BILINEAR) for p in pictures]
    pictures = [torch.from_numpy(np.array(p)).permute(2, 0, 1)[None] for p in pictures]
    for rows in torch.arange(len(pictures)).split(BATCH):
        some = [pictures[i] for i in rows]
        some = some if size is None else [torch.cat(some)]  # drawn for the batch, or one by one
        some = [AUGMENT(p, generator) for p in some] if augment else some
        yield torch.cat([preprocess(p) for p in some]), split.labels[rows]


def warned(augment):
    """What is computed within is warned of where the loader augments"""
    return pytest.warns(UserWarning, match="augmented") if augment else contextlib.nullcontext()


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_batches_features_and_measures_are_those_of_a_plain_loop(folder, f, way, augment):
    expected = list(plain_batches(folder, way, f.preprocess, augment))
    ours = list(batches_of(folder, way, f.preprocess, augment))
    for (x, y), (want, labels) in zip(ours, expected, strict=True):
        assert torch.equal(x, want) and torch.equal(y, labels) and x.shape[1:] == (3, SIDE, SIDE)
    with torch.no_grad():
        z = torch.cat([f(x) for x, _ in expected])
    y = torch.cat([y for _, y in expected])
    with warned(augment):
        features, labels = extract(f, batches_of(folder, way, f.preprocess, augment))
    torch.testing.assert_close(features, z)
    assert torch.equal(labels, y)
    torch.manual_seed(3)
    model = Model(f, LinearHead(f.feature_dim, 2))
    with warned(augment):
        found = evaluate(model, batches_of(folder, way, f.preprocess, augment))
    with torch.no_grad():
        logits = model.head(z)
    assert found["n"] == len(y) and found["accuracy"] == (logits.argmax(1) == y).double().mean().item()
    assert found["loss"] == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-4)


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", OFFLINE)
def test_training_stopped_within_an_epoch_goes_on_to_the_bit(tmp_path, folder, name, way, augment):
    def start():
        torch.manual_seed(3)
        f = load_backbone(name, size=SIDE)
        if BACKBONES[name].has_batchnorm:  # the last batch is of two
            eval_stats_train_affine(f)
        model = Model(f, LinearHead(f.feature_dim, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        return model, batches_of(folder, way, f.preprocess, augment, shuffle=True), optimizer

    model, batches, optimizer = start()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for record in fit(model, batches, optimizer, epochs=1):
        if isinstance(record, Step) and record.step == 1:
            save_checkpoint(tmp_path / "run.pt", model, optimizer, step=record)
    again, batches, optimizer = start()
    found = load_checkpoint(tmp_path / "run.pt", again, optimizer)
    steps = [r.step for r in fit(again, batches, optimizer, epochs=1, resume=found) if isinstance(r, Step)]
    assert steps == [2]
    assert_same_state(again.state_dict(), model.state_dict(), **SAME)
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_slices_of_several_workers_are_the_whole_batch(folder, way, augment):
    preprocess = BACKBONES["squeezenet1_1"].preprocess.at(SIDE)
    whole = list(batches_of(folder, way, preprocess, augment, shuffle=True))
    for world in (2, 3):
        groups = [Group(rank, world, torch.device("cpu")) for rank in range(world)]
        slices = [list(Shards(batches_of(folder, way, preprocess, augment, shuffle=True), g)) for g in groups]
        for k, (x, y) in enumerate(whole):
            assert torch.equal(torch.cat([own[k][0] for own in slices]), x)
            assert torch.equal(torch.cat([own[k][1] for own in slices]), y)


def test_two_real_workers_train_on_files_as_one_process_does(tmp_path, folder):
    done = torchrun("tests/pictures_worker.py", folder, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    expected = train(folder, Group(0, 1, torch.device("cpu")))
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert_same_state(found, expected, rtol=1e-4, atol=1e-5)
