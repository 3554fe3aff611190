"""Which of several kinds to take, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
SLACK = 0.05
"""Share by which the error of a simpler kind may be larger."""


@dataclass(frozen=True)
class Tried:
    """How a kind did.

    Attributes:
        mape: of rows that were held out, percent; None where it could not be fitted.
        deviation: standard error of that, percent.
        rows: fitted on, for that; fewer than there are where a first trial was enough.
        first: MAPE in this trial, percent; None where there was none.
        failed: why it could not be fitted; else empty.
    """

    kind: str
    mape: float | None = None
    deviation: float | None = None
    rows: int = 0
    first: float | None = None
    failed: str = ""

    @classmethod
    def of(cls, kind: str, errors: Vector, rows: int, first: float | None = None) -> Tried:
        """With the (N,) relative errors that it made."""
        deviation = float(100 * errors.std() / np.sqrt(len(errors)))
        return cls(kind, float(100 * errors.mean()), deviation, rows, first)


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        kind: of the regressor. reason: a sentence.
        tried: all that were considered.
    """

    kind: str
    reason: str
    tried: Sequence[Tried]

    def text(self) -> str:
        """The reason, and how each of the others did."""
        mine = next(t for t in self.tried if t.kind == self.kind)
        others = [t for t in self.tried if t.mape is not None and t.kind != self.kind]
        late, early = ([t for t in others if (t.rows == mine.rows) is same] for same in (True, False))
        said = [self.reason]
        if late:
            said.append(f"others, MAPE %: {_listed(late)}")
        if early:
            most = max(t.rows for t in early)
            said.append(f"after a trial with {most} networks ({_first(mine)}): {_listed(early, most)}")
        return "; ".join(said + [f"{t.kind} cannot be fitted: {t.failed}" for t in self.tried if t.failed])

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"kind": self.kind, "reason": self.reason, "tried": [asdict(t) for t in self.tried]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Choice:
        """The inverse of `as_dict`; raises KeyError, TypeError or ValueError for damaged data."""
        return cls(str(data["kind"]), str(data["reason"]), tuple(Tried(**t) for t in data["tried"]))


def best_of(errors: Mapping[str, Vector], default: str) -> str:
    """The kind to take, by (N,) relative errors of each for the same rows; from the simple kinds to the costly ones.

    The default, unless the error of the best is smaller by more than one standard error of the difference (Breiman et
    al., 1984). In its place a simpler kind, the simplest of which the rows show, by one standard error, that its error
    is larger by no more than `SLACK`. Some rows that one kind misses by far are as much as a standard error: so what
    takes a place must be no worse for most rows, too.
    """
    best = min(errors, key=lambda kind: float(errors[kind].mean()))
    beaten = default not in errors or (
        _apart(errors[default], errors[best], -1) > 0 and not _mostly_worse(errors[best], errors[default])
    )
    taken = best if beaten else default
    bound = SLACK * errors[taken].mean()
    for kind in list(errors)[: list(errors).index(taken)]:
        if _apart(errors[kind], errors[taken], 1) <= bound and not _mostly_worse(errors[kind], errors[taken]):
            return kind
    return taken


def _apart(errors: Vector, others: Vector, times: float) -> float:
    """By how much the mean of (N,) errors is larger than that of others, plus so many standard errors of this."""
    apart = errors - others
    return float(apart.mean() + times * apart.std() / np.sqrt(len(apart)))


def _mostly_worse(errors: Vector, others: Vector) -> bool:
    """Whether (N,) errors are larger than others for more rows than chance would have it (by one standard error)."""
    return bool(np.sign(errors - others).sum() > np.sqrt(len(errors)))


def chosen(errors: Mapping[str, Vector], default: str, tried: Sequence[Tried]) -> Choice:
    """`best_of`, with its reason."""
    kind = best_of(errors, default)
    means = {name: 100 * float(own.mean()) for name, own in errors.items()}
    best = min(means, key=lambda name: means[name])
    said = f"{kind} is chosen: its MAPE on held-out networks, {means[kind]:.3g} %,"
    if kind == best:
        return Choice(kind, f"{said} is the smallest", tried)
    smallest = f"the smallest ({best}, {means[best]:.3g} %)"
    if _mostly_worse(errors[best], errors[kind]):
        return Choice(kind, f"{said} is not {smallest}, but for most networks its error is the smaller one", tried)
    why = "it is the default" if kind == default else "it is simpler"
    return Choice(kind, f"{said} cannot be told from {smallest}, and {why}", tried)


def _listed(tried: Sequence[Tried], rows: int = 0) -> str:
    return ", ".join(f"{t.kind} {t.mape:.3g}" + (f" (with {t.rows})" if t.rows < rows else "") for t in tried)


def _first(tried: Tried) -> str:
    return f"{tried.kind} {tried.first:.3g}"
