"""What a look at pictures has to say: remarks, and a list of them that a notebook shows as a table."""

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

# In this order in a report, with what to do about each
KINDS = {
    "copy in another class": "decide which class it belongs to: one of the two labels is wrong",
    "copy in another part": "leave one out: a test picture that was trained on measures memory",
    "copy": "leave it out, or keep copies together: it counts twice",
    "small class": "collect more: what is measured of so few pictures is hardly known",
    "rare class": "report balanced accuracy; weigh the loss by class, or draw with weights",
    "dark": "look at it: can you tell the class yourself?",
    "bright": "look at it: can you tell the class yourself?",
    "blurred": "look at it: can you tell the class yourself?",
    "little in it": "look at it: an empty or nearly empty picture teaches nothing",
    "odd size": "look at it: was it taken by another camera, for one class only?",
    "odd shape": "the middle square is kept: is what matters still in it?",
    "label": "look at it: only you know which label is right",
}
SHOWN = 8  # of each kind in a text


@dataclass(frozen=True)
class Remark:
    """One remark of a kind of ``KINDS``: the file (or class) it is about, in words, and a file that belongs to it."""

    kind: str
    file: str
    words: str
    other: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"got kind={self.kind!r}; expected one of {', '.join(KINDS)}")


class Remarks(list[Remark]):
    """A list of remarks, in the order of ``KINDS``; ``pictures``: how many were looked at"""

    def __init__(self, remarks: Iterable[Remark] = (), *, pictures: int = 0):
        order = list(KINDS)
        super().__init__(sorted(remarks, key=lambda remark: order.index(remark.kind)))
        self.pictures = pictures

    def of(self, *kinds: str) -> list[Remark]:
        """Those of these kinds"""
        return [remark for remark in self if remark.kind in kinds]

    @property
    def kinds(self) -> dict[str, int]:
        """How many there are of each kind that there is"""
        return {kind: n for kind in KINDS if (n := len(self.of(kind)))}

    def __str__(self) -> str:
        lines = [self._summary()]
        for kind, n in self.kinds.items():
            lines += [f"{kind} ({n}): {KINDS[kind]}", *(f"    {r.file}: {r.words}" for r in self.of(kind)[:SHOWN])]
            lines += [f"    … and {n - SHOWN} more"] if n > SHOWN else []
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td><b>{escape(kind)}</b></td><td>{n}</td><td>{escape(KINDS[kind])}</td>"
            f"<td>{'<br>'.join(escape(f'{r.file}: {r.words}') for r in self.of(kind)[:SHOWN])}"
            f"{'<br>…' if n > SHOWN else ''}</td></tr>"
            for kind, n in self.kinds.items()
        ).replace("<td>", "<td style='text-align:left;vertical-align:top'>")
        head = "".join(
            f"<th style='text-align:left'>{name}</th>" for name in ("what", "how many", "what to do", "which")
        )
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>" if self else ""
        return f"<p><b>{escape(self._summary())}</b></p>{table}"

    def _summary(self) -> str:
        found = ", ".join(f"{n} {kind}" for kind, n in self.kinds.items())
        return f"{self.pictures:,} pictures looked at: {found or 'nothing odd'}"
