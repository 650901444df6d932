"""The box to talk in: words appear as they come, Stop keeps what is there, an error is shown and raised."""

import threading

import pytest

from sftlib.widgets import ChatBox


def echo(messages, temperature):
    yield from (f"{messages[-1]['content']} ", f"at {temperature:g}, ", f"{len(messages)} messages")


def test_the_chosen_model_reads_the_task_and_all_turns():
    seen = []

    def other(messages, temperature):
        seen.append(messages)
        yield "<b>yes</b>"

    box = ChatBox({"before": echo, "after": other}, task="Be brief", temperature=0.5)
    assert box.ask("Hello") == "Hello at 0.5, 2 messages"
    box.model.value = "after"
    assert box.ask("And now?") == "<b>yes</b>"
    assert [(m["role"], m["content"]) for m in seen[0]] == [
        ("system", "Be brief"), ("user", "Hello"), ("assistant", "Hello at 0.5, 2 messages"), ("user", "And now?"),
    ]  # fmt: skip
    assert all(set(m) == {"role", "content"} for m in seen[0])
    assert "&lt;b&gt;yes" in box.talk.value and "<b>yes" not in box.talk.value
    assert box.talk.value.index("before:") < box.talk.value.index("after:")
    box.clear()
    box.task.value = " "
    box.ask("Alone")
    assert seen[1] == [{"role": "user", "content": "Alone"}]


def test_stop_ends_the_words_and_keeps_those_that_are_there():
    box, go_on, ended = ChatBox({"slow": lambda m, t: slow()}, question="Hello"), threading.Semaphore(0), []

    def slow():
        try:
            for i in range(1000):
                go_on.acquire(timeout=20)
                yield f"{i} "
        finally:
            ended.append(True)

    box.send()
    go_on.release(3)
    for _ in range(2000):
        if "2 " in box.talk.value:
            break
        threading.Event().wait(0.01)
    assert box.running and box.send_button.disabled and not box.stop_button.disabled
    box.send()  # while it writes, nothing happens
    box.stop_button.click()
    go_on.release()
    box.wait(20)
    assert box.turns[-1]["content"] == "0 1 2 3 " and len(box.turns) == 2 and not box.running
    assert not box.send_button.disabled and box.stop_button.disabled
    box.clear_button.click()
    assert box.turns == [] and "Hello" not in box.talk.value


def test_an_error_is_shown_and_raised_and_leaves_no_empty_turn():
    def broken(messages, temperature):
        raise ValueError("no <weights>")
        yield

    box = ChatBox({"broken": broken}, question="Hello")
    with pytest.raises(ValueError, match="no <weights>"):
        box.ask("Hello")
    assert box.turns == [] and "no &lt;weights&gt;" in box.message.value
    box.send()
    with pytest.raises(ValueError, match="no <weights>"):
        box.wait(20)
    box.models["broken"] = echo
    assert box.ask("Hello").startswith("Hello") and box.message.value == "" and box.error is None


def test_nothing_is_sent_without_words():
    box = ChatBox({"echo": echo}, question="  ")
    box.send_button.click()
    assert not box.running and box.turns == []
    assert repr(box) == "ChatBox(echo)"
