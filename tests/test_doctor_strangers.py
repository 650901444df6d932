"""The doctor on set-ups in other people's style: planted faults are found, sound ones have nothing above a note."""

import pytest
from doctor_strangers import FAULTS, SOUND

from sftlib.doctor import diagnose


def test_there_are_enough():
    assert len(FAULTS) >= 20 and len(SOUND) >= 12


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name):
    make, codes = FAULTS[name]
    found = diagnose(**make())
    assert codes <= {finding.code for finding in found.mistakes}, found


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_set_up_of_others_has_nothing_above_a_note(name):
    found = diagnose(**SOUND[name]())
    assert found.mistakes == [], found
    assert not any(words.startswith("a step") for words in found.not_looked_at), found
