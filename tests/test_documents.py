"""README, CONTRIBUTING and their like: what they name is there."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
NAMES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "TEACHING.md", "benchmarks/README.md", "data/README.md")
DOCUMENTS = [ROOT / n for n in NAMES]
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")
NAMED = re.compile(r"`((?:notebooks|sftlib|tests|tools|benchmarks|data)/[\w./-]*\w|\w+\.(?:md|toml|cff|txt|yml))`")
TO_COME = re.compile(r"09|NAME|NN")  # of a notebook that the reader is about to make


def unknown(text, folder):
    """text of a document, its folder -> the paths that it links to or names and that are not there"""
    linked = [name for name in LINK.findall(text) if not (folder / name).exists()]
    named = [name for name in NAMED.findall(text) if not TO_COME.search(name)]
    return linked + [name for name in named if not any((place / name).exists() for place in (ROOT, folder))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_file_that_a_document_names_is_there(path):
    assert unknown(path.read_text(encoding="utf-8"), path.parent) == []


def test_a_file_that_is_not_there_is_seen():
    text = "[a](notebooks/00_gone.ipynb), `tools/gone.py`, `GONE.md`, [b](https://example.org/x), `tools/notebooks.py`"
    assert unknown(text, ROOT) == ["notebooks/00_gone.ipynb", "tools/gone.py", "GONE.md"]


def test_every_benchmark_is_described():
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    scripts = [p for p in (ROOT / "benchmarks").glob("*.py") if "__main__" in p.read_text(encoding="utf-8")]
    assert len(scripts) > 3 and [p.name for p in scripts if f"`{p.name}`" not in text] == []


def test_the_readme_counts_the_mistakes_that_the_doctor_looks_for():
    from sftlib.doctor.examine import CODES

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"The doctor looks for {len(CODES)} mistakes" in text


def test_citation_and_changelog_have_the_version_and_licence_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["version"] == project["version"]
    changes = re.findall(r"^## (\S+?),? ", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert changes[0] == project["version"]
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert (
        project["license"] == citation["license"] == "MIT"
        and licence.startswith("MIT License")
        and "WITHOUT WARRANTY" in licence
    )


def test_the_readme_begins_with_a_picture_of_the_panel_that_is_small_enough_to_keep():
    first = LINK.findall((ROOT / "README.md").read_text(encoding="utf-8"))[0]
    picture = (ROOT / first).read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) < 200_000
