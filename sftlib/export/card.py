"""A model card: what a stranger must know before using a model (Mitchell et al. 2019, arXiv 1810.03993)."""

from collections.abc import Mapping, Sequence

from sftlib.backbones import BACKBONES
from sftlib.inputs import positive


def card(
    name: str, *, backbone: str, classes: Sequence[str], data: str, counts: Mapping[str, Mapping[str, int]],
    training: str, scores: Mapping[str, str], temperature: float, limits: Sequence[str], resize: int, size: int,
) -> str:  # fmt: skip
    """What was done and measured, in words and numbers -> the card as Markdown, with the licence of the weights

    counts: part -> class -> pictures. scores: measure -> its value with its interval, on which pictures. ValueError
    for a card without limits: every model has some.
    """
    if not limits or not scores:
        raise ValueError(
            f"got {len(scores)} scores and {len(limits)} limits; expected at least one of each: a card without them "
            "says less than none"
        )
    spec = BACKBONES[backbone]
    parts = list(counts)
    rows = [f"| {c} | {' | '.join(str(counts[part].get(c, 0)) for part in parts)} |" for c in classes]
    return "\n".join([
        f"# {name}", "",
        f"Tells {len(classes)} classes of pictures apart: {', '.join(classes)}.", "",
        "## Use", "",
        "`python predict.py PICTURE …` (needs onnxruntime, NumPy and Pillow). `model.onnx` and `model.pt2` take "
        f"pictures uint8 RGB (N, 3, {size}, {size}) and give probabilities (N, {len(classes)}), in the order of "
        f"`model.json`. Shorter side to {resize} pixels with Pillow's bilinear filter, middle square of {size} kept.",
        "", "## Data", "", data, "",
        f"| class | {' | '.join(parts)} |", "|---|" + "---|" * len(parts), *rows, "",
        "## Training", "", training, "",
        f"Weights at the start: {spec.name} ({spec.weights}); licence {spec.licence}. Probabilities are divided by a "
        f"temperature of {positive('temperature', temperature):.3f} in the logits, chosen on the validation pictures.",
        "", "## Scores", "",
        *(f"- {measure}: {value}" for measure, value in scores.items()),
        "", "## Limits", "",
        *(f"- {limit}" for limit in limits),
        "- It always names one of its classes, whatever the picture shows.", "",
    ])  # fmt: skip
