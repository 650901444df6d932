"""The page to print is that of the doctor's codes; every symptom names codes that there are, and every code has one."""

import re
from pathlib import Path

from sftlib.doctor import CODES
from sftlib.doctor.symptoms import SYMPTOMS, page

CLINIC = Path(__file__).parents[1] / "notebooks" / "CLINIC.md"


def test_the_page_is_the_doctors():
    stored = CLINIC.read_text(encoding="utf-8")
    assert stored == page(), "python -m sftlib.doctor.symptoms > notebooks/CLINIC.md"


def test_every_code_explains_a_symptom_and_every_suspect_is_a_code():
    named = [code for codes in SYMPTOMS.values() for code in codes]
    assert sorted(set(named)) == sorted(CODES)
    assert all(len(codes) == len(set(codes)) for codes in SYMPTOMS.values())


def test_the_page_explains_every_code_once():
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", page(), re.M)
    assert [code for code, _, _ in rows] == list(CODES) and all(words for _, words, _ in rows)
