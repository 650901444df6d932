"""The experiment of notebook 01: its table is whole, a row comes out again, subsets are nested, ways start as said."""

import pytest
import torch
from tables import assert_counts, assert_whole, experiment_fixtures

module, table = experiment_fixtures("label_budget", scope="module")


def test_the_table_holds_every_seed_of_every_setting(module, table):
    assert_whole(module, table)
    for row in table:
        assert_counts(row, {"val": 222, "test": 334})


def test_accuracy_and_balanced_accuracy_fit_together(table):
    """From both follow the shares found of each class, which must be counts of 226 / 108 and 135 / 199 pictures."""
    for row in table:
        first, second = (226, 108) if row["task"] == "defect" else (135, 199)
        hits, twice = float(row["test"]) * 334, 2 * float(row["balanced"])  # a + b, a / first + b / second
        b = (hits - twice * first) / (1 - first / second)
        a = hits - b
        assert abs(a - round(a)) < 0.12 and abs(b - round(b)) < 0.12, row
        assert -0.12 < a < first + 0.12 and -0.12 < b < second + 0.12, row


def test_one_way_and_number_of_labels_has_one_choice_for_all_seeds(module, table):
    choices = {(r["task"], r["method"], r["labels"], r["knob"]) for r in table}
    assert len(choices) == len({c[:3] for c in choices})
    for _, method, labels, knob in choices:
        assert float(knob) in (module.L2 if method in module.FROZEN else module.RATES[method])
        if method in module.TRAINED:
            assert ("defect", method, str(module.TUNED_AT[int(labels)]), knob) in choices


@pytest.mark.parametrize("method", ["brightness", "pixels"])
def test_rows_without_a_network_come_out_again(module, table, method, monkeypatch):
    row = next(r for r in table if (r["method"], r["labels"], r["seed"]) == (method, "100", "3"))
    monkeypatch.setattr(module, "choose", lambda task, way, n: float(row["knob"]))
    new = module.run({"task": row["task"], "method": method, "labels": 100}, 3)
    for part in ("val", "test", "balanced"):
        assert abs(new[part] - float(row[part])) < 0.013  # rounding on another machine may turn a few pictures


def test_a_row_with_the_pretrained_network_comes_out_again(module, table, monkeypatch):
    row = next(r for r in table if (r["method"], r["labels"], r["seed"]) == ("pretrained f, frozen", "30", "0"))
    assert row["task"] == "defect"
    cells, rows = module.pictures(), module.labelled(module.truth("defect", "train"), 30, 0)
    z = {"train": torch.zeros(len(cells.train), 512)}
    z["train"][rows] = module.measure(cells.train.subset(rows), "pretrained f, frozen", 0)
    z["test"] = module.measure(cells.test, "pretrained f, frozen", 0)
    monkeypatch.setattr(module, "features", lambda way, seed: (z, 0.0))
    predict, _ = module.learn("defect", "pretrained f, frozen", 30, float(row["knob"]), 0)
    accuracy, balanced = module.scores(predict("test"), module.truth("defect", "test"))
    assert abs(accuracy - float(row["test"])) < 0.013 and abs(balanced - float(row["balanced"])) < 0.016


def test_labelled_pictures_are_nested_and_stratified_and_differ_by_seed(module):
    y = torch.tensor([0, 1, 1, 0, 1, 1, 1] * 43)  # 86 and 215
    subsets = [module.labelled(y, n, 5) for n in (7, 21, 105)]
    assert [y[rows].bincount().tolist() for rows in subsets] == [[2, 5], [6, 15], [30, 75]]
    for rows in subsets:
        assert len(rows.unique()) == len(rows)
    for small, large in zip(subsets, subsets[1:], strict=False):
        assert set(small.tolist()) < set(large.tolist())
    assert set(subsets[1].tolist()) != set(module.labelled(y, 21, 6).tolist())


def test_only_the_pretrained_ways_start_from_imagenet(module):
    def first(way, seed):
        return next(module.network(way, seed)[0].parameters()).detach()

    assert torch.equal(first("fine-tuned", 1), first("pretrained f, frozen", 2))
    assert torch.equal(first("from scratch", 1), first("random f, frozen", 1))
    assert not torch.equal(first("from scratch", 1), first("from scratch", 2))
    assert not torch.equal(first("from scratch", 1), first("fine-tuned", 1))


def test_the_choice_is_by_balanced_accuracy_on_validation_and_a_rate_that_breaks_is_the_worst(module, monkeypatch):
    y = module.truth("defect", "val")
    constant, guess = torch.zeros_like(y), torch.where(torch.arange(len(y)) % 2 == 0, y, 1 - y)
    guess[y == 1] = 1  # finds every defect at the price of many false alarms: less accurate, more balanced

    def learn(task, way, n, knob, seed):
        if knob == module.RATES["fine-tuned"][2]:
            raise FloatingPointError("the loss is nan")
        assert seed > 1000
        answers = {"val": guess if knob == module.RATES["fine-tuned"][1] else constant}
        return answers.__getitem__, 0.0  # asking for "test" is a KeyError

    assert module.scores(constant, y)[0] > module.scores(guess, y)[0]
    assert module.scores(constant, y)[1] < module.scores(guess, y)[1]
    monkeypatch.setattr(module, "learn", learn)
    assert module.choose.__wrapped__("defect", "fine-tuned", 300) == module.RATES["fine-tuned"][1]


def test_eleven_numbers_of_brightness_and_means_of_three_by_three(module):
    split = module.pictures().val.subset(torch.tensor([2, 3, 5]))
    numbers, small = module.measure(split, "brightness", 0), module.measure(split, "pixels", 0)
    grey = split.pictures[1, 0].double()
    assert numbers.shape == (3, 11) and small.shape == (3, 1024)
    want = [grey.mean(), grey.std(), grey.min(), *(grey.quantile(q) for q in (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99))]
    assert torch.allclose(numbers[1].double(), torch.stack([*want, grey.max()]), rtol=1e-4)
    assert small[1, 33].item() == pytest.approx(grey[3:6, 3:6].mean().item(), abs=1e-3)  # row 1, column 1
