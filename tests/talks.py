"""Tiny language models of several makes, with their tokenizer in a folder of Hugging Face's; rows for tools/sft.py."""

import json

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
)

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
COLOURS = ("red", "blue", "green")
SIZES = {"vocab_size": 263, "bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258}
MAKES = ("llama", "gpt2", "opt", "gemma2", "bloom")
# for tools/sft.py on such a model and 23 rows
WORDS = ("--precision", "float32", "--max-tokens", "97", "--batch-size", "5", "--epochs", "3", "--seed", "3")
WORDS += ("--lr", "0.02")


def fixtures():
    """-> fixtures (net, data): the folder of a model, and a file of 23 rows"""

    @pytest.fixture(scope="module")
    def net(tmp_path_factory):
        return save_model(tmp_path_factory.mktemp("net"))

    @pytest.fixture(scope="module")
    def data(tmp_path_factory):
        return write_rows(tmp_path_factory.mktemp("data") / "rows.jsonl", rows(23))

    return net, data


def letters():
    """A tokenizer of single bytes, with a chat template"""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = Tokenizer(models.BPE({token: i for i, token in enumerate(alphabet)}, []))
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pieces.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=pieces, eos_token="<|im_end|>", bos_token="<s>", pad_token="<pad>",
        additional_special_tokens=["<|im_start|>"],
    )  # fmt: skip
    tokenizer.chat_template = CHATML
    return tokenizer


def save_model(folder, *, tied=True, net=None):
    """A Llama with random weights, or another network, and its tokenizer -> the folder"""
    net = net or network("llama", tie_word_embeddings=tied)
    with torch.no_grad():
        for p in net.parameters():
            p += 0.05 * torch.randn_like(p)  # norms are 1 otherwise
    net.save_pretrained(folder)
    letters().save_pretrained(folder)
    return folder


def network(make, **more):
    """A language model of one of MAKES with random weights, 5 layers and 263 tokens"""
    torch.manual_seed(7)
    if make == "gpt2":
        return GPT2LMHeadModel(GPT2Config(n_embd=22, n_layer=5, n_head=2, n_positions=127, **SIZES, **more))
    if make == "bloom":  # its layers give tuples
        return BloomForCausalLM(BloomConfig(hidden_size=22, n_layer=5, n_head=2, **SIZES, **more))
    common = {"hidden_size": 22, "num_hidden_layers": 5, "num_attention_heads": 2, "max_position_embeddings": 127}
    if make == "opt":
        return OPTForCausalLM(OPTConfig(word_embed_proj_dim=22, ffn_dim=34, **common, **SIZES, **more))
    common |= {"intermediate_size": 34, "head_dim": 14, "num_key_value_heads": 1}
    if make == "llama":
        return LlamaForCausalLM(LlamaConfig(**common, **SIZES, **more))
    if make == "gemma2":  # scales its embeddings; every second layer sees 4 tokens only
        more = {"final_logit_softcapping": None, "sliding_window": 4} | more
        return Gemma2ForCausalLM(Gemma2Config(**common, **SIZES, **more))
    raise ValueError(f"got {make!r}, expected one of {MAKES}")


def talk(i):
    """-> messages: a colour among letters that differ, and its name as the answer; every fifth with a system turn"""
    word = COLOURS[i % 3]
    system = [{"role": "system", "content": "Say it."}] if i % 5 == 0 else []
    return [
        *system,
        {"role": "user", "content": f"{i} {word}{'!' * (i % 7)}"},
        {"role": "assistant", "content": word},
    ]


def write_rows(path, rows):
    """Objects, or lines as they are (str, bytes) -> a file of JSON lines"""
    lines = [row if isinstance(row, str | bytes) else json.dumps(row) for row in rows]
    path.write_bytes(b"\n".join(line.encode() if isinstance(line, str) else line for line in lines) + b"\n")
    return path


def rows(n):
    """-> n different conversations"""
    return [{"messages": talk(i)} for i in range(n)]
