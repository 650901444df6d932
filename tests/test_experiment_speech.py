"""The experiment of notebook 12: its table is whole, rows of made words come out again, layers are read as said."""

import itertools
import wave

import pytest
import torch
from tables import assert_counts, assert_whole, experiment_fixtures

from sftlib.datasets import NestSplit

module, table = experiment_fixtures("speech", scope="module")


def frames(n, longest, seed, shortest=2):
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(shortest, longest + 1, (n,), generator=draw)
    lengths[0] = longest
    x = torch.rand(n, longest, 40, generator=draw) * 1e-3
    return x * (torch.arange(longest) < lengths[:, None])[..., None], lengths


def test_the_table_holds_every_seed_of_every_setting(module, table):
    assert_whole(module, table)
    assert len({row["code"] for row in table}) == 1
    sizes = {("recordings", "word"): 500, ("recordings", "speaker"): 200, ("made", "word"): 240}
    for row in table:
        assert int(row["tested"]) == sizes[row["data"], row["task"]]
        assert_counts(row, {"accuracy": int(row["tested"])})


@pytest.mark.parametrize(
    "way",
    ["mels", "mels, parts", "h2, mean", "h2, parts", "h2, parts shuffled", "h2, parts sorted", "random z",
     "random h2, parts"],
)  # fmt: skip
def test_a_row_of_made_words_comes_out_again(module, table, way):
    row = next(r for r in table if (r["data"], r["task"], r["method"], r["seed"]) == ("made", "word", way, "1"))
    new = module.run({"data": "made", "task": "word", "left_out": "", "method": way, "n": 10}, 1)
    assert abs(new["accuracy"] - float(row["accuracy"])) < 0.025  # rounding elsewhere may turn a few of 240


def test_each_man_is_left_out_whole_and_else_what_is_kept_is_the_test(module, monkeypatch):
    y, speakers = torch.arange(35) % 7, tuple("gjlt"[i % 4] for i in range(35))
    kept = torch.arange(35) >= 23
    monkeypatch.setattr(
        module, "sounds", lambda data, made: module.Sounds(NestSplit(frames(35, 11, 4), y), speakers, kept)
    )
    train, test = module.parts("recordings", "j", 0)
    his = torch.tensor([s == "j" for s in speakers])
    assert len(test) == his.sum() and torch.equal(test.y, y[his]) and torch.equal(train.y, y[~his])
    labels, learned, tested = module.divided("recordings", "speaker", "", 0)
    assert labels.tolist() == [i % 4 for i in range(35)]
    assert learned.tolist() == [*range(23)] and tested.tolist() == [*range(23, 35)]


def test_of_recordings_those_with_an_index_of_0_to_4_are_kept_apart(module, monkeypatch, tmp_path):
    draw = torch.Generator().manual_seed(1)
    for word, man, index in itertools.product((0, 3), ("ann", "bo_b"), (0, 4, 5, 13)):
        samples = (torch.rand(1601, generator=draw) - 0.5).mul(20_000).short()
        write(tmp_path / f"{word}_{man}_{index}.wav", samples)
    monkeypatch.setenv(module.FOLDER, str(tmp_path))
    heard = module.sounds.__wrapped__("recordings", 0)
    assert sorted(heard.speakers) == ["ann"] * 8 + ["bo_b"] * 8
    assert heard.kept.tolist() == [True, True, False, False] * 4  # recordings are read by word, man and index


def write(path, samples):
    """samples int16 (n,) -> a WAV file at 8 kHz"""
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8000)
        out.writeframes(samples.numpy().astype("<i2").tobytes())


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
    x, lengths = frames(7, 23, 2, shortest=6)
    what = ["mels", "mels, parts", "h1", "h2, mean", "h2, parts", "z"]
    found = module.values(f, NestSplit((x, lengths), torch.zeros(7).long()), what)
    for i in (0, 3, 6):
        alone = x[i : i + 1, : lengths[i]]
        with torch.no_grad():
            h1 = f.lstm1((alone, lengths[i : i + 1]))
            h2 = f.lstm2(h1)[0][0]
            z = f((alone, lengths[i : i + 1]))[0]
        log = (alone[0] + 1e-6).log()
        want = {"mels": torch.cat([log.mean(0), log.std(0, correction=0)]), "h1": h1[0][0, -1], "h2, mean": h2.mean(0),
                "mels, parts": six(log), "h2, parts": six(h2), "z": z}  # fmt: skip
        for name in what:
            torch.testing.assert_close(found[name][i], want[name], rtol=1e-4, atol=1e-5)


def six(h):
    """h (T, D) -> (6 · D,): frame t of T belongs to one part; the first T mod 6 parts have one frame more"""
    size, more = divmod(len(h), 6)
    ends = [k * size + min(k, more) for k in range(7)]
    return torch.cat([sum(h[t] for t in range(a, b)) / (b - a) for a, b in itertools.pairwise(ends)])


def test_parts_without_order_hold_the_same_numbers_and_nothing_of_the_order(module):
    z = torch.randn(53, 6 * 7, generator=torch.Generator().manual_seed(2))
    found, parts = {"h2, parts": z}, z.view(53, 6, 7)
    assert module.without_order(found, "h2, parts", 0) is z
    drawn, again, other = (module.without_order(found, "h2, parts shuffled", seed) for seed in (0, 0, 1))
    assert torch.equal(drawn, again) and not torch.equal(drawn, other)
    orders = set()
    for mine, theirs in zip(drawn.view(53, 6, 7), parts, strict=True):
        order = tuple(next(k for k in range(6) if torch.equal(theirs[k], part)) for part in mine)
        assert sorted(order) == [0, 1, 2, 3, 4, 5]  # whole parts move
        orders.add(order)
    assert len(orders) > 40  # each sound has its own
    by_size = module.without_order(found, "h2, parts sorted", 0).view(53, 6, 7)
    turned = {"h2, parts": parts[:, [3, 0, 5, 1, 4, 2]].flatten(1)}
    assert torch.equal(module.without_order(turned, "h2, parts sorted", 0).view(53, 6, 7), by_size)
    assert by_size[5, :, 3].tolist() == sorted(parts[5, :, 3].tolist())


def test_frames_for_random_weights_are_centred_and_scaled_by_those_that_are_learned_from(module):
    split = NestSplit(frames(11, 19, 3), torch.zeros(11).long())
    rows = torch.tensor([2, 5, 7])
    change = module.scaled(split.subset(rows).x)
    x, lengths = change(split.subset(rows).x)
    heard = x[module.inside(x, lengths)]
    torch.testing.assert_close(heard.mean(0), torch.zeros(40), atol=1e-4, rtol=0)
    torch.testing.assert_close(heard.std(0), torch.ones(40), atol=1e-4, rtol=0)
    assert (x[~module.inside(x, lengths)] == 0).all()


def test_rows_of_recordings_say_that_they_need_a_folder(module, monkeypatch):
    monkeypatch.delenv(module.FOLDER, raising=False)
    with pytest.raises(ValueError, match=r"speech.py FOLDER"):
        module.folder()


def by_man(table, way, n, task="word"):
    """-> (men,) of the recordings, or one number of the speaker task, averaged over the seeds"""
    which = ("recordings", task, str(n), way)
    rows = [r for r in table if (r["data"], r["task"], r["n"], r["method"]) == which]
    men = sorted({r["left_out"] for r in rows})
    return torch.tensor([[float(r["accuracy"]) for r in rows if r["left_out"] == man] for man in men]).mean(1)


def test_the_pretrained_layers_know_more_of_the_word_than_the_controls(table):
    """On every man left out, averaged over the seeds: what the notebook says"""
    for worse in ("z", "mels", "random h2, mean"):
        assert (by_man(table, "h2, mean", 10) > by_man(table, worse, 10)).all()
    for n in (5, 50):
        assert (by_man(table, "h2, mean", n) > by_man(table, "z", n)).all()
