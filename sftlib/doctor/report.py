"""What the doctor says: findings, and a list of them that a notebook shows as a table."""

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

SURE = ("certain", "likely", "note")  # "note": worth knowing, usually no mistake
COLOURS = {"certain": "#B03A00", "likely": "#8A5A00", "note": "#00527A"}  # on white, 4.5 : 1 and more


@dataclass(frozen=True)
class Finding:
    """One mistake: its stable ``code``, the names it was found at, what it does to the result, how to mend it.

    ``sure`` is "certain" where it follows from what was seen, "likely" where sound set-ups seldom look so, and "note"
    where many do.
    """

    code: str
    where: str
    message: str
    remedy: str
    sure: str

    def __post_init__(self) -> None:
        if self.sure not in SURE:
            raise ValueError(f"got sure={self.sure!r}; expected one of {', '.join(SURE)}")

    def __str__(self) -> str:
        return f"[{self.sure}] {self.code}: {self.where}\n    {self.message}\n    -> {self.remedy}"


class Findings(list[Finding]):
    """A list of findings, the surest first; ``not_looked_at``: what could not be examined, and why"""

    def __init__(self, findings: Iterable[Finding] = (), *, looked_at: int = 0, not_looked_at: Iterable[str] = ()):
        super().__init__(sorted(findings, key=lambda finding: SURE.index(finding.sure)))
        self.looked_at, self.not_looked_at = looked_at, tuple(not_looked_at)

    @property
    def codes(self) -> list[str]:
        """The code of each finding"""
        return [finding.code for finding in self]

    @property
    def mistakes(self) -> list[Finding]:
        """Those above "note" """
        return [finding for finding in self if finding.sure != "note"]

    def __str__(self) -> str:
        missing = [f"not looked at: {words}" for words in self.not_looked_at]
        return "\n".join([self._summary(), *map(str, self), *missing])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = "".join(_row(finding) for finding in self)
        head = "".join(f"<th style='text-align:left'>{name}</th>" for name in HEADER)
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>" if self else ""
        missing = "".join(f"<li>{escape(words)}</li>" for words in self.not_looked_at)
        rest = f"<details><summary>Not looked at</summary><ul>{missing}</ul></details>" if missing else ""
        return f"<p><b>{escape(self._summary())}</b></p>{table}{rest}"

    def _summary(self) -> str:
        counts = [f"{sum(f.sure == sure for f in self)} {sure}" for sure in SURE]
        return f"{self.looked_at} checks, {len(self)} findings: {', '.join(counts)}"


HEADER = ("sure", "code", "where", "what it does", "what to do")


def _row(finding: Finding) -> str:
    sure = f"<td style='color:white;background:{COLOURS[finding.sure]}'><b>{finding.sure}</b></td>"
    values = (f"<code>{escape(finding.code)}</code>", *map(escape, (finding.where, finding.message, finding.remedy)))
    cells = "".join(f"<td style='text-align:left;vertical-align:top'>{value}</td>" for value in values)
    return f"<tr>{sure}{cells}</tr>"


def some(names: Iterable[str], most: int = 3) -> str:
    """Names in a row, those beyond the first counted"""
    names = list(names)
    return ", ".join(names[:most]) + (f" (and {len(names) - most} more)" if len(names) > most else "")
