"""A box to talk to language models in: words appear as they are written, and can be stopped."""

import html
import threading
import traceback

import ipywidgets as w

from sftlib.widgets.figure import error_text

NAMES = {"user": "you", "system": "task"}


class ChatBox(w.VBox):
    """``ChatBox({"before": answer, "after": answer})``, answer(messages, temperature) -> iterator of pieces of text

    messages: [{"role", "content"}], the task (a system turn, which can be edited) first, then all turns so far. Send
    (``send()``) lets the chosen model write in a thread, so that Stop can be pressed; ``ask(text)`` does it in the
    calling cell and returns the answer. One answer is written at a time.
    """

    def __init__(self, models, *, task="", question="", temperature=0.0):
        self.models, self.turns, self.error = dict(models), [], None
        self._thread, self._stopped = None, threading.Event()
        wide = w.Layout(width="90%")
        self.model = w.Dropdown(options=list(self.models), description="model")
        style = {"description_width": "initial"}  # else a description is cut off after 80 pixels
        self.temperature = w.FloatSlider(temperature, min=0, max=2, step=0.1, description="temperature", style=style)
        self.task = w.Text(task, description="task", layout=wide)
        self.question = w.Textarea(question, description="you", layout=wide, rows=3)
        self.send_button = w.Button(description="Send", icon="paper-plane", button_style="success")
        self.stop_button = w.Button(description="Stop", icon="stop", disabled=True)
        self.clear_button = w.Button(description="Clear", icon="trash")
        self.talk, self.message = w.HTML(), w.HTML()
        self.send_button.on_click(lambda _: self.send())
        self.stop_button.on_click(lambda _: self.stop())
        self.clear_button.on_click(lambda _: self.clear())
        buttons = w.HBox([self.send_button, self.stop_button, self.clear_button])
        rows = [w.HBox([self.model, self.temperature]), self.task, self.question, buttons, self.talk, self.message]
        super().__init__(rows)

    @property
    def running(self):
        """Whether an answer is being written in the background."""
        return self._thread is not None and self._thread.is_alive()

    def ask(self, text):
        """Let the chosen model answer in the calling cell -> its words; raises what it raised."""
        self.question.value = text
        self._begin()
        self._work()
        if self.error is not None:
            raise self.error
        return self.turns[-1]["content"]

    def send(self):
        """Let the chosen model answer what stands in the box; returns at once."""
        if not self.running and self.question.value.strip():
            self._begin()
            self._thread = threading.Thread(target=self._work, name="ChatBox", daemon=True)
            self._thread.start()

    def stop(self):
        """Ask for no more words; what is written stays."""
        self._stopped.set()

    def clear(self):
        """Forget all turns."""
        self.stop()
        if not self.running:
            self.turns = []
            self._show()

    def wait(self, timeout_s=None):
        """Block until the answer is written; raises what the model raised."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        if self.running:
            raise TimeoutError(f"still writing after {timeout_s} s; wait longer, or end it with stop()")
        if self.error is not None:
            raise self.error

    def _begin(self):
        self._stopped.clear()
        self.error, self.message.value = None, ""
        self.send_button.disabled, self.clear_button.disabled, self.stop_button.disabled = True, True, False
        self.turns += [{"role": "user", "content": self.question.value.strip()}]

    def _work(self):
        name, said = self.model.value, {"role": "assistant", "content": ""}
        task = [{"role": "system", "content": self.task.value}] if self.task.value.strip() else []
        asked = [*task, *({k: turn[k] for k in ("role", "content")} for turn in self.turns)]
        self.turns.append({**said, "name": name})
        try:
            for piece in self.models[name](asked, self.temperature.value):
                self.turns[-1]["content"] += piece
                self._show()
                if self._stopped.is_set():
                    break
        except BaseException as error:  # wait() and ask() raise it
            self.error, self.message.value = error, error_text(error)
            traceback.clear_frames(error.__traceback__)
        finally:
            if not self.turns[-1]["content"]:
                self.turns = self.turns[:-2]  # a question without an answer is no part of the conversation
            self._show()
            self.send_button.disabled, self.clear_button.disabled, self.stop_button.disabled = False, False, True

    def _show(self):
        lines = [
            f"<p><b>{html.escape(turn.get('name') or NAMES.get(turn['role'], turn['role']))}:</b> "
            f"<span style='white-space:pre-wrap'>{html.escape(turn['content'])}</span></p>"
            for turn in self.turns
        ]
        self.talk.value = f"<div role='log' style='line-height:1.4;max-width:50em'>{''.join(lines)}</div>"

    def __repr__(self):
        return f"ChatBox({', '.join(self.models)})"
