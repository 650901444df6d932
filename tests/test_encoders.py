"""Text encoders by name or from a folder: z is the library's own mean, padding counts for nothing, all of f trains."""

import pytest
import torch
from transformers import AutoModel, BertConfig, BertModel, RobertaConfig, RobertaModel, T5Config

from sftlib.backbones import load_backbone, load_encoder
from sftlib.datasets import NestSplit, nest_loader
from sftlib.model import LinearHead, Model
from sftlib.training import fit

TEXTS = ["one two three", "a much longer sentence than the other one", "short"]
SMALL = {"vocab_size": 30_522, "hidden_size": 22, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 34, "max_position_embeddings": 41}  # fmt: skip
NETWORKS = {"bert": lambda: BertModel(BertConfig(**SMALL)), "roberta": lambda: RobertaModel(RobertaConfig(**SMALL))}


@pytest.fixture(scope="module", params=NETWORKS)
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    NETWORKS[request.param]().eval().save_pretrained(path)
    tokenizer = load_backbone("minilm_l6", pretrained=False).tokenizer
    tokenizer.save_pretrained(path)
    return path


@torch.no_grad()
def test_z_is_the_mean_of_the_librarys_last_layer(folder):
    f, net = load_encoder(folder), AutoModel.from_pretrained(folder).eval()
    z = f(f.preprocess(TEXTS))
    alone = [net(input_ids=f.preprocess([text])["ids"]).last_hidden_state[0].mean(0) for text in TEXTS]
    assert f.feature_dim == 22 and f.stages == ("encoder", "pool") and not f.training
    torch.testing.assert_close(z, torch.stack(alone), rtol=1e-4, atol=1e-5)


def test_texts_are_cut_at_what_the_network_knows_or_at_size(folder):
    assert load_encoder(folder).input_size == 41 and load_encoder(folder, size=7).input_size == 7
    assert load_encoder(folder, size=7).preprocess(TEXTS)["ids"].shape == (3, 7)
    with pytest.raises(ValueError, match="from 3 to 41"):
        load_encoder(folder, size=43)


def test_every_parameter_trains(folder):
    f = load_encoder(folder, size=7)
    model = Model(f, LinearHead(f.feature_dim, 2))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    given = nest_loader(NestSplit(f.preprocess(TEXTS), torch.tensor([0, 1, 0])), batch_size=3)
    list(fit(model, given, torch.optim.SGD(model.parameters(), lr=1.0), epochs=2))
    still = [name for name, p in model.named_parameters() if torch.equal(p, before[name])]
    assert still == []


def test_a_name_that_is_neither_here_nor_to_be_had_is_explained(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="(?s)nobody/nothing.*expected a network.*load_backbone"):
        load_encoder("nobody/nothing")


def test_a_network_with_a_decoder_is_refused(tmp_path):
    T5Config(d_model=22).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="t5 with a decoder; expected an encoder"):
        load_encoder(tmp_path)
