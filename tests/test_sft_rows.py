"""tools/sft.py on files as they come: other systems' line ends, odd letters, few rows, roles it does not know."""

import json

import pytest
import talks
from scripts import script

from tools import sft_rows

WORDS = (*talks.WORDS, "--epochs", "1")
net, _ = talks.fixtures()
GOOD = [json.dumps(row) for row in talks.rows(7)]


def row(*messages):
    turns = [{"role": role, "content": content} for role, content in messages]
    return json.dumps({"messages": turns}, ensure_ascii=False)


def turned(*contents):
    """A question and its answer, and so on"""
    return row(*zip(["user", "assistant"] * len(contents), contents, strict=False))


def after(*lines):
    """Seven good rows and these lines"""
    return "\n".join([*GOOD, *lines])


def learned(path):
    """-> the text of each row of a file, and of what is learned of it"""
    tokenizer = talks.letters()
    rows, faults = sft_rows.read(path, sft_rows.Encoder(tokenizer, max_tokens=97))
    assert faults == []
    return [(tokenizer.decode(r.ids), tokenizer.decode(r.ids[r.learned])) for r in rows]


SYSTEMS = row(("system", "A."), ("system", "B."), ("user", "c"), ("assistant", "d"))
READ = {  # the file, how many rows are learned from
    "a mark of UTF-8 before it": (b"\xef\xbb\xbf" + after().encode(), 7),
    "line ends of Windows": ("\r\n".join([*GOOD, ""]), 7),
    "empty lines in between": ("\n\n  \n".join(GOOD) + "\n\n\n", 7),
    "an answer of one token": (after(turned("Yes or no?", "y")), 8),
    "letters of all kinds": (after(turned("¿Qué? 你好 🙂", "👩‍🚀 é ß 好")), 8),
    "letters as escapes": (after(json.dumps(json.loads(turned("a", "😀")))), 8),
    "two systems' messages": (after(SYSTEMS), 8),
    "several turns": (after(turned("a?", "b", "c?", "d")), 8),
    "more in a row than is asked for": (after('{"prompt": "a", "completion": "b", "id": 7, "tags": []}'), 8),
}


@pytest.mark.parametrize("name", READ)
def test_it_learns_from_files_as_they_come(name, net, tmp_path):
    content, n = READ[name]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert script("sft").main([*map(str, (path, "--out", tmp_path / "run", "--model", net, *WORDS))]) == 0
    found = json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8"))
    assert found["rows"]["train"] + found["rows"]["validation"] == n == len(learned(path))


@pytest.mark.parametrize("name, text, answer", [
    ("an answer of one token", "Yes or no?", "y<|im_end|>"), ("letters as escapes", "a", "😀<|im_end|>"),
    ("letters of all kinds", "¿Qué? 你好 🙂", "👩‍🚀 é ß 好<|im_end|>"),
    ("several turns", "c?", "b<|im_end|>d<|im_end|>"),
    ("two systems' messages", "<|im_start|>system\nA.<|im_end|>\n<|im_start|>system\nB.", "d<|im_end|>"),
])  # fmt: skip
def test_what_is_learned_of_them_is_the_answer_to_the_letter(name, text, answer, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(READ[name][0], encoding="utf-8", newline="")
    whole, counted = learned(path)[-1]
    assert text in whole and counted == answer


TOOL = row(("user", "a"), ("tool", "b"), ("assistant", "c"))
PARTS = json.dumps({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]})
HALF = json.dumps(json.loads(turned("a", "😀"))).replace(r"\ude00", "")
REFUSED = {  # the file; what is said: the line, what was got, what to do
    "one row": (turned("a", "b"), ["got 1 different row(s) (line 1)", "give --validation a file"]),
    "three equal rows": ("\n".join([turned("a", "b")] * 3), ["got 1 different row(s) (line 1, 2, 3)", "add rows"]),
    "a long answer": (after(turned("a", "b" * 500)), ["line 8: has an answer that ends beyond token 97", "shorten it"]),
    "a long question": (after(turned("a" * 500, "b")), ["line 8: has an answer that ends beyond", "--max-tokens"]),
    "a tool's message": (after(TOOL), ["line 8: has the role 'tool'", "use system, user, assistant"]),
    "half a character": (after(HALF), ["line 8: has half a character in message 1", "write it whole"]),
    "a message in parts": (after(PARTS), ["line 8: message 0 is no", "write each message so"]),
    "no words": (after(turned("a", " \n ")), ["line 8: has an empty answer", "leave the row out"]),
    "a list of all rows": (json.dumps(talks.rows(7)), ["is one JSON list", "< rows.jsonl"]),
    "that list on many lines": (json.dumps(talks.rows(7), indent=1), ["is one JSON list", "< rows.jsonl"]),
    "a list among rows": (after("[1]"), ["line 8: is a list", "write an object"]),
    "a list on the first line": ("[1]\n" + after(), ["line 1: is a list", "write an object"]),
    "Alpaca's names": (after('{"output": "a", "instruction": "b"}'), ["line 8: has 'instruction', 'output', not"]),
    "an empty file": ("", ["is empty", "one conversation a line"]),
    "empty lines alone": ("\n\r\n  \n", ["is empty", "one conversation a line"]),
    "UTF-16": (after().encode("utf-16"), ["is UTF-16", "save the file as UTF-8"]),
    "Latin-1": (
        after(turned("a", "é")).encode("latin-1"),
        ["line 8: is not UTF-8 from byte", "save the file as UTF-8"],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_by_line_with_what_to_do_and_nothing_is_written(name, net, tmp_path):
    content, words = REFUSED[name]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError) as refusal:
        script("sft").main([*map(str, (path, "--out", tmp_path / "run", "--model", net, *WORDS))])
    assert all(some in str(refusal.value) for some in words), refusal.value
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rows.jsonl"]


def test_of_a_thousand_kinds_of_fault_the_first_are_named(net, tmp_path):
    roles = [row(("user", "a"), (f"role {i}", "b"), ("assistant", "c")) for i in range(1000)]
    path = talks.write_rows(tmp_path / "rows.jsonl", roles)
    with pytest.raises(ValueError) as refusal:
        script("sft").main([*map(str, (path, "--out", tmp_path / "run", "--model", net, *WORDS))])
    lines = str(refusal.value).splitlines()
    assert len(lines) == 1 + sft_rows.MOST_LINES + 1 and lines[-1].endswith("and 950 more kinds of fault")


def test_of_a_thousand_rows_with_one_fault_the_first_are_named():
    (said,) = sft_rows.refused("rows.jsonl", [(line, "is bad") for line in range(1, 1001)])
    assert said.startswith("rows.jsonl, lines 1, 2, 3,") and said.endswith(" 19, 20 and 980 more: is bad")


@pytest.mark.parametrize("out", ["file", "file/run"])
def test_a_folder_that_cannot_be_written_in_is_refused_before_anything_is_read(out, net, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="is no folder that can be written in; expected another --out"):
        script("sft").main([str(tmp_path / "none.jsonl"), "--out", str(tmp_path / out), "--model", str(net)])
    assert (tmp_path / "file").read_text() == "mine"


def test_a_missing_file_and_a_folder_are_refused(net, tmp_path):
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(ValueError, match="is no file that is there; expected a file of JSON lines"):
            script("sft").main([str(path), "--out", str(tmp_path / "run"), "--model", str(net)])
