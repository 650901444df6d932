"""Losses of sequences without an alignment."""

import torch.nn.functional as F
from torch import Tensor

PAD = -1  # fills the targets (N, U) behind the end of the shorter ones


def ctc(output: tuple[Tensor, Tensor], y: Tensor, *, blank: int = 0) -> Tensor:
    """(log p (N, T, K), lengths (N,)), y (N, U) with -1 behind the end -> () mean over examples of −log p(y | x) / U_i

    Graves et al. 2006, Connectionist Temporal Classification, eq. (5): all paths of T_i frames that read y_i count.
    ValueError for an example that no path fits: it needs a frame for each unit, and one between two equal ones.
    """
    log_p, lengths = output
    units = (y != PAD).sum(dim=1)
    repeats = ((y[:, 1:] == y[:, :-1]) & (y[:, 1:] != PAD)).sum(dim=1)
    needs = units + repeats
    if y.device.type == "cpu" and (needs > lengths.to(y.device)).any():
        i = int((needs > lengths.to(y.device)).nonzero()[0])
        raise ValueError(
            f"got {int(lengths[i])} frames for {int(units[i])} units in example {i}; expected at least "
            f"{int(needs[i])}: a frame for each unit and one between two equal ones. Leave it out, "
            "or take more frames a second"
        )
    targets = y.clamp(min=0)
    return F.ctc_loss(log_p.transpose(0, 1), targets, lengths, units, blank=blank)
