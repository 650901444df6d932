"""The frozen layers of a language model, computed once: both halves are f, and a run on what is kept is the run itself.

On tiny language models of several makes, their tokenizer one of single bytes (tests/talks.py).
"""

import argparse
import signal

import pytest
import talks
import torch
from helpers import said
from launching import torchrun
from scripts import ROOT, ended, script, table
from transformers import AutoModelForCausalLM

from sftlib.backbones import load_language_model, load_model, smollm2
from sftlib.datasets import chat
from sftlib.model import Model
from sftlib.runtime import Group
from tools import sft_cache

WORDS = (*talks.WORDS, "--layers", "2")
KEPT = "is computed once and kept in memory"


net, data = talks.fixtures()


@pytest.fixture(scope="module")
def anew(net, data, tmp_path_factory):
    """A run that computes all layers in every epoch"""
    out = tmp_path_factory.mktemp("anew") / "run"
    assert main(data, net, out, "--cache-gb", "0") == 0
    return out


def main(data, net, out, *more):
    return script("sft").main([*map(str, (data, "--out", out, "--model", net, *WORDS, *more))])


def assert_close_runs(out, other):
    """The same rows of the log and the same outputs, but for rounding"""
    for mine, its in zip(table(out / "log.csv"), table(other / "log.csv"), strict=True):
        for name, value in its.items():  # a token may be named otherwise where two are as probable
            close = {"abs": 0.03} if "accuracy" in name else {"rel": 1e-3}
            assert float(mine[name]) == pytest.approx(float(value), **close), name
    ids = torch.arange(89)[None]  # not weights: a bias of keys changes no output, so what moves it is rounding
    nets = (AutoModelForCausalLM.from_pretrained(path / "model").eval() for path in (out, other))
    with torch.inference_mode():
        one, two = (net(ids).logits for net in nets)
    torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3 * float(two.abs().max()))


# --- both halves ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[*talks.MAKES, "smollm2_135m"])
def model(request, tmp_path_factory):
    torch.manual_seed(3)
    if request.param in talks.MAKES:
        return load_language_model(talks.save_model(tmp_path_factory.mktemp("net"), net=talks.network(request.param)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(smollm2, "LAYERS", 5)
        return load_model("smollm2_135m", pretrained=False)


def conversations(tokenizer):
    return [chat.encode(tokenizer, talks.talk(i)) for i in (0, 1, 13)]


@pytest.mark.parametrize("k", [1, 2, 4])
def test_both_halves_are_f_with_its_names_and_tensors(k, model):
    x, y = chat.collate(conversations(model.tokenizer))
    lower, rest = model.halves(k)
    with torch.no_grad():
        h = lower(x)
        assert h.shape == (*x["ids"].shape, model.backbone.feature_dim)
        torch.testing.assert_close(rest({**x, "h": h}), model.backbone(x), rtol=1e-5, atol=1e-6)
        moved = rest({**x, "h": h + torch.randn_like(h)}) - model.backbone(x)
    assert moved.abs().max() > 0.01  # it does read h
    own, its = dict(model.backbone.named_parameters()), dict(rest.named_parameters())
    assert own.keys() == its.keys() and all(own[name] is its[name] for name in own)
    assert list(model.backbone.state_dict()) == list(rest.state_dict())


def test_the_rest_computes_only_the_last_layers_and_gives_their_gradients(model):
    x, y = chat.collate(conversations(model.tokenizer))
    lower, rest = model.halves(2)
    called = []
    hooks = [m.register_forward_hook(lambda m, *_: called.append(m)) for m in model.layers]
    with torch.no_grad():
        h = lower(x)
    assert [id(m) for m in called] == [id(m) for m in model.layers[:3]]
    called.clear()
    losses = torch.nn.functional.cross_entropy
    gradients = [
        torch.autograd.grad(losses(some(given), y), [p for m in model.layers[3:] for p in m.parameters()])
        for some, given in ((Model(rest, model.head), {**x, "h": h}), (model, x))
    ]
    for hook in hooks:
        hook.remove()
    assert [id(m) for m in called[:2]] == [id(m) for m in model.layers[3:]] and len(called) == 2 + 5
    for mine, its in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("k", [0, 5, 6])
def test_a_cut_that_leaves_no_layer_on_one_side_is_refused(k, model):
    with pytest.raises(ValueError, match=f"got {k} layers above the cut; expected 1 to 4"):
        model.halves(k)


# --- what is kept --------------------------------------------------------------------------------------------------


def test_a_batch_holds_h_of_its_rows_and_the_loader_is_known_by_the_same_checksum():
    plain = chat.Conversations(conversations(talks.letters()))
    h = [torch.randn(len(ids), 7) for ids, _ in plain.encoded]
    kept, rows = sft_cache.Kept(plain, h), torch.tensor([2, 0])
    (x, y), (x0, y0) = kept.batch(rows), plain.batch(rows)
    assert all(torch.equal(x[name], x0[name]) for name in x0) and torch.equal(y, y0)
    assert x["h"].shape == (2, x0["ids"].shape[1], 7)
    for i, row in enumerate(rows):
        assert torch.equal(x["h"][i, : len(h[row])], h[row]) and not x["h"][i, len(h[row]) :].any()
    assert kept.fingerprint == plain.fingerprint and len(kept) == 3


def test_memory_is_looked_at_before_a_container_fills_its_own(monkeypatch, tmp_path):
    free = sft_cache.free_bytes()
    assert free > 1e8
    (tmp_path / "max").write_text("max\n")
    monkeypatch.setattr(sft_cache, "LIMITS", (tmp_path / "max", tmp_path / "none"))
    assert sft_cache.free_bytes() > 1e8
    (tmp_path / "max").write_text("1000\n")
    assert sft_cache.free_bytes() == 0 == sft_cache.limit(None) and sft_cache.limit(0.5) == 5e8
    monkeypatch.setattr(sft_cache, "free_bytes", lambda: 1e9)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert sft_cache.limit(None) == 1e9 * sft_cache.SHARE / 4


# --- runs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", talks.MAKES)
def test_a_run_on_what_is_kept_is_the_run_that_computes_all_layers(make, data, tmp_path, capsys):
    torch.manual_seed(3)
    net = talks.save_model(tmp_path / "net", net=talks.network(make))
    for name, more in (("kept", ()), ("anew", ("--cache-gb", "0"))):
        assert main(data, net, tmp_path / name, *more) == 0
    assert [KEPT in line for line in capsys.readouterr().out.splitlines() if "frozen" in line] == [True, False]
    assert_close_runs(tmp_path / "kept", tmp_path / "anew")
    start, end = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (net, tmp_path / "kept/model"))
    frozen = [name for name in start if any(f".{i}." in name for i in range(3))]
    assert len(frozen) >= 18 and all(torch.equal(start[name], end[name]) for name in frozen)
    assert sum(not torch.equal(start[name], end[name]) for name in start) > 10


def test_the_own_network_learns_the_same_from_what_is_kept(monkeypatch, data, tmp_path):
    monkeypatch.setattr(smollm2, "LAYERS", 3)
    words = [str(data), *WORDS, "--lr", "0.003", "--layers", "1", "--epochs", "1"]
    for name, more in (("kept", []), ("anew", ["--cache-gb", "0"])):
        sft = script("sft")
        monkeypatch.setattr(sft, "load_model", lambda name: torch.manual_seed(5) and load_model(name, pretrained=False))
        assert sft.main([*words, "--out", str(tmp_path / name), *more]) == 0
    assert_close_runs(tmp_path / "kept", tmp_path / "anew")


def test_frozen_layers_see_each_row_once_in_a_run(monkeypatch, net, data, tmp_path):
    sft, rows = script("sft"), []
    build = sft.build

    def watched(options):
        model = build(options)
        model.layers[0].register_forward_hook(lambda _, given, __: rows.append(len(given[0])))
        return model

    monkeypatch.setattr(sft, "build", watched)
    sft.main([*map(str, (data, "--out", tmp_path, "--model", net, *WORDS))])
    assert sum(rows) == 23 + 1 + 2 + 2  # beside them one token, and two rows that are computed both ways


def test_what_it_takes_is_said_and_too_much_is_not_kept(net, data, tmp_path, capsys):
    main(data, net, tmp_path / "a", "--epochs", "1")
    said = next(line for line in capsys.readouterr().out.splitlines() if "frozen" in line)
    tokens = sum(len(chat.encode(talks.letters(), talks.talk(i))[0]) for i in range(23))
    size = tokens * 22 * 4 / 1e9
    assert said == f"output of the frozen layers, 3 of 5, of all rows: {size:.3g} GB, {KEPT}"
    main(data, net, tmp_path / "b", "--epochs", "1", "--cache-gb", "0.00001")
    said = next(line for line in capsys.readouterr().out.splitlines() if "frozen" in line)
    assert f"{size:.3g} GB, is not kept" in said and "more than 1e-05 GB, --cache-gb; --cache-gb allows more" in said


@pytest.mark.parametrize("more", [("--strategy", "lora"), ("--strategy", "full"), ("--layers", "5")])
def test_where_nothing_is_frozen_below_nothing_is_said(more, net, data, tmp_path, capsys):
    words = [str(data), "--out", str(tmp_path), "--model", str(net), *talks.WORDS, "--epochs", "1", *more]
    script("sft").main(words)
    assert "output of the frozen" not in capsys.readouterr().out


def test_a_network_that_hands_on_more_between_its_layers_is_computed_whole(monkeypatch, net, data, tmp_path, capsys):
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    own, first = LlamaDecoderLayer.forward, []  # what entered the first layer, with what marks its pass

    def hands_on(self, h, *arguments, **named):
        if self.self_attn.layer_idx == 0:
            first[:] = [(h, named["position_embeddings"])]
        same_pass = first[0][1] is named["position_embeddings"]
        return own(self, h + 0.5 * first[0][0] if same_pass else h, *arguments, **named)

    monkeypatch.setattr(LlamaDecoderLayer, "forward", hands_on)
    assert main(data, net, tmp_path, "--epochs", "1") == 0
    assert "is not kept but computed in every epoch: between its layers this network" in capsys.readouterr().out


def test_what_learns_below_the_last_layers_keeps_them_from_being_kept(monkeypatch, net, data, tmp_path, capsys):
    sft = script("sft")
    build = sft.build

    def open_below(options):
        model = build(options)
        model.layers[1].input_layernorm.weight.requires_grad_(True)
        return model

    monkeypatch.setattr(sft, "build", open_below)
    sft.main([*map(str, (data, "--out", tmp_path, "--model", net, *WORDS, "--epochs", "1"))])
    assert "in every epoch: something that learns computes before the last layers" in capsys.readouterr().out


def test_dropout_of_layers_that_learn_does_not_count_as_a_difference(data, tmp_path, capsys):
    net = talks.save_model(tmp_path / "net", net=talks.network("gpt2", resid_pdrop=0.5))
    main(data, net, tmp_path / "run", "--epochs", "1")
    assert KEPT in capsys.readouterr().out


@pytest.mark.parametrize("before, after", [("0", "1"), ("1", "0")], ids=["kept from then on", "kept until then"])
def test_a_run_goes_on_with_what_is_kept_and_without(before, after, net, data, anew, tmp_path):
    words = [data, "--out", tmp_path, "--model", net, *WORDS, "--checkpoint-every", "1", "--cache-gb", before]
    ended("sft", signal.SIGKILL, "epoch 1/3", *words)
    assert script("sft").main(["--out", str(tmp_path), "--resume", "--cache-gb", after]) == 0
    assert_close_runs(tmp_path, anew)


def test_a_run_that_goes_on_has_the_frozen_layers_of_its_checkpoint(net, data, anew, tmp_path):
    """The folder of the model was changed meanwhile"""
    other = talks.save_model(tmp_path / "net")
    words = [data, "--out", tmp_path / "run", "--model", other, *WORDS, "--checkpoint-every", "1"]
    ended("sft", signal.SIGKILL, "epoch 1/3", *words)
    changed = AutoModelForCausalLM.from_pretrained(other)
    with torch.no_grad():
        for p in changed.model.layers[:3].parameters():
            p.mul_(1.5)
    changed.save_pretrained(other)
    assert script("sft").main(["--out", str(tmp_path / "run"), "--resume"]) == 0
    assert_close_runs(tmp_path / "run", anew)


def test_two_workers_share_the_computing_and_give_the_run_of_one_process(net, data, tmp_path):
    common = (data, "--model", net, *WORDS, "--batch-size", "4", "--micro-batch", "3")
    process = torchrun(ROOT / "tools" / "sft.py", *common, "--out", tmp_path / "two", monitor_s=5)
    assert process.returncode == 0 and process.stdout.count(f"{KEPT} by each worker") == 1, said(process)
    script("sft").main([*map(str, (*common, "--out", tmp_path / "one", "--cache-gb", "0"))])
    assert_close_runs(tmp_path / "two", tmp_path / "one")


@pytest.mark.parametrize(
    "options, size, words",
    [
        ({"shard": True, "cache_gb": None}, 1, "with --shard a worker has a part of each layer only"),
        ({"shard": False, "cache_gb": 0.0}, 0, "--cache-gb 0"),
        ({"shard": False, "cache_gb": None}, 7, "more than 5e-09 GB, 50% of the memory that is free for a worker"),
        ({"shard": False, "cache_gb": None}, 5, ""),
    ],
)
def test_why_nothing_is_kept_is_said(options, size, words):
    said = sft_cache._why_not(argparse.Namespace(**options), Group(0, 2), size, 5)
    assert said.startswith(words) and bool(said) == bool(words)
