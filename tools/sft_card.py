"""What tools/sft.py writes beside the weights that it exports: where they stop, and a card."""

import json
from pathlib import Path

CARD = """---
base_model: {model}
tags: [supervised-fine-tuning]
---

# {model}, tuned on {data}

{rows[train]:,} conversations were learned from ({tokens[learned]:,} of their {tokens[train]:,} tokens count), and
{rows[validation]:,} others chose the epoch. What learned: {strategy}, with the rate {lr:g}.

| | loss on the {rows[validation]:,}, nats per token | accuracy per token |
|---|---|---|
| as it came | {before[loss]:.4f} | {before[accuracy]:.4f} |
| here, epoch {best[epoch]} of {epochs} | {best[val_loss]:.4f} | {best[val_accuracy]:.4f} |

These {rows[validation]:,} chose the epoch, so the loss on them is a little too good: judge the model by what it writes
for questions that it has never met, and by what it has forgotten elsewhere. Its licence is that of the base model,
within what the licence of the conversations allows.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained(FOLDER), AutoModelForCausalLM.from_pretrained(FOLDER)
asked = tokenizer.apply_chat_template(
    [{{"role": "user", "content": "…"}}], add_generation_prompt=True, return_dict=True, return_tensors="pt"
)
print(tokenizer.decode(model.generate(**asked, max_new_tokens=200)[0]))
```

Options: `{options}`
"""


def card(metrics: dict) -> str:
    """What metrics.json holds -> the text of a card"""
    options = metrics["options"]
    shown = {
        "top-k": f"the last {options['layers']} layers",
        "lora": f"LoRA of rank {options['rank']}, merged",
        "full": "all of it",
    }
    return CARD.format(
        **{name: metrics[name] for name in ("rows", "tokens", "before", "best")}, lr=options["lr"],
        model=Path(options["model"]).name if Path(options["model"]).is_dir() else options["model"],
        data=Path(options["data"]).name, strategy=shown[options["strategy"]], epochs=options["epochs"],
        options=json.dumps({name: value for name, value in options.items() if name not in ("data", "model")}),
    )  # fmt: skip


def let_stop(folder: Path, stops: list[int]) -> None:
    """Have the model in ``folder`` stop writing at these tokens too, which end the answers that it learned"""
    from transformers import GenerationConfig

    config = GenerationConfig.from_pretrained(folder)
    known = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    known = [token for token in known if token is not None]
    new = [token for token in stops if token not in known]
    if new:
        config.eos_token_id = [*known, *new]
        config.save_pretrained(folder)
