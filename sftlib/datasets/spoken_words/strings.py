"""Words of one voice, said alone and strung together: what a transcript can be learned from."""

import torch
from torch import Generator, Tensor

from sftlib.datasets.spoken_words.parts import Sound, SoundSplit
from sftlib.inputs import whole

PAD = -1  # fills y behind the end of the shorter strings


def strung(split: SoundSplit, n: int, *, seed: int = 0, fewest: int = 2, most: int = 4) -> tuple[list[Sound], Tensor]:
    """split of words -> n strings of `fewest` to `most` of its sounds, one voice each; y (n, most): 1 + label, then -1

    Voices, lengths and sounds are drawn by the seed; a sound may come twice. 0 is left for CTC's blank.
    """
    n, fewest = whole("n", n), whole("fewest", fewest)
    most = whole("most", most, least=fewest)
    draw = Generator().manual_seed(whole("seed", seed, least=0))
    sounds, y = [], torch.full((n, most), PAD)
    for i in range(n):
        rows = _rows(split.speakers, fewest, most, draw)
        said, labels = split.batch(rows)
        rates = {rate for _, rate in said}
        if len(rates) > 1:
            raise ValueError(f"got sounds of one voice at {sorted(rates)} Hz; expected one rate: resample them first")
        sounds.append((torch.cat([samples for samples, _ in said]), said[0][1]))
        y[i, : len(rows)] = 1 + labels
    return sounds, y


def _rows(speakers: tuple[str, ...], fewest: int, most: int, draw: Generator) -> Tensor:
    """speakers (N) -> rows of one of them"""
    voice = speakers[torch.randint(len(speakers), (1,), generator=draw)]
    own = torch.tensor([i for i, s in enumerate(speakers) if s == voice])
    many = int(torch.randint(fewest, most + 1, (1,), generator=draw))
    return own[torch.randint(len(own), (many,), generator=draw)]
