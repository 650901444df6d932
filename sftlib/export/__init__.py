"""A trained model leaves this project: as files that PyTorch, or ONNX Runtime alone, can run, with a card.

`export(model, folder, …)` writes all of it and compares what it wrote with the model before it returns.
"""

from sftlib.export.card import card
from sftlib.export.deployed import Deployed
from sftlib.export.writing import by_resize, export

__all__ = ["Deployed", "by_resize", "card", "export"]
