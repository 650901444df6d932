"""At which rate does each way of tuning the language model learn best? Judged on 32 validation rows, one seed.

The ways, rows and passes of `language_model`. The best rate of a way has the smallest `loss`, in nats per token of the
right answers; `exact` is the share of answers written word for word. The seed is used for nothing else.
"""

from sftlib.datasets import chat, nest_loader
from sftlib.metrics import Exact
from sftlib.training import evaluate
from tools.experiments import language_model as language  # the same task, ways and judge

SEEDS = (1001,)
CANDIDATES = {
    "top 6": (1e-4, 3e-4, 1e-3, 3e-3), "top 2": (3e-4, 1e-3, 3e-3), "LoRA": (3e-4, 1e-3, 3e-3),
    "full": (3e-5, 1e-4, 3e-4),
}  # fmt: skip


def settings():
    """Ways x rates."""
    return [{"method": method, "lr": lr} for method, rates in CANDIDATES.items() for lr in rates]


def run(setting, seed):
    """One row: loss and exact on the validation rows, seconds of the processor for training."""
    model, cpu_s = language.tuned("topic", setting["method"], setting["lr"], seed)
    loader = nest_loader(chat.Conversations(language.encoded("topic", "val")), batch_size=16)
    judged = evaluate(model, loader, **language.HOW | {"metric": Exact})
    return {"loss": round(judged["loss"], 4), "exact": round(judged["exact"], 4), "cpu_s": round(cpu_s, 1)}
