"""Datasets: one module each (`solar_cells`, `image_folder`), all giving Splits, and the loader that feeds `fit`.

```python
from sftlib.datasets import augment, loader, solar_cells
cells = solar_cells.load(size=128)
train = loader(cells.train, backbone.preprocess, shuffle=True, augment=augment.flip)
```
"""

from sftlib.datasets.loading import Loader, loader, nest_loader
from sftlib.datasets.nests import NestSplit, trimmed
from sftlib.datasets.splits import PictureSplit, Split, Splits, stratified_split

__all__ = ["Loader", "NestSplit", "PictureSplit", "Split", "Splits", "loader", "nest_loader", "stratified_split",
           "trimmed"]  # fmt: skip
