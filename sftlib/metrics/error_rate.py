"""How many edits turn what a recogniser wrote into what was said."""

from collections.abc import Sequence

from torch import Tensor

BLANK = 0  # the class of CTC that writes nothing
PAD = -1  # fills the targets (N, U) behind the end of the shorter ones


def greedy_decode(log_p: Tensor, lengths: Tensor) -> list[list[int]]:
    """log p (N, T, K), lengths (N,) -> for each the classes of its best path, repeats merged, then blanks left out

    Graves et al. 2006, Connectionist Temporal Classification, section 3.2: best path decoding.
    """
    return [_collapsed(path[:n]) for path, n in zip(log_p.argmax(dim=-1).tolist(), lengths.tolist(), strict=True)]


def edit_distance(written: Sequence, said: Sequence) -> int:
    """The least number of insertions, deletions and substitutions that turn ``written`` into ``said`` (Levenshtein)"""
    row = list(range(len(said) + 1))  # distances of the first i of `written` to the first j of `said`
    for i, a in enumerate(written, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(said, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


class ErrorRate:
    """Edits over units of a CTC recogniser: (log p (N, T, K), lengths (N,)) against y (N, U), -1 behind the end.

    Sums over everything that was added, divided once. It may exceed 1: a recogniser can insert more than was said.
    """

    key, higher_is_better = "error_rate", False

    def __init__(self):
        self._paths: list[tuple[Tensor, Tensor, Tensor]] = []  # best paths (N, T), lengths (N,), targets (N, U)

    def add(self, output: tuple[Tensor, Tensor], y: Tensor) -> None:
        """((N, T, K), (N,)), y (N, U): only the best path is kept, and decoded when values are asked for."""
        if not (isinstance(output, tuple) and len(output) == 2 and output[0].ndim == 3 and y.ndim == 2):
            raise ValueError(
                f"got a {type(output).__name__} and y of shape {tuple(y.shape)}; expected (log p (N, T, K), lengths "
                "(N,)) and y (N, U): this measure is for transcripts"
            )
        log_p, lengths = output
        self._paths.append((log_p.detach().argmax(dim=-1), lengths, y))

    def values(self) -> dict[str, float]:
        """{"error_rate" = edits / units, "edits", "units"}; ValueError where nothing was said"""
        edits = units = 0
        for paths, lengths, targets in self._paths:
            for path, n, target in zip(paths.tolist(), lengths.tolist(), targets.tolist(), strict=True):
                said = [unit for unit in target if unit != PAD]
                edits, units = edits + edit_distance(_collapsed(path[:n]), said), units + len(said)
        if units == 0:
            raise ValueError(
                "got no units to compare with; expected at least one: is the loader empty, or all of y -1?"
            )
        return {"error_rate": edits / units, "edits": edits, "units": units}

    def state(self) -> dict:
        """{"paths": what was added, on the CPU}"""
        return {"paths": [tuple(t.cpu() for t in batch) for batch in self._paths]}

    def load(self, state: dict) -> None:
        """Go on from a ``state``, in place of what was added here."""
        self._paths = [tuple(batch) for batch in state["paths"]]

    def merge(self, other: "ErrorRate") -> None:
        """Add what was added to ``other``."""
        self._paths += other._paths


def _collapsed(path: list[int]) -> list[int]:
    return [k for k, before in zip(path, [None, *path], strict=False) if k not in (before, BLANK)]
