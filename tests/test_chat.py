"""Conversations as tokens: what an assistant has to learn, whatever the template."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sftlib.datasets import chat

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SMOL = (  # writes a system turn of its own
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe kind<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
)
LLAMA2 = (  # the system's words within the first user's, no word for the assistant, a space before the end
    "{% if messages[0]['role'] == 'system' %}{% set system = '<<SYS>>' + messages[0]['content'] + '<</SYS>> ' %}"
    "{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if m['role'] == 'user' %}"
    "{{ '<s>[INST] ' + (system if loop.first else '') + m['content'] + ' [/INST]' }}{% else %}"
    "{{ ' ' + m['content'].strip() + ' </s>' }}{% endif %}{% endfor %}"
)  # fmt: skip
GEMMA = (  # refuses a system turn, has another name for the assistant, trims
    "{{ '<s>' }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<|im_start|>' + role + '\n' + m['content'] | trim + '<|im_end|>\n' }}{% endfor %}"
)
TEMPLATES = {"chatml": CHATML, "smol": SMOL, "llama2": LLAMA2, "gemma": GEMMA}
STOP = {"chatml": "<|im_end|>", "smol": "<|im_end|>", "llama2": "</s>", "gemma": "<|im_end|>"}

TALK = [
    {"role": "user", "content": "Who wrote it?"},
    {"role": "assistant", "content": "The assistant did.\n\nIn May."},
    {"role": "user", "content": "assistant\nWho?"},
    {"role": "assistant", "content": "assistant"},
]
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.fixture(scope="module", params=["letters", "pairs"])
def bare(request):
    """Tokens of single bytes; or with pairs too, some of them across the border between a template and the words"""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = ["ĊĊ", "tĊ", "Ġt", "ĠT", "ti", "st", "an", ".Ċ"] if request.param == "pairs" else []
    merges = [tuple(pair) for pair in pairs]
    pieces = Tokenizer(models.BPE({token: i for i, token in enumerate([*alphabet, *pairs])}, merges))
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pieces.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=pieces, eos_token="<|im_end|>", bos_token="<s>", pad_token="<pad>",
        additional_special_tokens=["<|im_start|>", "</s>"],
    )  # fmt: skip


@pytest.fixture
def tokenizer(bare):
    before = bare.chat_template
    yield bare
    bare.chat_template = before


def runs(tokenizer, ids, answer):
    """The texts that are marked, one after the other"""
    found, open_ = [], False
    for i, marked in zip(ids.tolist(), answer.tolist(), strict=True):
        if marked:
            found = [*found[:-1], [*found[-1], i]] if open_ else [*found, [i]]
        open_ = marked
    return [tokenizer.decode(run) for run in found]


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("system", [False, True])
def test_marked_are_the_words_and_the_end_of_each_turn(tokenizer, name, system):
    if system and name == "gemma":
        pytest.skip("has no system turn")
    tokenizer.chat_template, stop = TEMPLATES[name], STOP[name]
    messages = [SYSTEM, *TALK] if system else TALK
    ids, answer = chat.encode(tokenizer, messages)
    assert ids.tolist() == tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
    expected = [m["content"] + stop for m in TALK if m["role"] == "assistant"]
    got = runs(tokenizer, ids, answer)
    if name == "llama2":  # a token of its own between the words and the end; and one that holds a space and a letter
        got = ["".join(got[:2]), "".join(got[2:])]
        expected = [" " * text.startswith("The") * ("ĠT" in tokenizer.get_vocab()) + text for text in expected]
    assert got == expected


@pytest.mark.parametrize("name", ["chatml", "smol", "gemma"])
def test_what_a_model_reads_before_it_answers_is_what_stands_before_the_words(tokenizer, name):
    tokenizer.chat_template = TEMPLATES[name]
    ids, answer = chat.encode(tokenizer, TALK[:2])
    role = "model" if name == "gemma" else "assistant"
    before = tokenizer.apply_chat_template(TALK[:1], tokenize=False) + f"<|im_start|>{role}\n"
    first = int(answer.nonzero()[0])
    assert ids[:first].tolist() == tokenizer(before, add_special_tokens=False).input_ids


@pytest.mark.parametrize("name", TEMPLATES)
def test_an_empty_answer_is_the_end_of_its_turn_alone(tokenizer, name):
    tokenizer.chat_template = TEMPLATES[name]
    messages = [TALK[0], {"role": "assistant", "content": ""}, TALK[2], TALK[3]]
    ids, answer = chat.encode(tokenizer, messages)
    got = runs(tokenizer, ids, answer)
    assert got[0] == STOP[name] and "".join(got[1:]).strip() == "assistant" + STOP[name]


def test_a_token_across_the_border_counts_for_the_words(tokenizer):
    tokenizer.chat_template = CHATML.replace("m['role'] + '\n'", "m['role'] + ':\n'")
    messages = [TALK[0], {"role": "assistant", "content": "\nTwo"}]
    ids, answer = chat.encode(tokenizer, messages)
    expected = "\n\nTwo<|im_end|>" if "ĊĊ" in tokenizer.get_vocab() else "\nTwo<|im_end|>"  # one token
    assert runs(tokenizer, ids, answer) == [expected]


@pytest.mark.parametrize("words", ["In May.", "At last"])  # "st" is one token, and two where a line ends behind it
def test_between_the_words_and_the_end_nothing_is_marked(tokenizer, words):
    tokenizer.chat_template = CHATML.replace("'<|im_end|>'", "'\n<|im_end|>'")
    messages = [TALK[0], {"role": "assistant", "content": words}]
    ids, answer = chat.encode(tokenizer, messages)
    together = ".Ċ" in tokenizer.get_vocab()  # the line's end is in the token of the last letter
    assert runs(tokenizer, ids, answer) == ([f"{words}\n<|im_end|>"] if together else [words, "<|im_end|>"])


def test_the_first_message_may_be_the_assistants(tokenizer):
    tokenizer.chat_template = CHATML
    ids, answer = chat.encode(tokenizer, [{"role": "assistant", "content": "Hello"}, TALK[0]])
    assert runs(tokenizer, ids, answer) == ["Hello<|im_end|>"]


def test_truncation_keeps_whole_answers_or_refuses(tokenizer):
    tokenizer.chat_template = CHATML
    messages = [*TALK[:2], TALK[2]]
    ids, answer = chat.encode(tokenizer, messages)
    end = int(answer.nonzero()[-1]) + 1
    assert end < len(ids)
    for length in (end, end + 3, len(ids), len(ids) + 7):
        some, marked = chat.encode(tokenizer, messages, max_length=length)
        assert torch.equal(some, ids[:length]) and torch.equal(marked, answer[:length])
    for length in (end - 1, 3, 0):
        with pytest.raises(ValueError, match=f"max_length={length}, which cuts an answer.*up to token {end}"):
            chat.encode(tokenizer, messages, max_length=length)


@pytest.mark.parametrize("template, words", [
    # a template that shows what was thought only in the last answer
    ("{% for m in messages %}{{ '<|im_start|>' + ('<think>' if loop.last else '') + m['content'] + '<|im_end|>' }}"
     "{% endfor %}", "otherwise when another one follows"),
    ("{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}", "no special token behind"),
    ("{{ raise_exception('Roles must alternate') }}", "Roles must alternate"),
])  # fmt: skip
def test_templates_that_cannot_be_learnt_from_are_refused(tokenizer, template, words):
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match=words):
        chat.encode(tokenizer, TALK)


@pytest.mark.parametrize("messages, words", [
    ([], "no message with the role 'assistant'"),
    ([TALK[0]], "no message with the role 'assistant'"),
    ([{"role": "assistant"}], "as message 0"),
    ([TALK[0], {"role": "assistant", "content": None}], "as message 1"),
    (["hello"], "'hello' as message 0"),
    ([{"role": "user", "content": "x<|im_end|>\n<|im_start|>assistant\ny"}, TALK[1]], "no special token in a text"),
])  # fmt: skip
def test_messages_that_are_none_are_refused(tokenizer, messages, words):
    tokenizer.chat_template = CHATML
    with pytest.raises(ValueError, match=words):
        chat.encode(tokenizer, messages)


def test_collated_positions_predict_the_answers():
    encoded = [
        (torch.tensor([11, 12, 13, 14, 15]), torch.tensor([0, 0, 1, 1, 0]).bool()),
        (torch.tensor([21, 22, 23]), torch.tensor([0, 1, 1]).bool()),
        (torch.tensor([31, 32, 33, 34, 35, 36, 37]), torch.tensor([0, 1, 0, 0, 1, 0, 1]).bool()),
    ]
    x, y = chat.collate(encoded)
    assert x["ids"].shape == x["mask"].shape == (3, 7) and x["mask"].sum(1).tolist() == [5, 3, 7]
    assert x["answer"].tolist() == [[1, 2, 0], [0, 1, 0], [0, 3, 5]]
    assert y.tolist() == [[13, 14, -100], [22, 23, -100], [32, 35, 37]]
    predicted = x["ids"].gather(1, x["answer"] + 1)
    assert torch.equal(predicted[y != -100], y[y != -100])


@pytest.mark.parametrize("answer", [[0, 0, 0], [1, 0, 0]])
def test_what_nothing_predicts_is_not_collated(answer):
    with pytest.raises(ValueError, match="as conversation 0"):
        chat.collate([(torch.tensor([11, 12, 13]), torch.tensor(answer).bool())])


# --- what a model is asked, and batches ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("asked", [TALK[:1], TALK[:3]])
def test_a_prompt_is_what_stands_before_the_answer_in_training(tokenizer, name, asked):
    tokenizer.chat_template = TEMPLATES[name]
    ids = chat.prompt(tokenizer, asked)
    whole, answer = chat.encode(tokenizer, [*asked, {"role": "assistant", "content": "Qu"}])
    first = int(answer.nonzero()[-1]) - (3 if name == "llama2" else 2)  # "Q", "u", a space in one template, the end
    assert torch.equal(ids, whole[: len(ids)]) and len(ids) in (first, first - 1)
    assert len(ids) == first or name == "llama2"


@pytest.mark.parametrize("messages", [[], TALK[:2]])
def test_without_a_question_there_is_no_prompt(tokenizer, messages):
    tokenizer.chat_template = CHATML
    with pytest.raises(ValueError, match="no message to answer"):
        chat.prompt(tokenizer, messages)


def encoded(*lengths):
    found = []
    for length in lengths:
        answer = torch.zeros(length, dtype=torch.bool)
        answer[length // 2 :] = True
        found.append((torch.arange(length) + 100 * length, answer))
    return found


def test_batches_of_conversations_are_as_long_as_their_longest():
    from sftlib.datasets import nest_loader

    split = chat.Conversations(encoded(3, 17, 5, 13, 2, 19, 7))
    assert split.lengths.tolist() == [3, 17, 5, 13, 2, 19, 7] and len(split) == 7
    widths = [(x["ids"].shape, y.shape) for x, y in nest_loader(split, batch_size=3, lengths=split.lengths)]
    assert widths == [((3, 5), (3, 3)), ((3, 17), (3, 9)), ((1, 19), (1, 10))]
    x, y = split.batch(torch.tensor([4, 0]))
    assert x["ids"].tolist() == [[200, 201, 0], [300, 301, 302]] and y.tolist() == [[201, -100], [301, 302]]
    assert int(chat.counted(y)) == 3
    some = split.subset([5, 2])
    assert some.lengths.tolist() == [19, 5] and torch.equal(some[1][0], split[2][0])


def test_conversations_are_known_by_their_tokens_and_answers():
    one, other = encoded(3, 5), encoded(3, 5)
    assert chat.Conversations(one).fingerprint == chat.Conversations(other).fingerprint
    other[1][1][2] = False
    assert chat.Conversations(one).fingerprint != chat.Conversations(other).fingerprint
    assert chat.Conversations(one).fingerprint != chat.Conversations(one[::-1]).fingerprint


def test_conversations_without_an_answer_are_refused():
    with pytest.raises(ValueError, match="no conversation"):
        chat.Conversations([])
    with pytest.raises(ValueError, match="as conversation 1"):
        chat.Conversations([*encoded(3), (torch.arange(3), torch.zeros(3, dtype=torch.bool))])
