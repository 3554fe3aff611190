"""The lookup table as a predictor: calibrated sums of measured operators."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from statistics import NormalDist
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import HwnasError
from ..profiler.additive import AdditiveModel, MissingKeys
from ..profiler.calibration import NOISE, Calibration
from ..profiler.table import LatencyTable, Provenance, Row, WorkloadRow
from ..profiler.table_schema import PENDING
from ..spaces.architecture import Architecture, ArchitectureError
from ..spaces.space import SearchSpace
from .base import MissingMeasurements, Origin, Predictor, PredictorError, check_new

UNCALIBRATED = 0.13
"""Relative error assumed where no network was held out: that of plain sums on spaces of small operators."""


class LutPredictor(Predictor):
    """latency(a) = factor * (sum over the operators that a uses, the fixed modules, and the glue between) + extra.

    The expectation is the multilinear form of the same sums, exact and differentiable (ProxylessNAS, arXiv:1812.00332,
    eq. 2 and 3, with nested and tied choices and dead operators accounted for). Intervals come from the error on the
    networks that calibration held out: Student's t with as many degrees of freedom as there were networks, scaled by
    their root mean square error (at least the noise of a measurement); the same relative width for every architecture.

    Args:
        space: whose architectures to predict.
        provenance: of the table. rows: its workloads. calibration: see `profiler.calibration`; without one the plain
            sum is predicted, dead operators included.
        where: the table's file, for messages.
        space_option: how the user named the space, for messages: ``my.py:net --space-arg width=2``.

    Raises:
        MissingMeasurements: the rows do not cover the space.
        PredictorError: they were measured for another space, or settings or calibration make no sense.
    """

    kind: ClassVar[str] = "lut"

    def __init__(
        self,
        space: SearchSpace,
        provenance: Provenance,
        rows: Sequence[Row],
        calibration: Mapping[str, Any] | None = None,
        *,
        where: str = "the table",
        space_option: str | None = None,
    ) -> None:
        super().__init__(space, provenance.unit)
        self.provenance = provenance
        self.rows = tuple(rows)
        self.calibration = None if calibration is None else dict(calibration)
        self._where = where
        if provenance.fingerprint not in ("", space.fingerprint):
            raise PredictorError(
                f"{where} is of space {provenance.space!r} ({provenance.fingerprint}), not of {space.name!r} "
                f"({space.fingerprint}): give --space and --space-arg as it was made with"
                f"{_arguments(provenance.space_arguments)}"
            )
        self.model = self._build(space_option)

    @classmethod
    def load(cls, path: str | Path, space: SearchSpace, *, space_option: str | None = None) -> Self:
        """Read a table; raises TableError where it cannot be read, else as the class does."""
        with LatencyTable.open(path) as table:
            return cls.from_table(table, space, space_option=space_option)

    @classmethod
    def from_table(cls, table: LatencyTable, space: SearchSpace, *, space_option: str | None = None) -> Self:
        """The predictor of an open table."""
        return cls(
            space, table.provenance, table.rows(), table.calibration, where=str(table.path), space_option=space_option
        )

    def save(self, path: str | Path) -> None:
        """Write a table with the results, without the raw samples behind them."""
        with LatencyTable.create(check_new(path), self.provenance, resume=False) as table, table.batch():
            table.register(WorkloadRow(r.key, r.op, r.kind, r.info) for r in self.rows)
            for row in self.rows:
                if row.status != PENDING:
                    table.finish(
                        row.key,
                        latency=row.latency,
                        low=row.low,
                        high=row.high,
                        status=row.status,  # type: ignore[arg-type]  # checked when it was read
                        reason=row.reason,
                        runs=row.runs,
                    )
            if self.calibration is not None:
                table.set_calibration(self.calibration)

    # -- prediction

    def predict_codes(self, codes: np.ndarray) -> NDArray[np.float64]:
        """As the contract; a million rows of 21 decisions take less than 0.1 s.

        Raises:
            PredictorError: not (N, decisions) integers, or a number that no candidate has.
        """
        rows = np.asarray(codes)
        if rows.ndim != 2 or rows.shape[1] != len(self._sizes) or not np.issubdtype(rows.dtype, np.integer):
            raise PredictorError(
                f"encoded architectures are integers of shape (N, {len(self._sizes)}), not {rows.dtype} {rows.shape}"
            )
        if len(rows) and ((rows.max(axis=0) >= self._sizes).any() or (rows.min(axis=0) < self._lowest).any()):
            raise PredictorError("encoded architectures hold a number that no candidate has")
        return self.model.predict(rows)

    def spread(self, codes: np.ndarray, coverage: float) -> NDArray[np.float64]:
        return self.predict_codes(codes) * self.relative_spread(coverage)

    def relative_spread(self, coverage: float) -> float:
        """Half width of the intervals as a share of the prediction."""
        error, n = self._error
        tail = NormalDist().inv_cdf((1 + coverage) / 2)
        return error * (tail if n is None else _student(tail, n))

    @property
    def additive(self) -> AdditiveModel:
        return self.model

    @cached_property
    def origin(self) -> Origin | None:
        about = self.provenance
        return Origin(about.device, about.settings, about.lowering, about.environment, self._networks())

    # -- inside

    @cached_property
    def _sizes(self) -> np.ndarray:
        return np.array([len(d) for d in self.space.decisions])

    @cached_property
    def _lowest(self) -> np.ndarray:
        """-1 only where a choice may be unreached."""
        return np.array([0 if () in d.reach else -1 for d in self.space.decisions])

    def _build(self, space_option: str | None) -> AdditiveModel:
        space = self.space
        batch, dtype = batch_and_dtype(self.provenance, self._where)
        description = space.describe(batch)
        known = {row.key: row.latency for row in self.rows if row.latency is not None}
        calibration = self._calibration
        try:
            model = AdditiveModel.from_values(
                space.encoding, description, calibration.corrected(known), dtype=dtype, live=calibration.live
            )
        except MissingKeys as error:
            command = profile_command(self.provenance, space, self._where, space_option)
            failed = {row.key: row.reason for row in self.rows if row.status == "failed"}
            total = len(description.workloads)
            raise MissingMeasurements(self._where, error.keys, total, command, failed) from error
        return model.scaled(calibration.factor, calibration.extra)

    @cached_property
    def _calibration(self) -> Calibration:
        try:
            return Calibration.from_dict(self.calibration or {})
        except HwnasError as error:
            raise PredictorError(f"{self._where}: {error}") from None

    @cached_property
    def _error(self) -> tuple[float, int | None]:
        """Relative error of one prediction, and on how many held-out networks it was seen."""
        error = (self.calibration or {}).get("error")
        rmse, n = (error.get("rmse"), error.get("n")) if isinstance(error, dict) else (None, None)
        floor = NOISE if self.unit == "ms" else 0.0
        if isinstance(rmse, int | float) and isinstance(n, int) and math.isfinite(rmse) and rmse >= 0 and n > 0:
            return max(rmse / 100, floor), n
        return (UNCALIBRATED if self.unit == "ms" else 0.0), None  # operations are counted, not measured

    def _networks(self) -> dict[Architecture, float | None]:
        """The networks of the calibration, in the order of the table, with what was measured."""
        found: dict[Architecture, float | None] = {}
        listed = (self.calibration or {}).get("networks", [])
        measured = [row for row in self.rows if row.kind == "network" and row.latency is not None]
        try:
            for data in listed if isinstance(listed, list) else []:
                found[Architecture.from_dict(data)] = None
            for row in measured:
                architecture = Architecture.from_dict(row.info.get("architecture"))
                if architecture in found:
                    found[architecture] = row.latency
        except ArchitectureError as error:
            raise PredictorError(f"{self._where}: a calibration network cannot be read: {error}") from error
        return found


def batch_and_dtype(provenance: Provenance, where: str) -> tuple[int, str]:
    """Of what a table holds; raises PredictorError where they cannot be used."""
    batch, dtype = provenance.settings.get("batch", 1), provenance.settings.get("dtype", "fp32")
    if not isinstance(batch, int) or not 1 <= batch <= 1_000_000 or not isinstance(dtype, str):
        raise PredictorError(f"{where}: the settings cannot be used: batch {batch!r}, dtype {dtype!r}")
    return batch, dtype


def profile_command(provenance: Provenance, space: SearchSpace, out: str, space_option: str | None) -> str:
    """The command that measures a space under a table's settings; into the table itself where it is of this space."""
    device = "cpu" if provenance.device == "imported" else provenance.device
    parts = ["hwnas", "profile", "--device", device, "--space"]
    if space_option is None:
        parts.append(space.name)
        for name, value in space.arguments.items():
            parts += ["--space-arg", f"{name}={value}"]
    given: list[str] = []
    for name, default in (("batch", 1), ("threads", 1), ("dtype", "fp32")):
        value = provenance.settings.get(name, default)
        given += [] if value == default else [f"--{name}", str(value)]
    if provenance.fingerprint and Path(out).exists():
        given += ["--out", out]
    pieces = [shlex.join(parts), space_option or "", shlex.join(given)]
    return " ".join(piece for piece in pieces if piece)


def _student(z: float, n: int) -> float:
    """Quantile of Student's t from that of the normal distribution (Abramowitz and Stegun, 26.7.5)."""
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    )


def _arguments(arguments: Mapping[str, Any]) -> str:
    return f" ({', '.join(f'{name}={value}' for name, value in arguments.items())})" if arguments else ""
