"""The experiment of notebook 12: its table is whole, rows of made words come out again, layers are read as said."""

import pytest
import torch
from tables import assert_counts, assert_whole, experiment_fixtures

from sftlib.datasets import NestSplit

module, table = experiment_fixtures("speech", scope="module")


def frames(n, longest, seed):
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, longest + 1, (n,), generator=draw)
    lengths[0] = longest
    x = torch.rand(n, longest, 40, generator=draw) * 1e-3
    return x * (torch.arange(longest) < lengths[:, None])[..., None], lengths


def test_the_table_holds_every_seed_of_every_setting(module, table):
    assert_whole(module, table)
    sizes = {
        ("recordings", "word"): 500,
        ("made", "word"): 240,
    }
    for row in table:
        assert int(row["tested"]) == sizes[row["data"], row["task"]]
        assert_counts(row, {"accuracy": int(row["tested"])})


@pytest.mark.parametrize("way", ["mels", "h2, mean", "random z"])
def test_a_row_of_made_words_comes_out_again(module, table, way):
    row = next(r for r in table if (r["data"], r["task"], r["method"], r["seed"]) == ("made", "word", way, "1"))
    new = module.run({"data": "made", "task": "word", "left_out": "", "method": way, "n": 10}, 1)
    assert abs(new["accuracy"] - float(row["accuracy"])) < 0.025  # rounding elsewhere may turn a few of 240


def test_each_man_is_left_out_whole_and_digits_keep_their_labels(module, monkeypatch):
    y, speakers = torch.arange(35) % 7, tuple("gjlt"[i % 4] for i in range(35))
    monkeypatch.setattr(module, "recorded", lambda: (NestSplit(frames(35, 11, 4), y), speakers))
    train, test = module.parts.__wrapped__("recordings", "word", "j", 0)
    his = torch.tensor([s == "j" for s in speakers])
    assert len(test) == his.sum() and torch.equal(test.y, y[his]) and torch.equal(train.y, y[~his])


def test_the_rate_that_is_best_on_the_mean_is_chosen(module, monkeypatch):
    rows = [("a", 1e-3, 0.5), ("a", 1e-3, 0.9), ("a", 3e-3, 0.8), ("a", 3e-3, 0.4), ("b", 1e-2, 1.0)]
    stored = [{"method": way, "rate": str(lr), "share": str(value)} for way, lr, value in rows]
    monkeypatch.setattr(module.results, "read", lambda name: stored)
    chosen = module.chosen.__wrapped__
    assert chosen("rates", "a", "share") == 1e-3 and chosen("rates", "b", "share") == 1e-2
    with pytest.raises(ValueError, match="no row of 'c' in rates"):
        chosen("rates", "c", "share")


def test_labelled_sounds_are_nested_and_as_many_of_each_class(module):
    y = torch.tensor([2, 0, 1] * 17)
    few, many = module.labelled(y, 3, 5), module.labelled(y, 11, 5)
    assert y[few].bincount().tolist() == [3, 3, 3] and y[many].bincount().tolist() == [11, 11, 11]
    assert set(few.tolist()) < set(many.tolist()) and len(many.unique()) == 33
    assert set(module.labelled(y, 3, 6).tolist()) != set(few.tolist())


def test_what_is_read_is_in_order_and_blind_to_padding(module):
    f = module.load_backbone("voice_lstm")
    x, lengths = frames(7, 23, 2)
    what = ["mels", "h1", "h2, mean", "z"]
    found = module.values(f, NestSplit((x, lengths), torch.zeros(7).long()), what)
    for i in (0, 3, 6):
        alone = x[i : i + 1, : lengths[i]]
        with torch.no_grad():
            h1 = f.lstm1((alone, lengths[i : i + 1]))
            h2 = f.lstm2(h1)[0][0]
            z = f((alone, lengths[i : i + 1]))[0]
        log = (alone[0] + 1e-6).log()
        want = {"mels": torch.cat([log.mean(0), log.std(0, correction=0)]), "h1": h1[0][0, -1], "h2, mean": h2.mean(0),
                "z": z}  # fmt: skip
        for name in what:
            torch.testing.assert_close(found[name][i], want[name], rtol=1e-4, atol=1e-5)


def test_frames_for_random_weights_are_centred_and_scaled_by_those_that_are_learned_from(module):
    split = NestSplit(frames(11, 19, 3), torch.zeros(11).long())
    rows = torch.tensor([2, 5, 7])
    change = module.scaled(split, rows)
    x, lengths = change(split.subset(rows).x)
    heard = x[module.inside(x, lengths)]
    torch.testing.assert_close(heard.mean(0), torch.zeros(40), atol=1e-4, rtol=0)
    torch.testing.assert_close(heard.std(0), torch.ones(40), atol=1e-4, rtol=0)
    assert (x[~module.inside(x, lengths)] == 0).all()


def test_rows_of_recordings_say_that_they_need_a_folder(module, monkeypatch):
    monkeypatch.delenv(module.FOLDER, raising=False)
    with pytest.raises(ValueError, match=r"speech.py FOLDER"):
        module.folder()


def test_the_pretrained_layers_know_more_than_the_controls(table):
    """On every man left out, averaged over the seeds: what the notebook says"""

    def by_man(way):
        rows = [r for r in table if (r["data"], r["task"], r["n"], r["method"]) == ("recordings", "word", "10", way)]
        men = sorted({r["left_out"] for r in rows})
        return torch.tensor([[float(r["accuracy"]) for r in rows if r["left_out"] == man] for man in men]).mean(1)

    for worse in ("z", "mels", "random h2, mean"):
        assert (by_man("h2, mean") > by_man(worse)).all()
