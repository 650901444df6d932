"""The states of random generators: what is drawn after putting one back is what was drawn after it was taken."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler

from sftlib.generators import (
    GENERATORS,
    generator_states,
    generators_of,
    set_generator_states,
    set_state_of,
    state_of,
)

MAKE = {
    "torch": (lambda: torch.Generator().manual_seed(3), lambda g: torch.rand(5, generator=g).tolist()),
    "NumPy": (lambda: np.random.default_rng(3), lambda g: g.random(5).tolist()),
    "NumPy's former one": (lambda: np.random.RandomState(3), lambda g: [g.randn() for _ in range(5)]),
    "NumPy's bits": (lambda: np.random.PCG64(3), lambda g: g.random_raw(5).tolist()),
    "Python": (lambda: random.Random(3), lambda g: [g.gauss() for _ in range(5)]),
}


@pytest.mark.parametrize("kind", MAKE)
def test_a_generator_draws_again_what_it_drew_from_that_state(kind):
    make, draw = MAKE[kind]
    generator = make()
    draw(generator)
    state = state_of(generator)
    first = draw(generator)
    assert isinstance(generator, GENERATORS) and draw(generator) != first
    set_state_of(generator, state)
    assert draw(generator) == first


def test_the_global_generators_go_on_as_they_would_have():
    def draws():
        return torch.rand(2).tolist(), random.gauss(0, 1), np.random.randn(3).tolist()

    draws()  # a half-used pair of Gaussian numbers is a part of the state
    states = generator_states()
    first = draws()
    assert draws() != first
    set_generator_states(states)
    assert draws() == first


def test_a_loader_is_asked_for_its_own_generators_and_those_of_its_parts():
    own, of_sampler = torch.Generator(), torch.Generator()
    data = torch.zeros(7)
    loader = DataLoader(data, sampler=RandomSampler(data, generator=of_sampler), generator=own)
    assert generators_of(loader) == {"generator": own, "sampler.generator": of_sampler}
    assert generators_of([data]) == {}
