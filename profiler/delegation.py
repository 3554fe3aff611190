"""How much of what a table holds a delegate ran. What it leaves to slower kernels, it leaves silently."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .table_schema import Row, one_line


@dataclass(frozen=True)
class Delegation:
    """Of all workloads of a table whose runtime has a delegate.

    Attributes:
        delegate: its name.
        workloads, operators, delegated: how many.
        left: key of each workload that it does not run as a whole -> names of the operators that it leaves.
    """

    delegate: str
    workloads: int
    operators: int
    delegated: int
    left: Mapping[str, tuple[str, ...]]

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return vars(self)

    def __str__(self) -> str:
        kinds = _join(self.left.values())
        leaves = f"; {kinds} left to slower kernels in {len(self.left)} of them" if self.left else ""
        return (
            f"{self.delegate} runs {self.delegated} of {self.operators} operators in {self.workloads} workloads{leaves}"
        )

    @property
    def doubt(self) -> str:
        """A sentence about what is not delegated; empty where everything is."""
        if not self.left:
            return ""
        first = next(iter(self.left))
        others = f" and {len(self.left) - 1} more" if len(self.left) > 1 else ""
        return (
            f"{self.delegate} does not run {_join(self.left.values())} in {first}{others}: times of the runtime's own "
            "kernels, which may be many times slower; another runtime or version may run them"
        )


def delegation(rows: Iterable[Row]) -> Delegation | None:
    """What the rows of a table tell; None where nothing was to be delegated."""
    told = [(row.key, row.phases) for row in rows if row.phases and _complete(row.phases)]
    if not told:
        return None
    left = {key: tuple(map(one_line, p.get("left", []))) for key, p in told if p["delegated"] < p["operators"]}
    operators, delegated = (sum(phases[name] for _, phases in told) for name in ("operators", "delegated"))
    return Delegation(one_line(told[0][1]["delegate"]), len(told), operators, delegated, left)


def _complete(phases: Mapping[str, Any]) -> bool:
    counts = (phases.get("operators"), phases.get("delegated"))
    return bool(phases.get("delegate")) and all(type(n) is int for n in counts) and type(phases.get("left", [])) is list


def _join(left: Iterable[tuple[str, ...]]) -> str:
    return ", ".join(dict.fromkeys(name for names in left for name in names))
