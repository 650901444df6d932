"""tools/sft.py: what it learns, keeps, exports, refuses and says; killed and resumed; in two workers, and in shards.

On a tiny language model with a tokenizer of single bytes, made on the spot (tests/talks.py).
"""

import json
import random
import re
import shutil
import signal
from collections import Counter

import pytest
import talks
import torch
from helpers import said
from launching import torchrun
from scripts import ROOT, ended, run, script, table
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from sftlib.backbones import as_transformers, load_model, smollm2
from sftlib.datasets import chat
from tools import sft_check, sft_options, sft_rows

STRATEGIES = ("top-k", "lora", "full")
WORDS = talks.WORDS
net, data = talks.fixtures()


@pytest.fixture(scope="module")
def wholes(net, data, tmp_path_factory):
    """strategy -> a run of it that nothing stopped"""
    done = {}

    def of(strategy):
        if strategy not in done:
            done[strategy] = tmp_path_factory.mktemp("runs") / strategy
            assert main(data, net, done[strategy], "--strategy", strategy) == 0
        return done[strategy]

    return of


def main(data, net, out, *more):
    return script("sft").main([*map(str, (data, "--out", out, "--model", net, *WORDS, *more))])


def metrics(out):
    return json.loads((out / "metrics.json").read_text(encoding="utf-8"))


def exported(out):
    """-> network and tokenizer of RUN/model, as anyone loads them"""
    return AutoModelForCausalLM.from_pretrained(out / "model").eval(), AutoTokenizer.from_pretrained(out / "model")


@torch.no_grad()
def loss_by_the_library(net, tokenizer, conversations, *, everything=False):
    """transformers' own loss over these messages, one at a time, as a mean over all their targets"""
    total, count = 0.0, 0
    for messages in conversations:
        ids = tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
        asked = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=True)["input_ids"]
        stop = ids.index(tokenizer.eos_token_id, len(asked))
        targets = range(1, len(ids)) if everything else range(len(asked), stop + 1)
        log_p = net(torch.tensor([ids])).logits[0].log_softmax(1)
        total -= sum(log_p[t - 1, ids[t]].item() for t in targets)
        count += len(targets)
    return total / count


def assert_same_run(out, whole):
    """The files of two runs, to the bit"""
    for name in ("log.csv", "metrics.json", "model/model.safetensors", "model/README.md", "model/config.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    for name in ("last.pt", "best.pt"):
        mine, its = (torch.load(path / name, weights_only=True) for path in (out, whole))
        assert all(torch.equal(v, its["model"][k]) for k, v in mine["model"].items()) and mine["epoch"] == its["epoch"]
        assert mine["settings"] == its["settings"]


# --- what it learns, keeps and exports -----------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_exported_folder_is_the_best_epoch_and_its_loss_the_librarys(strategy, wholes, data):
    out = wholes(strategy)
    log, found = table(out / "log.csv"), metrics(out)
    best = min(log, key=lambda row: float(row["val_loss"]))
    assert [row["epoch"] for row in log] == ["1", "2", "3"]
    assert found["best"]["epoch"] == int(best["epoch"]) and found["best"]["val_loss"] == float(best["val_loss"])
    assert torch.load(out / "best.pt", weights_only=True)["epoch"] == int(best["epoch"])
    assert found["best"]["val_loss"] < found["before"]["loss"] - 0.3
    held = held_back(data)
    loss = loss_by_the_library(*exported(out), [row["messages"] for row in held])
    assert loss == pytest.approx(found["best"]["val_loss"], rel=1e-4)
    assert (found["rows"]["train"], found["rows"]["validation"]) == (23 - len(held), len(held)) == (20, 3)


def held_back(data, share=0.1):
    """The objects of the rows that the script validates on"""
    objects = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    encode = sft_rows.Encoder(talks.letters(), max_tokens=97)
    _, val = sft_rows.parted(sft_rows.read(data, encode)[0], share, seed=3)
    return [objects[row.line - 1] for row in val]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_exported_folder_gives_the_logits_of_the_trained_model(strategy, tied, wholes, data, tmp_path):
    net = tmp_path / "net"
    out = wholes(strategy)
    if not tied:
        talks.save_model(net, tied=False)
        out = tmp_path / "run"
        main(data, net, out, "--strategy", strategy)
    sft = script("sft")
    model = sft.build(sft_options.arguments(["--out", str(out), "--resume"], ""))
    model.load_state_dict(torch.load(out / "best.pt", weights_only=True)["model"])
    theirs, tokenizer = exported(out)
    ids, answer = chat.encode(tokenizer, talks.talk(4))
    x, _ = chat.collate([(ids, answer)])
    with torch.inference_mode():
        ours, whole = model.eval()(x)[0].T, theirs(ids[None]).logits[0, x["answer"][0]]
    torch.testing.assert_close(ours, whole, rtol=1e-4, atol=1e-5)
    shared = theirs.get_input_embeddings().weight is theirs.get_output_embeddings().weight
    assert shared == tied
    assert tokenizer.chat_template == talks.CHATML and theirs.generation_config.eos_token_id == tokenizer.eos_token_id


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_trains_what_its_strategy_says(strategy, wholes, net):
    start, end = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (net, wholes(strategy) / "model"))
    moved = {name for name, v in start.items() if not torch.equal(v, end[name])}
    top = {name for name in start if name.startswith("model.layers.4.")} | {"model.norm.weight"}
    inside = {name for name, v in start.items() if ".layers." in name and v.ndim == 2}
    assert moved == {"top-k": top, "lora": inside, "full": set(start)}[strategy]


def test_layers_and_rank_are_what_was_asked_for(net, data, tmp_path):
    main(data, net, tmp_path / "2", "--layers", "2", "--epochs", "1")
    start, end = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (net, tmp_path / "2" / "model"))
    moved = {name.split(".")[2] for name in start if ".layers." in name and not torch.equal(start[name], end[name])}
    assert moved == {"3", "4"}
    main(data, net, tmp_path / "3", "--strategy", "lora", "--rank", "3", "--epochs", "1")
    end = AutoModelForCausalLM.from_pretrained(tmp_path / "3" / "model").state_dict()
    delta = (end["model.layers.0.mlp.up_proj.weight"] - start["model.layers.0.mlp.up_proj.weight"]).double()
    assert torch.linalg.matrix_rank(delta, rtol=1e-4) == 3


def test_the_first_of_the_best_epochs_is_kept_where_learning_on_makes_it_worse(net, data, tmp_path):
    wrong = [[*talks.talk(i)[:-1], {"role": "assistant", "content": "XQZWJ" * 3}] for i in range(7)]
    held = talks.write_rows(tmp_path / "held.jsonl", [{"messages": messages} for messages in wrong])
    out = tmp_path / "run"
    main(data, net, out, "--validation", held, "--strategy", "full", "--epochs", "7")
    log, found = table(out / "log.csv"), metrics(out)
    losses = [float(row["val_loss"]) for row in log]
    assert found["best"]["epoch"] == 1 + losses.index(min(losses)) < 7
    assert loss_by_the_library(*exported(out), wrong) == pytest.approx(min(losses), rel=1e-4)


def test_with_train_prompt_every_token_but_the_first_is_learned(net, data, tmp_path):
    main(data, net, tmp_path, "--train-prompt", "--epochs", "1")
    found = metrics(tmp_path)
    assert found["tokens"]["learned"] == found["tokens"]["train"] - found["rows"]["train"]
    loss = loss_by_the_library(*exported(tmp_path), [r["messages"] for r in held_back(data)], everything=True)
    assert loss == pytest.approx(found["best"]["val_loss"], rel=1e-4)


def test_prompt_and_completion_are_a_question_and_its_answer(net, tmp_path):
    pairs = [{"prompt": f"{i}?", "completion": f"{i}!", "note": "kept out"} for i in range(7)]
    roles = {"prompt": "user", "completion": "assistant"}
    told = [{"messages": [{"role": role, "content": p[name]} for name, role in roles.items()]} for p in pairs]
    for name, given in (("a", pairs), ("b", told)):
        main(talks.write_rows(tmp_path / f"{name}.jsonl", given), net, tmp_path / name, "--epochs", "1")
    assert (tmp_path / "a" / "log.csv").read_text() == (tmp_path / "b" / "log.csv").read_text()


def test_a_model_whose_answers_end_otherwise_than_it_stops_is_told_where_to_stop(net, data, tmp_path):
    other = shutil.copytree(net, tmp_path / "net")
    config = GenerationConfig.from_pretrained(other)
    config.eos_token_id = 3
    config.save_pretrained(other)
    main(data, other, tmp_path / "run", "--epochs", "1")
    assert exported(tmp_path / "run")[0].generation_config.eos_token_id == [3, talks.letters().eos_token_id]


def test_the_models_own_network_is_trained_and_exported_too(monkeypatch, data, tmp_path):
    monkeypatch.setattr(smollm2, "LAYERS", 2)
    sft = script("sft")
    monkeypatch.setattr(sft, "load_model", lambda name: load_model(name, pretrained=False))
    words = [str(data), "--out", str(tmp_path), "--precision", "float32", "--epochs", "1", "--max-tokens", "97"]
    assert sft.main(words) == 0
    model = sft.build(sft_options.arguments(["--out", str(tmp_path), "--resume"], ""))
    model.load_state_dict(torch.load(tmp_path / "best.pt", weights_only=True)["model"])
    theirs, tokenizer = exported(tmp_path)
    ids = torch.tensor([tokenizer.apply_chat_template(talks.talk(3), return_dict=True)["input_ids"]])
    with torch.inference_mode():
        torch.testing.assert_close(as_transformers(model)(ids).logits, theirs(ids).logits, rtol=1e-5, atol=1e-6)
    assert metrics(tmp_path)["options"]["layers"] == 1


# --- rows that cannot be used ----------------------------------------------------------------------------------------

USER, ANSWER = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}
BROKEN = {  # line -> the row, what is said of it
    2: ("{not json", "is no JSON"),
    3: ([1], "is a list: write an object"),
    4: ({"text": "x"}, 'has \'text\', not "messages", nor "prompt" and "completion"'),
    5: ({"messages": []}, 'has "messages" that are no list, or an empty one'),
    6: ({"messages": [USER, {"role": "assistant"}]}, "message 1 is no"),
    7: ({"messages": [{"role": "bot", "content": "x"}, ANSWER]}, "has the role 'bot': use system, user, assistant"),
    8: ({"messages": [USER]}, "has no assistant's message"),
    9: ({"messages": [USER, {"role": "assistant", "content": " \n"}]}, "has an empty answer"),
    10: ({"messages": [USER, {"role": "assistant", "content": "long " * 50}]}, "ends beyond token 97"),
    11: ({"messages": [{"role": "user", "content": "a<|im_end|>b"}, ANSWER]}, "'<|im_end|>' in message 0"),
    12: ({"messages": [USER, ANSWER], "prompt": "x"}, "keep one of the two forms"),
    13: ({"prompt": 3, "completion": "x"}, "that is no text"),
    14: (b'{"messages": "\xff"}', "is not UTF-8 from byte 14 on"),
    16: ({"messages": [USER]}, "has no assistant's message"),
}


@pytest.fixture
def broken(tmp_path):
    """Good rows in lines 1 and 17 to 22, an empty line 15, broken ones in between"""
    between = [BROKEN[line][0] if line in BROKEN else "" for line in range(2, 17)]
    return talks.write_rows(tmp_path / "broken.jsonl", [*talks.rows(7)[:1], *between, *talks.rows(7)[1:]])


def test_all_rows_that_cannot_be_used_are_refused_by_line_and_nothing_is_written(broken, net, tmp_path):
    done = run("sft", broken, "--out", tmp_path / "run", "--model", net, *WORDS)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    lines = done.stderr.splitlines()
    for line, (_, words) in BROKEN.items():
        found = [said for said in lines if re.search(rf"broken.jsonl, lines? ([\d, ]+, )?{line}(,[\d, ]+)?: ", said)]
        assert len(found) == 1 and words in found[0], (line, done.stderr)
    assert not (tmp_path / "run").exists()
    assert "--skip-broken" in done.stderr and "lines 8, 16: " in done.stderr, done.stderr


def test_skipping_them_gives_the_run_of_the_others_and_names_them(broken, net, tmp_path, capsys):
    main(broken, net, tmp_path / "a", "--skip-broken", "--epochs", "1")
    said = capsys.readouterr().out
    assert all(f"left out: {broken}, line" in line for line in said.splitlines() if "left out" in line)
    assert len([line for line in said.splitlines() if "left out" in line]) == len(BROKEN) - 1  # two of one kind
    whole = talks.write_rows(tmp_path / "whole.jsonl", talks.rows(7))
    main(whole, net, tmp_path / "b", "--epochs", "1")
    assert (tmp_path / "a" / "log.csv").read_text() == (tmp_path / "b" / "log.csv").read_text()


def test_a_message_that_is_cut_behind_all_answers_loses_none(net, tmp_path):
    long = {"messages": [*talks.talk(1), {"role": "user", "content": "long " * 50}]}
    path = talks.write_rows(tmp_path / "rows.jsonl", [long, *talks.rows(5)])
    rows, faults = sft_rows.read(path, sft_rows.Encoder(talks.letters(), max_tokens=97))
    assert faults == [] and len(rows[0].ids) == 97 and rows[0].learned.any()


def test_equal_rows_stay_in_one_part_whatever_the_seed(tmp_path):
    path = talks.write_rows(tmp_path / "rows.jsonl", [talks.rows(11)[i % 11] for i in range(31)])
    rows, _ = sft_rows.read(path, sft_rows.Encoder(talks.letters(), max_tokens=97))
    drawn = set()
    for seed in range(29):
        train, val = sft_rows.parted(rows, 0.2, seed)
        assert len(train) + len(val) == 31 and train and 0.2 * 31 <= len(val) <= 0.2 * 31 + 3
        assert not {r.messages for r in train} & {r.messages for r in val}
        drawn.add(tuple(r.line for r in val))
    assert len(drawn) > 20


def test_validation_rows_that_are_trained_on_are_refused_or_left_out(data, net, tmp_path, capsys):
    held = talks.write_rows(tmp_path / "held.jsonl", [{"messages": talks.talk(i)} for i in (31, 4, 37)])
    with pytest.raises(ValueError, match=r"held.jsonl, line 2: is line 5 of the training rows too"):
        main(data, net, tmp_path / "run", "--validation", held)
    assert not (tmp_path / "run").exists()
    main(data, net, tmp_path / "run", "--validation", held, "--skip-broken", "--epochs", "1")
    assert "held.jsonl, line 2: is line 5" in capsys.readouterr().out
    assert metrics(tmp_path / "run")["rows"] == {"train": 23, "validation": 2}


def test_rows_that_leave_nothing_to_validate_on_are_refused(net, tmp_path):
    for n in (1, 3):
        path = talks.write_rows(tmp_path / "rows.jsonl", talks.rows(1) * n)
        lines = ", ".join(map(str, range(1, n + 1)))
        with pytest.raises(ValueError, match=rf"got 1 different row\(s\) \(line {lines}\); expected two or more"):
            main(path, net, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_without_a_chat_template_is_refused(net, data, tmp_path):
    bare = shutil.copytree(net, tmp_path / "net")
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="has no chat template, so nothing says how messages are written"):
        main(data, bare, tmp_path / "run")


# --- options -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, message",
    [
        (("--validation", "1.5"), "argument --validation: got 1.5; expected a share above 0 and below 1"),
        (("--lr", "0"), "argument --lr: got 0; expected a finite number above 0"),
        (("--layers", "2", "--strategy", "lora"), "got --layers with --strategy lora; expected it with top-k alone"),
        (("--rank", "2"), "got --rank with --strategy top-k; expected it with lora alone"),
        (("--strategy", "LoRA"), "argument --strategy: invalid choice"),
    ],
)
def test_options_that_cannot_be_are_refused_in_plain_words(words, message, net, data, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(data, net, tmp_path / "run", *words)
    assert ended.value.code == 2 and message in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "words, message",
    [
        (("--max-tokens", "131"), "got --max-tokens 131; expected at most 127"),
        (("--layers", "6"), "got --layers 6; expected at most 5"),
    ],
)
def test_what_the_model_does_not_have_is_refused(words, message, net, data, tmp_path):
    with pytest.raises(ValueError, match=message):
        main(data, net, tmp_path / "run", *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "words, name",
    [
        (("--epochs", "4"), "--epochs 4"),
        (("--batch-size", "7"), "--batch-size 7"),
        (("--strategy", "full"), "--strategy full"),
        (("--seed", "4"), "--seed 4"),
        (("--train-prompt",), "--train-prompt True"),
        (("--max-tokens", "89"), "--max-tokens 89"),
    ],
)
def test_options_that_differ_from_the_runs_are_refused_by_name(words, name, wholes):
    before = (wholes("top-k") / "last.pt").read_bytes()
    with pytest.raises(ValueError, match=f"got {name}.*is of a run with .*Only --lr can change"):
        script("sft").main(["--out", str(wholes("top-k")), "--resume", *words])
    assert (wholes("top-k") / "last.pt").read_bytes() == before


def test_other_rows_and_a_run_without_resume_are_refused(wholes, net, tmp_path):
    other = talks.write_rows(tmp_path / "other.jsonl", talks.rows(19))
    with pytest.raises(ValueError, match=r"got rows \{'train': \d+, .* is of a run with "):
        script("sft").main([str(other), "--out", str(wholes("top-k")), "--resume"])
    with pytest.raises(ValueError, match="is there already: --resume goes on from it"):
        main(other, net, wholes("top-k"))


def test_a_folder_with_the_model_of_another_run_is_refused_before_its_rows_are_read(wholes, net, tmp_path):
    out = shutil.copytree(wholes("top-k"), tmp_path / "run")
    (out / "last.pt").unlink()
    with pytest.raises(ValueError, match="model is there, of another run, whose last.pt is gone"):
        main(tmp_path / "none.jsonl", net, out)
    assert (out / "model" / "README.md").exists()


def test_arithmetic_is_what_was_asked_for_or_one_that_is_measured():
    cpu = torch.device("cpu")
    assert sft_options.arithmetic("bfloat16", cpu) == "bfloat16"
    assert sft_options.arithmetic("auto", cpu) in sft_options.ARITHMETICS


def test_bfloat16_is_close_to_float32_and_kept(net, data, wholes, tmp_path):
    main(data, net, tmp_path, "--precision", "bfloat16")
    mine, its = metrics(tmp_path), metrics(wholes("top-k"))
    assert mine["best"]["val_loss"] == pytest.approx(its["best"]["val_loss"], rel=0.1)
    assert mine["options"]["precision"] == "bfloat16" and mine["best"] != its["best"]


# --- stopped and gone on -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_killed_at_any_moment_and_resumed_a_run_ends_to_the_bit_as_if_never_stopped(
    strategy, net, data, wholes, tmp_path
):
    words = [data, "--out", tmp_path, "--model", net, *WORDS, "--strategy", strategy, "--checkpoint-every", "1"]
    ended("sft", signal.SIGKILL, random.choice(["1 worker", "before ", "epoch 1/3", "epoch 2/3", "epoch 3/3"]), *words)
    there = (tmp_path / "last.pt").exists()
    assert script("sft").main(["--out", str(tmp_path), "--resume"] if there else [*map(str, words), "--resume"]) == 0
    assert_same_run(tmp_path, wholes(strategy))


def test_a_run_that_is_done_is_left_as_it_is(wholes, capsys):
    out = wholes("lora")
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert script("sft").main(["--out", str(out), "--resume"]) == 0
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    assert "is there already" in capsys.readouterr().out


def test_an_export_that_was_stopped_is_made_again(wholes, tmp_path):
    out = shutil.copytree(wholes("lora"), tmp_path / "run")
    (out / "model").rename(out / "model.partial")
    (out / "model.partial" / "model.safetensors").write_bytes(b"half")
    (out / "metrics.json").unlink()
    script("sft").main(["--out", str(out), "--resume"])
    assert_same_run(out, wholes("lora"))
    assert not (out / "model.partial").exists()


def test_ctrl_c_ends_with_130_and_a_word_and_the_run_can_go_on(net, data, tmp_path):
    words = (data, "--out", tmp_path, "--model", net, *WORDS, "--epochs", "29")
    code, errors = ended("sft", signal.SIGINT, "epoch 1/29", *words)
    assert code == 130 and errors.splitlines()[-1].startswith("sft.py: stopped; --resume goes on"), errors
    assert "Traceback" not in errors, errors
    script("sft").main(["--out", str(tmp_path), "--resume"])
    assert [row["epoch"] for row in table(tmp_path / "log.csv")] == [str(i) for i in range(1, 30)]


def test_a_rate_that_changes_at_a_resume_is_applied(net, data, wholes, tmp_path):
    sft, own = script("sft"), []

    def ends(*arguments):
        own.append(1)
        raise KeyboardInterrupt

    sft.write = ends
    with pytest.raises(KeyboardInterrupt):
        sft.main([*map(str, (data, "--out", tmp_path, "--model", net, *WORDS))])
    script("sft").main(["--out", str(tmp_path), "--resume", "--lr", "0.001"])
    (group,) = torch.load(tmp_path / "last.pt", weights_only=True)["optimizer"]["param_groups"]
    mine, its = table(tmp_path / "log.csv"), table(wholes("top-k") / "log.csv")
    assert group["initial_lr"] == 0.001 and mine[0] == its[0] and mine[2]["train_loss"] != its[2]["train_loss"]


# --- several workers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "strategy, more",
    [("top-k", ()), ("full", ("--shard",)), ("lora", ("--shard", "--micro-batch", "2"))],
    ids=["top-k", "full in shards", "lora in shards and parts"],
)
def test_two_workers_give_the_run_of_one_process(strategy, more, net, data, tmp_path):
    # 20 rows to train on in batches of 4: each worker has as many parts
    common = (data, "--model", net, *WORDS, "--batch-size", "4", "--strategy", strategy)
    process = torchrun(ROOT / "tools" / "sft.py", *common, "--out", tmp_path / "two", *more, monitor_s=5)
    assert process.returncode == 0, said(process)
    assert "warning" not in process.stderr.lower(), said(process)
    lines = ("2 worker(s), cpu", "before", "epoch 1/3", "epoch 3/3")
    assert [process.stdout.count(line) for line in lines] == [1, 1, 1, 1], said(process)  # one log
    script("sft").main([*map(str, (*common, "--out", tmp_path / "one"))])
    for mine, its in zip(table(tmp_path / "two" / "log.csv"), table(tmp_path / "one" / "log.csv"), strict=True):
        its = {name: float(value) for name, value in its.items()}
        assert {name: float(value) for name, value in mine.items()} == pytest.approx(its, rel=1e-4)
    two, one = (exported(tmp_path / name)[0].state_dict() for name in ("two", "one"))
    for name, value in two.items():
        torch.testing.assert_close(value, one[name], rtol=1e-3, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


def test_broken_rows_end_all_workers_before_anything_is_written(broken, net, tmp_path):
    words = (broken, "--out", tmp_path / "run", "--model", net, *WORDS)
    process = torchrun(ROOT / "tools" / "sft.py", *words, monitor_s=5)
    assert process.returncode != 0 and "line 9: has an empty answer" in process.stderr, said(process)
    assert not (tmp_path / "run").exists()


# --- a look before -------------------------------------------------------------------------------------------------


def test_check_says_what_is_learned_and_trains_nothing(data, net, tmp_path, capsys):
    assert main(data, net, tmp_path / "run", "--check") == 0
    said = capsys.readouterr().out
    assert "training: 20 rows of" in said and "validation: 3 rows of" in said and "0 findings" in said
    (shown,) = re.findall(r"⟦(.*?)⟧", said, re.DOTALL)
    assert shown.removesuffix("<|im_end|>") in talks.COLOURS and shown.endswith("<|im_end|>")
    assert not (tmp_path / "run").exists()


def test_check_finds_questions_of_both_parts_and_rows_that_count_twice(net, tmp_path, capsys):
    first = talks.talk(1)
    other = [*first[:-1], {"role": "assistant", "content": "another"}]
    path = talks.write_rows(tmp_path / "rows.jsonl", [*talks.rows(7), talks.rows(7)[2]])
    held = talks.write_rows(tmp_path / "held.jsonl", [{"messages": other}, {"messages": talks.talk(41)}])
    assert main(path, net, tmp_path / "run", "--check", "--validation", held) == 1
    said = capsys.readouterr().out
    assert "validation, lines 1: their question is in the training rows" in said and "1 training row(s) say" in said


def test_the_longest_and_the_counts_of_a_part_are_those_of_its_rows(data):
    rows, _ = sft_rows.read(data, sft_rows.Encoder(talks.letters(), max_tokens=97))
    lengths = Counter(len(row.ids) for row in rows)
    text = sft_check.sizes(rows)
    assert f"23 rows of {min(lengths)} to {max(lengths)} tokens" in text
    assert f"{sum(int(row.learned.sum()) for row in rows)} of" in text.replace(",", "")
