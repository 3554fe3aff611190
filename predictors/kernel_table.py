"""A lookup table, some rows of which are not measured but priced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

from ..errors import HwnasError
from ..profiler.table import Provenance, Row
from ..profiler.table_schema import KINDS, PENDING, check_result
from ..spaces.space import SearchSpace
from .base import PredictorError
from .files import PredictorFile
from .lut import LutPredictor


class KernelTablePredictor(LutPredictor):
    """A lookup table with prices (see `prices.PriceModel`) where it lacks measurements (see `table_prices.complete`).

    All else is that of a table: the sum is calibrated in the same way, its expectation is exact and differentiable.
    """

    kind: ClassVar[str] = "kernel-table"

    def save(self, path: str | Path) -> None:
        rows = [_plain(row) for row in self.rows]
        about = {"provenance": self.provenance.to_json(), "rows": rows, "calibration": self.calibration}
        PredictorFile(self.kind, self.unit, self.space.name, self.space.fingerprint, about).write(path)

    @classmethod
    def load(cls, path: str | Path, space: SearchSpace, *, space_option: str | None = None) -> Self:
        file = PredictorFile.of(cls.kind, path, space)
        try:
            provenance = Provenance.from_json(file.meta["provenance"])
            rows = [_row(data, provenance.unit) for data in file.meta["rows"]]
            return cls(space, provenance, rows, file.meta["calibration"], where=str(path), space_option=space_option)
        except (HwnasError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise PredictorError(f"{path} is a damaged predictor, or one of another version: {error}") from error


def _plain(row: Row) -> dict[str, Any]:
    return {name: value for name, value in asdict(row).items() if name not in ("unit", "phases")}


def _row(data: Mapping[str, Any], unit: str) -> Row:
    """A row from a file; raises KeyError, TypeError, ValueError or TableError for a damaged one."""
    texts: dict[str, Any] = {name: data[name] for name in ("key", "op", "kind", "status", "reason")}
    if not all(isinstance(text, str) for text in texts.values()) or texts["kind"] not in KINDS:
        raise ValueError("a row's texts are damaged")
    latency, low, high = data["latency"], data["low"], data["high"]
    if texts["status"] != PENDING:
        latency, low, high = check_result(texts["key"], latency, low, high, texts["status"])
    elif (latency, low, high) != (None, None, None):
        raise ValueError(f"{texts['key']} is pending but has a latency")
    visits, runs = int(data["visits"]), int(data["runs"])
    numbers = {"latency": latency, "low": low, "high": high, "visits": visits, "runs": runs}
    return Row(**texts, **numbers, unit=unit, info=dict(data["info"]))
