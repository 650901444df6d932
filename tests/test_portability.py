"""What another system would take amiss: text in an encoding of its own, names of files that it cannot hold."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("benchmarks", "data", "notebooks", "sftlib", "tests", "tools")
# What Windows has no files of: these letters, a point or space at the end, the names of its devices
NO_NAME = re.compile(r'[<>:"|?*\\\x00-\x1f]|[. ]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.IGNORECASE)


def names():
    """The course's files, below its root."""
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            name = path.relative_to(ROOT)
            if not {"cache", "__pycache__", ".ipynb_checkpoints"} & set(name.parts):
                yield name


def ruff(*words):
    return subprocess.run([sys.executable, "-m", "ruff", *words], cwd=ROOT, capture_output=True, encoding="utf-8")


@pytest.mark.parametrize("words", [("check", "--output-format=concise"), ("format", "--check")], ids=lambda w: w[0])
def test_ruff_finds_nothing(words):
    done = ruff(*words, "--no-cache", ".")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("call", ["open('a'{})", "open('a', 'w'{})", "open('a', mode='a'{})"])
def test_ruff_finds_text_in_the_encoding_of_the_system(tmp_path, call):
    for encoding, found in (("", 1), (", encoding='utf-8'", 0)):
        (tmp_path / "a.py").write_text(call.format(encoding) + "\n", encoding="utf-8")
        assert ruff("check", "--no-cache", f"--config={ROOT / 'pyproject.toml'}", str(tmp_path)).returncode == found


def test_every_file_can_be_put_on_windows_and_macos():
    found = list(names())
    assert len(found) > 100
    assert [str(name) for name in found if any(NO_NAME.search(part) for part in name.parts)] == []
    assert [name for name, n in Counter(str(name).casefold() for name in found).items() if n > 1] == []
    assert [str(name) for name in found if len(str(name)) > 120] == []


@pytest.mark.parametrize("name", ["a:b.py", "what?", "aux.py", "NUL", "end.", "a\\b"])
def test_a_name_that_windows_cannot_hold_is_seen(name):
    assert NO_NAME.search(name) and not NO_NAME.search("auxiliary.py")
