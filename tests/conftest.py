"""Tests draw no windows and use one thread: a second one gains nothing at these sizes."""

import matplotlib
import torch

matplotlib.use("Agg")
torch.set_num_threads(1)
