"""Notebook 12: which rate of f for each way of `speech_training`? Three rates, one seed, made words of new voices.

The sounds are made by espeak, 10 of each word to learn from, 240 of other voices to judge by; no recording is heard.
`speech_training` takes the rate with the best accuracy of each way. The seed is used nowhere else.
"""

from tools.experiments import speech_training
from tools.experiments.speech import labelled, parts

SEEDS = (1001,)
RATES = {way: (3e-4, 1e-3, 3e-3) for way in speech_training.WAYS}
RATES["discriminative"] = (1e-3, 3e-3, 1e-2)  # of its top layer; those below have less


def settings() -> list[dict]:
    """Ways x rates of f"""
    return [{"method": way, "rate": lr} for way, rates in RATES.items() for lr in rates]


def run(setting: dict, seed: int) -> dict:
    """One row: accuracies in [0, 1], 0 where the loss stopped being a number at this rate"""
    train, test = parts("made", "word", "", seed)
    rows = labelled(train.y, speech_training.N, seed)
    try:
        return speech_training.learned(setting["method"], setting["rate"], train, test, rows, seed)
    except FloatingPointError:
        return {"accuracy": 0.0, "tested": len(test), "fitted": 0.0, "steps": 0, "cpu_s": 0.0}
