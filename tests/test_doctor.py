"""Each code is found in two broken set-ups and not in a sound twin."""

import pytest
from doctor_step_cases import CASES

from sftlib.doctor import CODES, diagnose

pytestmark = pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate parameters")


def test_every_code_has_two_broken_set_ups_and_a_sound_one():
    assert sorted(CASES) == sorted(CODES) and len(CODES) >= 25


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("code", CASES)
def test_a_mistake_is_found(code, which):
    found = diagnose(**CASES[code][which]())
    assert code in found.codes, found


@pytest.mark.parametrize("code", CASES)
def test_its_sound_twin_has_no_finding(code):
    found = diagnose(**CASES[code][2]())
    assert code not in found.codes and found.mistakes == [], found
