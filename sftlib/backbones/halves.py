"""A language model's f in two halves: what lies below its last layers, and the rest, which learns from its output."""

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn


class Upper(nn.Module):
    """{mask, answer, h (N, T, D)} -> z: the stages above one of them; every stage of f is here, under its own name"""

    def __init__(self, f: nn.Module, stage: str):
        super().__init__()
        for name in f.stages:
            self.add_module(name, getattr(f, name))
        self.above = f.stages[f.stages.index(stage) + 1 :]

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        """{mask, answer, h} -> z (N, A, D)"""
        for name in self.above:
            x = getattr(self, name)(x)
        return x


class Given(nn.Module):
    """Stands in for a layer: gives ``h``, whatever it is given; in a tuple where the layer does so"""

    def __init__(self, in_tuple: bool):
        super().__init__()
        self.h, self.in_tuple = None, in_tuple

    def forward(self, *_, **__):
        """-> h (N, T, D)"""
        return (self.h,) if self.in_tuple else self.h


class Seen(Given):
    """Stands in for a layer: keeps as ``h`` what it is given, and gives it on"""

    def forward(self, hidden_states: Tensor, *_, **__):
        """h (N, T, D) -> h"""
        self.h = hidden_states
        return super().forward()


class UpperDecoder(nn.Module):
    """{ids, mask, answer, h (N, T, D)} -> {h, answer}: a body of transformers whose lower layers are not computed

    The body itself is here under its own name, so that its tensors keep theirs.
    """

    def __init__(self, body: nn.Module, above: nn.Module, given: Given):
        super().__init__()
        self.body, self._above, self._given = body, (above,), (given,)  # in tuples: their names stay out of the state

    def forward(self, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """{ids, mask, answer, h} -> {h (N, T, D), answer}"""
        (above,), (given,) = self._above, self._given
        given.h = x["h"]
        h = above(input_ids=x["ids"], attention_mask=x["mask"].long(), use_cache=False).last_hidden_state
        given.h = None
        return {"h": h, "answer": x["answer"]}


def require_halves(k: int, layers: int) -> None:
    """ValueError unless k layers leave some below them"""
    if not 1 <= k < layers:
        raise ValueError(f"got {k} layers above the cut; expected 1 to {layers - 1}, for f has {layers}")


def of_body(body: nn.Module, path: str, k: int) -> tuple[Callable, UpperDecoder]:
    """A body whose layers are listed at ``path`` -> {ids, mask} -> h, what enters the last k; and the rest"""
    layers = list(body.get_submodule(path))
    [(_, output)] = ran(body, layers[:1])
    in_tuple, n = isinstance(output, tuple), len(layers) - k
    given, seen = Given(in_tuple), Seen(in_tuple)
    below = with_layers(body, path, [*layers[:n], *[seen] * k])
    above = with_layers(body, path, [*[given] * n, *layers[n:]])

    def lower(x: Mapping[str, Tensor]) -> Tensor:
        below(input_ids=x["ids"], attention_mask=x["mask"].long(), use_cache=False)
        h, seen.h = seen.h, None
        return h

    return lower, UpperDecoder(body, above, given)


def with_layers(body: nn.Module, path: str, layers: Sequence[nn.Module]) -> nn.Module:
    """The same body, its modules and tensors shared, with another list of layers at ``path``"""
    other = copy.copy(body)
    other._modules = dict(body._modules)
    name, _, rest = path.partition(".")
    other._modules[name] = with_layers(body.get_submodule(name), rest, layers) if rest else nn.ModuleList(layers)
    return other


def behind(body: nn.Module, layer: nn.Module, modules: Sequence[nn.Module]) -> list[nn.Module]:
    """Those of the modules that compute after the layer"""
    order = [module for module, _ in ran(body, [layer, *modules])]
    return [module for module in order[order.index(layer) + 1 :] if module is not layer]


@torch.no_grad()
def ran(body: nn.Module, modules: Sequence[nn.Module]) -> list[tuple[nn.Module, object]]:
    """A body of transformers -> which of these modules compute, in their order, and what they give of one token"""
    found = []
    hooks = [m.register_forward_hook(lambda m, _, output: found.append((m, output))) for m in modules]
    try:
        body(input_ids=torch.zeros(1, 1, dtype=torch.long, device=next(body.parameters()).device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return found
