"""Which of several kinds to take, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
SLACK = 0.05
"""Share by which the error of a simpler kind may be larger, if it cannot be told from the smallest."""


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

    Alike are the kinds whose mean error exceeds the smallest by no more than one standard error of the difference
    (Breiman et al., 1984). Of these it is the default if it is there, else the best; and in either's place the
    simplest whose error is larger by no more than `SLACK`, since with few rows a standard error is a lot to give away.
    Two rows that one kind misses by far are as much as a standard error. So the default is left only for a kind that is
    no worse than it for most rows.
    """
    best = min(errors, key=lambda kind: float(errors[kind].mean()))
    alike = [kind for kind in errors if not _exceeds(errors[kind], errors[best])]
    stays = default in alike or (default in errors and _mostly_worse(errors[best], errors[default]))
    reference = default if stays else best
    bound = (1 + SLACK) * errors[reference].mean()
    for kind in alike:
        if kind == reference:
            break
        if errors[kind].mean() <= bound and not _mostly_worse(errors[kind], errors[reference]):
            return kind
    return reference


def _exceeds(errors: Vector, smallest: Vector) -> bool:
    """Whether the mean of (N,) errors is larger than that of others for the same rows by more than a standard error."""
    apart = errors - smallest
    return bool(apart.mean() > apart.std() / np.sqrt(len(apart)))


def _mostly_worse(errors: Vector, others: Vector) -> bool:
    """Whether (N,) errors are larger than others for more rows than chance would have it (by one standard error)."""
    return bool(np.sign(errors - others).sum() > np.sqrt(len(errors)))


def chosen(errors: Mapping[str, Vector], default: str, tried: Sequence[Tried]) -> Choice:
    """`best_of`, with its reason."""
    kind, kinds = best_of(errors, default), list(errors)
    means = {name: 100 * float(own.mean()) for name, own in errors.items()}
    best = min(means, key=lambda name: means[name])
    said = f"{kind} is chosen: its MAPE on held-out networks, {means[kind]:.3g} %,"
    if kind == best:
        return Choice(kind, f"{said} is the smallest", tried)
    smallest = f"the smallest ({best}, {means[best]:.3g} %)"
    if kinds.index(kind) < kinds.index(best):
        return Choice(kind, f"{said} cannot be told from {smallest}, and it is simpler", tried)
    return Choice(kind, f"{said} is not {smallest}, but for most networks its error is the smaller one", tried)


def _listed(tried: Sequence[Tried], rows: int = 0) -> str:
    return ", ".join(f"{t.kind} {t.mape:.3g}" + (f" (with {t.rows})" if t.rows < rows else "") for t in tried)


def _first(tried: Tried) -> str:
    return f"{tried.kind} {tried.first:.3g}"
