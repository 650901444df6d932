"""Language models of Hugging Face's by name or from a folder: logits are the library's, padding counts for nothing."""

import copy

import pytest
import talks
import torch
from transformers import AutoModelForCausalLM, BertConfig, BertLMHeadModel, T5Config

from sftlib.adaptation import untie, wrap_lora
from sftlib.backbones import as_transformers, export_model, load_language_model
from sftlib.datasets import chat


@pytest.fixture(scope="module", params=talks.MAKES)
def folder(request, tmp_path_factory):
    torch.manual_seed(3)
    return talks.save_model(tmp_path_factory.mktemp(request.param), net=talks.network(request.param))


def batch(tokenizer):
    """Three conversations of different lengths, with and without a system turn -> encoded, x, y"""
    encoded = [chat.encode(tokenizer, talks.talk(i)) for i in (0, 1, 13)]
    return encoded, *chat.collate(encoded)


@torch.no_grad()
def test_logits_are_the_librarys_and_padding_counts_for_nothing(folder):
    model, net = load_language_model(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    encoded, x, y = batch(model.tokenizer)
    assert not model.training and x["mask"].sum(1).unique().numel() > 1
    together = model(x)
    for row, (ids, answer) in enumerate(encoded):
        places = answer.nonzero().flatten() - 1
        expected = net(ids[None]).logits[0, places].T
        torch.testing.assert_close(together[row, :, : len(places)], expected, rtol=1e-4, atol=1e-5)


def test_the_last_layers_and_what_stands_behind_them_are_found(folder):
    model = load_language_model(folder)
    layers = model.layers
    assert len(layers) == 5 and all(sum(p.numel() for p in layer.parameters()) > 1000 for layer in layers)
    (norm,) = model.closing
    assert {p.shape for p in norm.parameters()} == {(22,)}
    seen = []
    hooks = [m.register_forward_hook(lambda m, *_: seen.append(m)) for m in (*layers, norm)]
    model(batch(model.tokenizer)[1])
    for hook in hooks:
        hook.remove()
    assert [id(m) for m in seen] == [id(m) for m in (*layers, norm)]


def test_every_parameter_of_the_library_is_one_of_ours_and_trains(folder):
    model = load_language_model(folder)
    _, x, y = batch(model.tokenizer)
    torch.nn.functional.cross_entropy(model(x), y).backward()
    own = {id(p) for p in model.parameters()}
    assert own == {id(p) for p in model.net.parameters()} and all(p.grad is not None for p in model.parameters())


@torch.no_grad()
def test_what_is_learned_shows_in_the_librarys_network_lora_and_an_untied_matrix_too(folder, tmp_path):
    model = load_language_model(folder)
    ids = torch.arange(11)[None]
    x = {"ids": ids, "mask": torch.ones_like(ids, dtype=torch.bool), "answer": ids}
    untie(model).head.weight.mul_(1.3)
    linear = any(isinstance(m, torch.nn.Linear) for m in model.layers[-1].modules())
    if linear:
        wrap_lora(model.layers[-1], rank=3, alpha=6.0)
        for name, p in model.layers[-1].named_parameters():
            if name.endswith(".B"):
                p.normal_(generator=torch.Generator().manual_seed(0))
    expected, twin = model(x)[0].T, as_transformers(model)
    assert not any(p.requires_grad for p in twin.parameters()) and not twin.training
    torch.testing.assert_close(twin(ids).logits[0], expected, rtol=1e-4, atol=1e-5)
    export_model(model, tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    torch.testing.assert_close(loaded(ids).logits[0], expected, rtol=1e-4, atol=1e-5)
    assert set(loaded.state_dict()) == set(twin.state_dict())


def test_a_copy_is_one_network_of_its_own(folder):
    model = load_language_model(folder)
    other = copy.deepcopy(model)
    assert {id(p) for p in other.parameters()} == {id(p) for p in other.net.parameters()}
    assert not {id(p) for p in other.parameters()} & {id(p) for p in model.parameters()}


@pytest.mark.parametrize(
    "network, words",
    [
        (
            lambda: talks.network("gemma2", final_logit_softcapping=0.01),
            "does more behind its body than one product",
        ),
        (
            lambda: BertLMHeadModel(
                BertConfig(
                    hidden_size=22, intermediate_size=34, num_hidden_layers=2, num_attention_heads=2,
                    max_position_embeddings=127, **talks.SIZES,
                )
            ),
            "does more behind its body|sees later ones",
        ),
    ],
    ids=["a cap on the logits", "no decoder"],
)  # fmt: skip
def test_a_network_whose_logits_are_not_ours_is_refused(network, words, tmp_path):
    talks.save_model(tmp_path, net=network())
    with pytest.raises(ValueError, match=words):
        load_language_model(tmp_path)


def test_a_token_that_sees_later_ones_is_refused(tmp_path, monkeypatch):
    from transformers.models.llama import modeling_llama

    talks.save_model(tmp_path)
    load_language_model(tmp_path)
    monkeypatch.setattr(modeling_llama, "create_causal_mask", lambda **_: None)
    monkeypatch.setattr(modeling_llama.LlamaAttention, "is_causal", False, raising=False)
    own = modeling_llama.LlamaAttention.__init__

    def open_eyes(self, *arguments, **named):
        own(self, *arguments, **named)
        self.is_causal = False

    monkeypatch.setattr(modeling_llama.LlamaAttention, "__init__", open_eyes)
    with pytest.raises(ValueError, match="a token sees later ones"):
        load_language_model(tmp_path)


def test_what_is_no_language_model_or_not_to_be_had_is_explained(tmp_path, monkeypatch):
    T5Config(d_model=22).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="t5 with an encoder; expected a decoder alone"):
        load_language_model(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="(?s)nobody/nothing.*expected a network.*load_model"):
        load_language_model("nobody/nothing")


def test_tokens_beyond_what_it_knows_are_refused(folder):
    if folder.name.startswith("bloom"):
        pytest.skip("Bloom has no longest text")
    model = load_language_model(folder)
    ids = torch.zeros(1, 128, dtype=torch.long)
    with pytest.raises(ValueError, match="128 tokens in a text; expected 1 to 127"):
        model({"ids": ids, "mask": ids == 0, "answer": ids})
    assert model.backbone.input_size == 127
