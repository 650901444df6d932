"""Which learning rate of f for street scenes? Each strategy at three rates, one seed, judged on validation pictures.

`segmentation` takes the middle one of each strategy: no other was better by more than 0.005 mIoU, which one seed cannot
tell. Its seed is used nowhere else.
"""

from tools.experiments import segmentation

SEEDS = (1001,)
RATES = {"top": (1e-4, 3e-4, 1e-3), "full": (1e-4, 3e-4, 1e-3), "scratch": (3e-4, 1e-3, 3e-3)}


def settings():
    """Strategies x rates of f."""
    return [{"strategy": strategy, "lr_f": lr} for strategy, rates in RATES.items() for lr in rates]


def run(setting, seed):
    """One row: what the validation pictures say, in [0, 1]."""
    model, _ = segmentation.trained(setting["strategy"], setting["lr_f"], seed)
    return segmentation.measured(model, segmentation.data(seed).val)
