"""The language model as one of Hugging Face's transformers: to write with, and to hand on as a folder."""

from pathlib import Path

import torch
from torch import Tensor, nn

from sftlib.backbones import decoders, smollm2
from sftlib.backbones.bars import without_bars


@torch.no_grad()
def as_transformers(model: smollm2.LanguageModel) -> nn.Module:
    """-> a network of transformers in eval mode with the weights of f and g: they are shared, not copied

    What an optimizer does to ``model`` in place shows here too; the tensors themselves do not train. A layer wrapped
    by LoRA gives W + ΔW as it is now, a copy: call this again after training on.
    """
    from transformers import LlamaForCausalLM
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    if not isinstance(model, smollm2.LanguageModel):
        raise ValueError(f"got a {type(model).__name__}; expected what load_model('smollm2_135m') or "
                         "load_language_model gives")  # fmt: skip
    if isinstance(model, decoders.Decoded):
        return decoders.twin(model)
    tied = model.head.weight is model.backbone.embedding.table.weight
    config = smollm2.config(tied=tied)
    with torch.device("meta"):
        net = LlamaForCausalLM(config)
    net.model.rotary_emb = LlamaRotaryEmbedding(config).to(model.head.weight.device)
    net.load_state_dict({name: _weight(model, name) for name in net.state_dict()}, assign=True)
    net.generation_config.eos_token_id = model.tokenizer.eos_token_id
    net.generation_config.pad_token_id = model.tokenizer.pad_token_id
    return net.requires_grad_(False).eval()


def export_model(model: smollm2.LanguageModel, folder: Path | str) -> Path:
    """Write config, weights, tokenizer and chat template, LoRA merged: AutoModelForCausalLM.from_pretrained loads them

    ValueError for a folder that holds something already.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is there and not empty; expected a new folder: nothing is written over")
    net = as_transformers(model)
    folder.mkdir(parents=True, exist_ok=True)
    with without_bars():
        net.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


def _weight(model: smollm2.LanguageModel, name: str) -> Tensor:
    """A tensor by transformers' name for it; of a layer that LoRA wraps, W + ΔW"""
    f, parts = model.backbone, name.split(".")
    ends = {"embed_tokens": f.embedding.table, "norm": f.answers.norm, "lm_head": model.head}
    if parts[-2] in ends:
        return ends[parts[-2]].weight.detach()
    layer = f.get_submodule(f"layer{int(parts[2]) + 1}.layer")
    return layer.get_submodule(".".join(parts[3:-1])).weight.detach()
