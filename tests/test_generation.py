"""Writing and handing on: what is written is what the text, read again, would give; what is loaded is the same."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sftlib.adaptation import untie, wrap_lora
from sftlib.backbones import as_transformers, export_model, load_model, smollm2
from sftlib.generation import chosen, generate, pieces, written
from sftlib.metrics import Exact

VOCABULARY = 211


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setattr(smollm2, "LAYERS", 3)
    monkeypatch.setattr(smollm2, "VOCABULARY", VOCABULARY)
    torch.manual_seed(5)
    model = load_model("smollm2_135m", pretrained=False)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.05 * torch.randn_like(p)
    return model


def prompts(*lengths):
    g = torch.Generator().manual_seed(3)
    return [torch.randint(VOCABULARY, (n,), generator=g) for n in lengths]


@torch.inference_mode()
def naive(model, ids, most, stop=None):
    """The most probable token of the whole text, read from its beginning each time"""
    ids, asked = ids.tolist(), len(ids)
    while len(ids) < asked + most and (len(ids) == asked or ids[-1] != stop):
        x = {"ids": torch.tensor([ids]), "mask": torch.ones(1, len(ids), dtype=torch.bool)}
        ids.append(int(model({**x, "answer": torch.tensor([[len(ids) - 1]])})[0, :, 0].argmax()))
    return ids[asked:]


def test_together_or_alone_each_prompt_is_answered_as_by_reading_all_again(model):
    asked, net = prompts(3, 11, 7), as_transformers(model)
    expected = [naive(model, ids, 5) for ids in asked]
    assert len({tuple(row) for row in expected}) == 3
    unused = next(i for i in range(VOCABULARY) if all(i not in row for row in expected))
    assert written(net, asked, stop=unused, most=5) == expected
    assert [written(net, [ids], stop=unused, most=5)[0] for ids in asked] == expected


def test_each_stops_at_its_own_end(model):
    asked, net = prompts(3, 11, 7), as_transformers(model)
    stop = naive(model, asked[1], 5)[1]
    expected = [naive(model, ids, 13, stop) for ids in asked]
    assert written(net, asked, stop=stop, most=13) == expected and expected[1][-1] == stop
    steps = list(generate(net, asked[1:2], stop=stop, most=13))
    assert len(steps) == len(expected[1]) < 13 and all(step.shape == (1,) for step in steps)
    row = torch.stack(list(generate(net, asked, stop=stop, most=13)))[:, 1]
    assert set(row[len(expected[1]) :].tolist()) <= {stop}


def test_what_all_share_is_read_once_and_changes_nothing(model):
    asked, net, read = prompts(3, 11, 7), as_transformers(model), []
    net.model.embed_tokens.register_forward_hook(lambda _, ids, out: read.append(tuple(ids[0].shape)))
    expected = [naive(model, torch.cat((asked[1], ids)), 4) for ids in asked]
    assert written(net, asked, stop=VOCABULARY, most=4, shared=asked[1]) == expected
    assert read == [(1, 11), (3, 11), (3, 1), (3, 1), (3, 1)]


def test_temperature_draws_from_the_softmax_of_the_scaled_logits():
    logits = torch.tensor([[0.0, 1.0, 3.0]]).expand(20_000, 3)
    for temperature in (0.5, 2.0):
        drawn = chosen(logits, temperature, torch.Generator().manual_seed(1)).bincount(minlength=3) / 20_000
        p = torch.tensor([0.0, 1.0, 3.0]).div(temperature).exp()
        torch.testing.assert_close(drawn, p / p.sum(), atol=0.015, rtol=0)
    assert chosen(logits[:5], 0).tolist() == [2] * 5


def test_a_seed_draws_the_same_text_again(model):
    net, asked = as_transformers(model), prompts(5, 3)
    texts = [
        written(net, asked, stop=0, most=7, temperature=1.5, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_pieces_are_the_text_and_hold_whole_characters():
    from sftlib.backbones import smollm2_files

    tokenizer = smollm2_files.tokenizer()
    ids = tokenizer("naïve 微调 🙂 two\n three").input_ids
    found = list(pieces(tokenizer, iter([*torch.tensor(ids)[:, None], torch.tensor([2]), torch.tensor([3])]), stop=2))
    assert 2 not in ids and "".join(found) == "naïve 微调 🙂 two\n three"
    assert len(ids) > len(found) > 6 and not any("\ufffd" in piece for piece in found)


@pytest.mark.parametrize("change, words", [
    ({"temperature": -1.0}, "temperature"),
    ({"most": 0}, "most"),
    ({"prompts": []}, "expected a list of one or more"),
    ({"prompts": torch.zeros(2, 3, dtype=torch.long)}, "expected a list"),
    ({"prompts": [torch.zeros(0, dtype=torch.long)]}, r"int64 \(0,\) as prompt 0"),
    ({"prompts": [torch.zeros(3)]}, "float32"),
])  # fmt: skip
def test_what_cannot_be_written_from_is_refused(model, change, words):
    how = {"prompts": prompts(3), "stop": 0, "most": 3, "temperature": 0.0} | change
    with pytest.raises(ValueError, match=words):
        list(generate(as_transformers(model), how.pop("prompts"), **how))


def test_a_network_in_training_mode_is_refused(model):
    with pytest.raises(ValueError, match="training mode"):
        list(generate(as_transformers(model).train(), prompts(3), stop=0, most=3))


def test_an_answer_is_exact_when_greedy_writing_gives_it(model):
    """By teacher forcing, with the targets before each of them; against writing it out"""
    asked, net, metric, right = prompts(3, 7, 5, 11), as_transformers(model), Exact(), 0
    for i, ids in enumerate(asked):
        own = torch.tensor(naive(model, ids, 3))
        own[i % 3] = own[i % 3] if i < 2 else 1 + own[i % 3]  # the last two are other texts than it writes
        whole = torch.cat((ids, own))
        places = torch.arange(len(ids) - 1, len(whole) - 1)[None]
        x = {"ids": whole[None], "mask": torch.ones(1, len(whole), dtype=torch.bool), "answer": places}
        metric.add(model(x), own[None])
        right += written(net, [ids], stop=VOCABULARY + 1, most=3)[0] == own.tolist()
    assert right == 2 and metric.values() == {"exact": 2 / 4}


# --- the same network as one of transformers' ---------------------------------------------------------------------


def outputs(net, ids):
    with torch.no_grad():
        return net(input_ids=ids).logits


def own(model, ids):
    x = {"ids": ids, "mask": torch.ones_like(ids, dtype=torch.bool), "answer": torch.arange(ids.shape[1])[None]}
    with torch.no_grad():
        return model(x).transpose(1, 2)


@pytest.mark.parametrize("make", [lambda m: m, untie], ids=["tied", "untied"])
def test_an_exported_folder_loads_with_the_same_outputs(model, make, tmp_path):
    model, ids = make(model), prompts(7)[0][None]
    with torch.no_grad():
        model.head.weight += 0.1  # the embedding too, where it is the same matrix
    export_model(model, tmp_path / "new")
    net = AutoModelForCausalLM.from_pretrained(tmp_path / "new")
    torch.testing.assert_close(outputs(net, ids), own(model, ids), rtol=1e-4, atol=1e-5)
    assert (net.lm_head.weight is net.model.embed_tokens.weight) == (make is not untie)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "new")
    assert tokenizer.chat_template == model.tokenizer.chat_template
    assert net.generation_config.eos_token_id == tokenizer.eos_token_id == model.tokenizer.eos_token_id
    assert tokenizer.pad_token_id == model.tokenizer.pad_token_id != tokenizer.eos_token_id


def test_lora_is_merged_in_what_is_exported(model, tmp_path):
    before, ids = own(model, prompts(7)[0][None]), prompts(7)[0][None]
    for layer in (model.backbone.layer1, model.backbone.layer3):
        wrap_lora(layer, rank=2, alpha=4.0)
        for name, p in layer.named_parameters():
            p.data += 0.05 * (name.endswith("B")) * torch.randn_like(p)
    export_model(model, tmp_path / "new")
    after = outputs(AutoModelForCausalLM.from_pretrained(tmp_path / "new"), ids)
    torch.testing.assert_close(after, own(model, ids), rtol=1e-4, atol=1e-5)
    assert (after - before).abs().max() > 0.1


def test_what_the_optimizer_does_shows_in_the_shared_network(model):
    net, ids = as_transformers(model), prompts(7)[0][None]
    with torch.no_grad():
        for p in model.backbone.layer2.parameters():
            p.mul_(1.5)
    torch.testing.assert_close(outputs(net, ids), own(model, ids), rtol=1e-4, atol=1e-5)
    assert not any(p.requires_grad for p in net.parameters()) and all(p.requires_grad for p in model.parameters())


def test_nothing_is_written_over_and_no_other_model_exported(model, tmp_path):
    (tmp_path / "note").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        export_model(model, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["note"]
    with pytest.raises(ValueError, match="expected what load_model"):
        as_transformers(torch.nn.Linear(2, 3))
