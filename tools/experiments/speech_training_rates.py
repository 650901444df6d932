"""Notebook 12: which rate of f for each way of `speech_training` and of `speech_scratch`? One seed, made words.

The sounds are made by espeak, 10 of each word to learn from, 240 of other voices to judge by; no recording is heard.
Three rates each, and one more where the last was as good as the best. A way takes its best rate, the first of equals.
From scratch it is four times as many steps here too. The seed is used nowhere else.
"""

from tools.experiments import speech_scratch, speech_training
from tools.experiments.speech import parts

SEEDS = (1001,)
RATES = {way: (3e-4, 1e-3, 3e-3) for way in (*speech_training.WAYS, *speech_scratch.WAYS)}
RATES["discriminative"] = (1e-3, 3e-3, 1e-2, 3e-2)  # of its top layer; those below have less


def settings() -> list[dict]:
    """Ways x rates of f"""
    return [{"method": way, "rate": lr} for way, rates in RATES.items() for lr in rates]


def run(setting: dict, seed: int) -> dict:
    """One row: accuracies in [0, 1], 0 where the loss stopped being a number at this rate"""
    train, test = parts("made", "", seed)
    try:
        return speech_training.learned(setting["method"], setting["rate"], train, test, speech_training.N, seed)
    except FloatingPointError:
        return {"accuracy": 0.0, "tested": len(test), "fitted": 0.0, "steps": 0, "cpu_s": 0.0}
