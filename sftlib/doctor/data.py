"""Checks of the examples and their labels."""

import re

import torch
from torch.utils.data import DataLoader

from sftlib.doctor.case import Case, Found
from sftlib.doctor.keep import generators_in
from sftlib.doctor.look import base_of, per_example
from sftlib.doctor.report import some

FEW = 0.01  # of the validation examples: with fewer that are in training too, it is a note
RATIO = 20  # of the most to the rarest class
CLOSE = 0.02  # distance of near-duplicates, of that of two pictures at random
GROUP = re.compile(r"(?:patient|subject|speaker|person|scene|video|clip|session|case|slide)[-_ ]?\w*?\d+", re.I)


def non_finite_inputs(case: Case) -> Found:
    """NaN or infinity in x"""
    for name, look in (("train_loader", case.train), ("val_loader", case.val)):
        if look is not None and not look.finite:
            yield (
                name,
                "gives inputs with NaN or infinity: so are the loss and every gradient",
                "look at these examples, and for a division by a deviation of 0",
                "certain",
            )


def labels_start_at_1(case: Case) -> Found:
    """1 … K for K outputs"""
    y = case.labels
    if y is not None and int(y.min()) == 1 and int(y.max()) == case.classes:
        yield (
            f"labels 1 … {case.classes}",
            f"the output has classes 0 … {case.classes - 1}: class {case.classes} is an "
            "error of the loss, or each label names its neighbour",
            "subtract 1",
            "certain",
        )


def labels_out_of_range(case: Case) -> Found:
    """Labels that are no class of the output"""
    y = case.labels
    if y is None:
        return
    y = y[y != getattr(case.losses.get("task_loss"), "ignore_index", -100)]
    shifted = y.numel() and int(y.min()) == 1 and int(y.max()) == case.classes
    if y.numel() and not shifted and (int(y.min()) < 0 or int(y.max()) >= case.classes):
        yield (
            f"labels {int(y.min())} … {int(y.max())}",
            f"the output has classes 0 … {case.classes - 1}: the loss fails, or such labels count for nothing",
            "renumber them, y.unique(return_inverse=True)[1], or give the head more outputs",
            "certain",
        )


def classes_missing_in_training(case: Case) -> Found:
    """Outputs that no training label names"""
    y, K = case.labels, case.classes
    if y is None or int(y.min()) < 0 or int(y.max()) >= K:
        return
    missing = sorted(set(range(K)) - set(y.unique().tolist()))
    of_val = case.val.labels if case.val is not None else None
    needed = [] if of_val is None else sorted(set(missing) & set(of_val.unique().tolist()))
    if missing and (case.train.complete or len(y) >= 20 * K):
        tested = f", and validation has {some(map(str, needed))}" if needed else ""
        yield (
            f"classes {some(map(str, missing))} of {K}",
            f"no training example has them{tested}: they are only ever pushed down, and can never be predicted",
            "a split by class (stratified), or a head with as many outputs as there are classes",
            "certain" if needed else "likely",
        )


def heavy_imbalance(case: Case) -> Found:
    """One class is so frequent that always naming it looks good"""
    y = case.labels
    weighted = getattr(case.losses.get("task_loss"), "weight", None) is not None
    sampler = type(getattr(case.train.loader, "sampler", None)).__name__
    drawn = "Weighted" in sampler or getattr(getattr(case.train.loader, "order", None), "weights", None) is not None
    if y is None or weighted or drawn or len(y) < 10:
        return
    counts = torch.bincount(y[y >= 0])
    counts = counts[counts > 0]
    if len(counts) > 1 and (ratio := int(counts.max()) / int(counts.min())) >= RATIO / 4:
        share = int(counts.max()) / len(y)
        yield (
            f"{int(counts.max())} to {int(counts.min())} examples",
            "the most frequent class is "
            f"{ratio:.0f} times as frequent as the rarest: who always names it has an accuracy of {share:.2f}",
            "report a balanced measure, weigh the loss by class, or draw with weights",
            "likely" if ratio >= RATIO else "note",
        )


def training_not_shuffled(case: Case) -> Found:
    """Batches of one class, for the examples come in the order of their classes"""
    given = [y for _, y in case.train.batches]
    if case.labels is None or len(given) < 3 or len(case.labels.unique()) < 2 or max(case.train.sizes) < 4:
        return
    alone = sum(len(y.unique()) == 1 for y in given if y.numel() > 1)
    if alone >= 0.8 * len(given):
        yield (
            f"{alone} of {len(given)} training batches",
            "hold one class only: the order of the examples is that of "
            "their classes, so each step unlearns the one before",
            "shuffle=True",
            "certain",
        )


def label_maps_differ(case: Case) -> Found:
    """The same number is another class in validation"""
    maps = [_map_of(look.dataset) for look in (case.train, case.val)]
    if None not in maps and maps[0] != maps[1]:
        names = sorted(set(maps[0].items()) ^ set(maps[1].items()), key=str)
        yield (
            f"classes of the two splits: {some([f'{name} = {i}' for name, i in names], 4)}",
            "the same label means another class in validation, so accuracy there says nothing",
            "one mapping for all splits, from the training classes",
            "certain",
        )


def _map_of(dataset) -> dict | None:
    base, _ = base_of(dataset)
    found = getattr(base, "class_to_idx", None) or getattr(base, "classes", None)
    if isinstance(found, dict):
        return dict(found)
    return {name: i for i, name in enumerate(found)} if isinstance(found, (list, tuple)) else None


def splits_overlap(case: Case) -> Found:
    """Examples of validation that stand in training too"""
    shared, of, how = _shared(case)
    if shared:
        many = shared >= max(2, FEW * of)
        yield (
            f"{shared} of {of} validation examples {how}",
            "are in the training data too: they measure memory, and the accuracy on them is too high",
            "split once, by example, after removing duplicates",
            "certain" if many else "note",
        )


def _shared(case: Case) -> tuple[int, int, str]:
    """Validation examples that are in training -> how many, of how many, how that is known"""
    (base, rows), (other, others) = base_of(case.train.dataset), base_of(case.val.dataset)
    if base is not None and base is other:
        rows, others = (torch.arange(len(base)) if r is None else r for r in (rows, others))
        return int(torch.isin(others, rows).sum()), len(others), "(the same rows)"
    names, known = (set(per_example(look.dataset, "names", "paths") or ()) for look in (case.train, case.val))
    if (found := len(names & known)) and len(known) == len(case.val.dataset):
        return found, len(known), "(by name)"
    found = sum(n for mark, n in case.val.marks.items() if mark and mark in case.train.marks)
    return found, case.val.examples, "that were read (equal numbers)"


def near_duplicates(case: Case) -> Found:
    """Pictures of validation that are almost one of training"""
    a, b = case.train.small, case.val.small
    if a is None or b is None or a.shape[1] != b.shape[1] or len(a) < 8:
        return
    distance = torch.cdist(b, a)
    exact = torch.tensor([mark in case.train.marks for mark in case.val.marks])
    usual = float(distance.median())
    near = int(((distance.min(1).values < CLOSE * usual) & (distance.min(1).values > 1e-6)).sum())
    if usual > 0 and near > int(exact.sum()) and near >= max(2, FEW * len(b)):
        yield (
            f"{near} of {len(b)} validation pictures that were read",
            "are all but equal to a training picture "
            "(frames of one video, copies at another size or brightness): the accuracy on them is too high",
            "keep what belongs together in one split (groups)",
            "likely",
        )


def groups_across_splits(case: Case) -> Found:
    """One patient, speaker or scene in both splits"""
    told = case.groups is not None
    groups = case.groups or [_groups_of(look.dataset) for look in (case.train, case.val)]
    if any(g is None for g in groups):
        return
    both = sorted({str(g) for g in groups[0]} & {str(g) for g in groups[1]})
    if both:
        yield (
            f"{some(both)} ({len(both)} groups)",
            "has examples in training and in validation: the network can know it again without knowing the class",
            "split by group: all of a patient, speaker or scene in one part",
            "certain" if told else "likely",
        )


def _groups_of(dataset) -> list | None:
    """A group for each example: told by the data set, or by words such as patient7 in its names"""
    if (groups := per_example(dataset, "groups")) is not None:
        return [str(group) for group in groups]
    names = per_example(dataset, "names", "paths", "samples", "imgs")
    found = [GROUP.search(str(name[0] if isinstance(name, tuple) else name)) for name in (names or ())]
    return [match[0].lower() for match in found] if found and all(found) else None


def validation_augmented(case: Case) -> Found:
    """Validation examples are others at each look"""
    loader, dataset = case.val.loader, case.val.dataset
    if getattr(loader, "redraws", False) is True or _changes(dataset, loader):
        yield (
            "val_loader",
            "gives other examples at each look: the augmentation of training is on, so validation is "
            "noisy and of another kind than what will be predicted",
            "a data set of its own for validation, with the plain transform (random_split shares one)",
            "certain",
        )


def _changes(dataset, loader) -> bool:
    """Whether an example drawn twice, with other random numbers, is another one"""
    if not isinstance(loader, DataLoader) or not hasattr(dataset, "__getitem__"):
        return False
    marks = []
    for seed in (0, 1, 2):
        torch.manual_seed(seed)
        marks.append([str(leaf) for i in range(min(3, len(dataset))) for leaf in _numbers(dataset[i])])
    return any(mark != marks[0] for mark in marks)


def _numbers(example) -> list:
    x = example[0] if isinstance(example, (tuple, list)) else example
    x = [x[key] for key in sorted(x)] if isinstance(x, dict) else [x]
    return [t.tolist() if isinstance(t, torch.Tensor) else t for t in x]


def unseeded_workers(case: Case) -> Found:
    """Each worker has a copy of one generator"""
    loader = case.train.loader
    if not isinstance(loader, DataLoader) or loader.num_workers < 1 or loader.worker_init_fn is not None:
        return
    if generators_in(loader.dataset, loader.collate_fn):
        yield (
            f"train_loader with {loader.num_workers} workers",
            "the data set holds a random generator: each worker "
            "gets a copy in the same state, in each epoch again, so augmentations repeat",
            "worker_init_fn that seeds it by torch.initial_seed(), or draw by torch.rand",
            "certain",
        )
    elif loader.generator is None:
        yield (
            f"train_loader with {loader.num_workers} workers",
            "order and draws come of the global generator: they change with whatever draws before",
            "generator=torch.Generator().manual_seed(…)",
            "note",
        )
