"""What is each part of a DeepLab worth? Left out, or changed, in the fully fine-tuned one of `segmentation`.

The same pictures, order and steps, seed by seed, so its rows "full" are what these are compared with. Class weights:
the median of the classes' pixels over each one's, at most 10 (Eigen and Fergus 2015, arXiv 1411.4734).
"""

from tools.experiments import segmentation

SEEDS = segmentation.SEEDS
VARIANTS = ("no auxiliary loss", "no early map", "rates 12 24 36", "class weights")


def settings():
    """The variants."""
    return [{"variant": variant} for variant in VARIANTS]


def run(setting, seed):
    """One row, as those of `segmentation`."""
    return segmentation.run({"strategy": "full"}, seed, setting["variant"])
