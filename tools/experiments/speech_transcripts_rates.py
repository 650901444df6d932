"""Notebook 12, going deeper: which rate for each way of `speech_transcripts`? Three to five, one seed, other sounds.

The rate is that of g where g learns alone, else of f; states of random weights are small, and ask for larger ones.
`speech_transcripts` takes the rate with the fewest errors on the test part here. The seed, and so every sound, is used
nowhere else.
"""

from tools.experiments import speech_transcripts

SEEDS = (1001,)
RATES = {way: (1e-2, 3e-2, 1e-1, 3e-1) for way in ("frames", "frozen")}
RATES |= {"frozen, random": (1e-1, 3e-1, 1.0, 3.0, 10.0), "fine-tuned": (1e-3, 3e-3, 1e-2, 3e-2)}
RATES["scratch"] = (1e-3, 3e-3, 1e-2)


def settings() -> list[dict]:
    """Units x ways x rates"""
    return [
        {"units": units, "method": way, "rate": lr}
        for units in speech_transcripts.TASKS
        for way, rates in RATES.items()
        for lr in rates
    ]


def run(setting: dict, seed: int) -> dict:
    """One row; an error rate of 9 where the loss stopped being a number at this rate"""
    try:
        found, _ = speech_transcripts.learned(setting["units"], setting["method"], setting["rate"], seed)
    except FloatingPointError:
        found = speech_transcripts.row(setting["rate"], {"test": 9.0, "unheard": ""}, 9.0, 0, 0.0)
    return {name: value for name, value in found.items() if name != "rate"}
