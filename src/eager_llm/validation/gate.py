"""A gate, which is a rule over the rows that the engine holds, and the outcome of running it."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Gate:
    """A rule.

    Attributes:
        name: short, for reports and for `gates.waived`.
        table: the table that it is about, for reports.
        rule: what holds where it passes, in words.
        rows_sql: query for the rows that break it; empty where it is about the whole.
        figure_sql: query for the figure that is bounded; empty: the number of broken rows.
        least: lower bound of the figure, inclusive; None: none.
        most: upper bound of the figure, inclusive; None: none.
    """

    name: str
    table: str
    rule: str
    rows_sql: str = ""
    figure_sql: str = ""
    least: float | None = None
    most: float | None = 0

    @property
    def bounds(self) -> str:
        """The bounds in words."""
        if self.least is None:
            return "none" if self.most == 0 else f"at most {self.most:g}"
        if self.most is None:
            return f"at least {self.least:g}"
        return f"{self.least:g} to {self.most:g}"


@dataclass(frozen=True)
class GateResult:
    """The outcome of one gate.

    Attributes:
        name: what `gates.waived` calls it.
        table: the table that it is about.
        rule: what holds where it passes, in words.
        bounds: what the figure may be, in words.
        figure: what was measured.
        passed: whether the figure is within its bounds.
        broken: number of rows that break the rule, at least 1 where it failed.
        rows: the first of them, a text a column.
        waived: it failed, and a person decided to go on without it.
    """

    name: str
    table: str
    rule: str
    bounds: str
    figure: float
    passed: bool
    broken: int
    rows: list[dict[str, Any]]
    waived: bool = False
