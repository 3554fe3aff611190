"""The contract of a regressor: rows of numbers in, latencies out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ...profiler.additive import AdditiveModel
from ...spaces.space import SearchSpace
from .choice import Choice

Meta = dict[str, Any]
"""Numbers and texts that JSON can hold."""
Arrays = dict[str, np.ndarray]
State = tuple[Meta, Arrays]
TABLE = "table"
"""Name of the numeric column that holds a latency table's own prediction, where there is one."""


@dataclass(frozen=True)
class Block:
    """Columns that belong together: what one hypothesis makes of the architectures.

    Attributes:
        name: of the hypothesis.
        core, more: numbers of numeric columns; the first say most.
        choices: numbers of the categorical columns that go with it.
    """

    name: str
    core: tuple[int, ...]
    more: tuple[int, ...] = ()
    choices: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Rows:
    """Architectures as a regressor sees them, one a row.

    Attributes:
        choices: (N, D) which category each row has in each categorical column, -1 for none (a choice that is not
            reached, an operator that is dead).
        sizes: the categories of each column.
        numeric: (N, F) finite numbers.
        names: of the numeric columns.
        labels: of the categorical columns.
        graphs: for regressors of graphs; whatever indexes by rows.
        blocks: hypotheses about the architectures, of which the data decide.
        operators: for regressors of operators (see `operators.OperatorRows`); whatever indexes by rows.
    """

    choices: NDArray[np.int16]
    sizes: tuple[int, ...]
    numeric: NDArray[np.float64]
    names: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    graphs: Any = None
    blocks: tuple[Block, ...] = ()
    operators: Any = None

    def __post_init__(self) -> None:
        n = len(self.choices)
        if self.choices.shape != (n, len(self.sizes)) or self.numeric.shape != (n, len(self.names)):
            raise ValueError(
                f"rows of {self.choices.shape} choices and {self.numeric.shape} numbers do not have "
                f"{len(self.sizes)} sizes and {len(self.names)} names"
            )

    def __len__(self) -> int:
        return len(self.choices)

    def take(self, index: Any) -> Rows:
        """The rows that an index array, a mask or a slice picks."""
        graphs, operators = (None if own is None else own[index] for own in (self.graphs, self.operators))
        numeric = self.numeric[index]
        return replace(self, choices=self.choices[index], numeric=numeric, graphs=graphs, operators=operators)

    def with_numeric(self, name: str, column: np.ndarray) -> Rows:
        """The same with one more numeric column (N,)."""
        numeric = np.concatenate([self.numeric, np.asarray(column, float)[:, None]], axis=1)
        return replace(self, numeric=numeric, names=(*self.names, name))

    @property
    def layout(self) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """What rows must have in common to be predicted by what was fitted on others."""
        return self.sizes, self.names


class Regressor(ABC):
    """Learns y from rows; errors count relative to y.

    What it is given has been checked (see `fitting`): finite numbers, positive y, at least `min_rows` rows; the rows
    to predict have the layout of the ones it was fitted on. `predict` takes some thousand rows at a time.

    Attributes:
        kind: name in the registry.
        min_rows: it cannot be fitted on fewer.
        folds: of cross-validation, so that this takes bearable time.
        held_out: (N,) predictions of the rows it was fitted on, each by a part that had not seen the row; None where
            fitting does not come by them.
        own_from: rows from which `held_out` is believed: what was chosen by all rows, the width of priors say, makes
            its errors too small where rows are few (at 100, intervals of 90 % hold 84 to 86 %).
        choice: what it chose among other kinds, and why; None where it does not choose.
    """

    kind: ClassVar[str]
    min_rows: ClassVar[int] = 10
    folds: ClassVar[int] = 10
    held_out: NDArray[np.float64] | None = None
    own_from: ClassVar[int] = 300
    choice: Choice | None = None

    @abstractmethod
    def fit(self, rows: Rows, y: NDArray[np.float64], rng: np.random.Generator) -> Self:
        """Learn from (N,) positive y; the same rows and state of `rng` give the same regressor. Returns itself."""

    @abstractmethod
    def predict(self, rows: Rows) -> NDArray[np.float64]:
        """(N,) positive."""

    def sums(self, space: SearchSpace, table: AdditiveModel | None) -> AdditiveModel | None:
        """The same predictions for a space's architectures as sums over its choices; None where they are no such sums.

        Args:
            table: whose prediction is the column `TABLE`.
        """
        return None

    @abstractmethod
    def state(self) -> State:
        """Everything that `predict` needs, as JSON data and plain numeric arrays."""

    @classmethod
    @abstractmethod
    def from_state(cls, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        """The inverse of `state`.

        Raises:
            KeyError, TypeError, ValueError: the data is damaged; whatever it is, no code in it runs.
        """


def nested(states: Mapping[str, State]) -> State:
    """The states of a regressor's parts as one; `part` takes them apart again."""
    meta = {name: own for name, (own, _) in states.items()}
    arrays = {f"{name}/{key}": array for name, (_, own) in states.items() for key, array in own.items()}
    return meta, arrays


def part(name: str, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> State:
    """The state of one part."""
    prefix = f"{name}/"
    return dict(meta[name]), {key.removeprefix(prefix): a for key, a in arrays.items() if key.startswith(prefix)}
