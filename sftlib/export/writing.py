"""Writing a trained model as files for others, and comparing what was written with the model itself."""

import json
import logging
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sftlib.datasets.decode import decode, read_bytes
from sftlib.export import alone
from sftlib.export.deployed import Deployed
from sftlib.model import eval_mode

TOLERANCE = 1e-4  # of a probability
TRIED = 5  # pictures at most, beside noise, that the files are compared on


def export(
    model: nn.Module, folder: Path, *, classes: Sequence[str], pictures: Tensor, temperature: float = 1.0,
    flips: bool = False, card: str = "",
) -> dict[str, float]:  # fmt: skip
    """A Model and some pictures uint8 (N, 3, S, S) -> files in ``folder``; {file: largest difference of a probability}

    model.pt2 (torch.export), model.onnx, model.json (classes, sizes), predict.py (ONNX Runtime, NumPy and Pillow
    alone) and README.md, the card. Both networks take uint8 pictures in any number and give probabilities, with the
    normalisation, ``flips`` and ``temperature`` inside. What was exported there before is replaced. ValueError if one
    of them differs from the model by more than 1e-4, on these pictures or on noise, and for a folder of something else.
    """
    preprocess, folder = model.backbone.preprocess, Path(folder)
    if len(classes) != model.head.out_features:
        raise ValueError(f"got {len(classes)} classes for {model.head.out_features} outputs; expected one name each")
    _require_no_other(folder)
    network = Deployed(model, temperature=temperature, flips=flips)
    device = next(model.parameters()).device
    folder.mkdir(parents=True, exist_ok=True)
    with eval_mode(network), torch.inference_mode(False), torch.no_grad():
        network.cpu()
        tried = _tried(pictures, preprocess.size)
        _write(network, folder, tried[:2])
        wanted = network(tried)
        network.to(device)
    about = {"classes": list(classes), "size": preprocess.size, "resize": preprocess.resize}
    (folder / "model.json").write_text(json.dumps(about, indent=1, ensure_ascii=False), encoding="utf-8")
    shutil.copyfile(alone.__file__, folder / "predict.py")
    (folder / "README.md").write_text(card, encoding="utf-8")
    differences = {
        "model.pt2": _largest(torch.export.load(folder / "model.pt2").module()(tried).detach(), wanted),
        "model.onnx": _largest(torch.from_numpy(alone.Network(folder)(tried.numpy())), wanted),
    }
    for name, difference in differences.items():
        if not difference <= TOLERANCE:
            raise ValueError(
                f"{folder / name} gives probabilities that differ by {difference:.2g} from the model's; expected at "
                f"most {TOLERANCE:g}: keep to the model in PyTorch, and report it"
            )
    return differences


def by_resize(model: nn.Module, folder: Path, files: Sequence[Path]) -> dict[str, Tensor]:
    """Picture files -> way -> probabilities (N, K): the exported network, and ``model`` after other resizes

    "exported": Pillow's, with ONNX Runtime. "course": torchvision's, antialiased, of the whole picture. "careless": the
    nearest pixel, squeezed into a square.
    """
    preprocess, network = model.backbone.preprocess, alone.Network(Path(folder))
    found: dict[str, list[Tensor]] = {"exported": [], "course": [], "careless": []}
    with eval_mode(model), torch.no_grad():
        for file in files:
            own = network(alone.read(file, preprocess.size, preprocess.resize)[None])
            picture = torch.from_numpy(decode(read_bytes(file))).permute(2, 0, 1)[None]
            squeezed = F.interpolate(picture, (preprocess.size, preprocess.size))
            found["exported"].append(torch.from_numpy(own))
            for way, square in (("course", preprocess.square(picture)), ("careless", squeezed)):
                found[way].append(model(preprocess.normalise(square)).softmax(1))
    return {way: torch.cat(rows) for way, rows in found.items()}


def _require_no_other(folder: Path) -> None:
    """ValueError where a file that is no former export's would be overwritten"""
    if (folder / "model.json").exists():
        return
    if there := [name for name in ("README.md", "predict.py") if (folder / name).exists()]:
        raise ValueError(
            f"got {folder}, which holds {there[0]} and no model.json, so it is no model's folder; expected a new one, "
            "or that of a former export: this would overwrite it"
        )


def _write(network: Deployed, folder: Path, example: Tensor) -> None:
    with warnings.catch_warnings():  # the exporters warn of their own insides
        warnings.simplefilter("ignore")
        n = torch.export.Dim("N", min=1, max=4096)
        program = torch.export.export(network, (example,), dynamic_shapes=({0: n},))
        torch.export.save(program, folder / "model.pt2")
        _quietly(
            lambda: torch.onnx.export(
                program, (example,), folder / "model.onnx", input_names=["pictures"], output_names=["probabilities"],
                dynamo=True, external_data=False, verbose=False,
            )
        )  # fmt: skip


def _quietly(work) -> None:
    """Run it without the exporter's own log"""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        work()
    finally:
        logging.disable(before)


def _tried(pictures: Tensor, size: int) -> Tensor:
    """Some of the pictures, and noise: three pictures at least, for a network must take any number"""
    if pictures.dtype != torch.uint8 or pictures.shape[1:] != (3, size, size) or not len(pictures):
        raise ValueError(
            f"got pictures {pictures.dtype} {tuple(pictures.shape)}; expected uint8 (N, 3, {size}, {size}), N ≥ 1"
        )
    noise = np.random.default_rng(0).integers(256, size=(2, 3, size, size), dtype=np.uint8)
    return torch.cat([pictures[:TRIED].cpu().contiguous(), torch.from_numpy(noise)])


def _largest(p: Tensor, wanted: Tensor) -> float:
    return (p - wanted).abs().max().item()
