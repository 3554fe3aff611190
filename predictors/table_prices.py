"""From a latency table to a predictor of spaces, or workloads, that the table does not cover."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..profiler.additive import AdditiveModel
from ..profiler.calibration import Calibration, Observed, calibrate
from ..profiler.metrics import Errors, errors
from ..profiler.table import LatencyTable, Provenance, Row
from ..spaces.architecture import Architecture
from ..spaces.space import SearchSpace
from .base import PredictorError
from .kernel_table import KernelTablePredictor
from .lut import UNCALIBRATED, batch_and_dtype
from .operators import Operators
from .prices import PriceModel

OUTSIDE = 1.1
"""Factor beyond the measured sizes from which it is worth a word."""
SAMPLE = 512
"""Architectures over which the uncertainty of the prices is averaged."""
HELD_OUT = 4
"""One of so many measured networks is held out of the calibration where the table does not say which."""
COVERAGE = 0.9


@dataclass(frozen=True)
class Completed:
    """A predictor by prices, and what is known of it.

    Attributes:
        predictor: of the asked space.
        measured, priced: workloads of the space whose latency the table has, and that are priced.
        prices: errors for measured workloads, each left out of the fit; `types`: the same for each type of them.
        networks: errors on networks that were held out of the calibration; None where none of this space was measured.
        notes, doubts: sentences for the user.
    """

    predictor: KernelTablePredictor
    measured: int
    priced: int
    prices: Errors
    types: Mapping[str, Errors]
    networks: Errors | None
    notes: Sequence[str]
    doubts: Sequence[str]

    def as_dict(self) -> dict[str, Any]:
        """JSON form; the statistics at the top are of networks where there are some, else of prices."""
        return {
            "kind": "kernel",
            "unit": self.predictor.unit,
            **(self.networks or self.prices).as_dict(),
            "judged_by": "networks" if self.networks else "workloads",
            "width": 200 * self.predictor.relative_spread(COVERAGE),
            "measured": self.measured,
            "priced": self.priced,
            "prices": self.prices.as_dict(),
            "types": {name: own.as_dict() for name, own in self.types.items()},
            "notes": list(self.notes),
            "doubts": list(self.doubts),
        }


def complete(path: str | Path, space: SearchSpace) -> Completed:
    """Price what a table lacks of a space, which need not be the one that it was measured for.

    Measured values are used as they are. Where the table has measured networks of the same space, the sum is calibrated
    on them once more; of another space, the table's own calibration is kept.

    Raises:
        HwnasError: the table cannot be read, or has too few workloads of which it is known what they consist of.
    """
    with LatencyTable.open(path) as table:
        job = _Completion(str(path), space, table.provenance, tuple(table.rows()), table.calibration)
    return job.run()


@dataclass(frozen=True)
class _Completion:
    where: str
    space: SearchSpace
    about: Provenance
    rows: tuple[Row, ...]
    calibration: Mapping[str, Any] | None

    def run(self) -> Completed:
        operators, y = self._measured
        prices = PriceModel.fit(operators, y)
        lacking = self._lacking
        wanted = Operators.of(lacking, [self._parts[key] for key in lacking])
        spread = dict(zip(lacking, prices.spread(wanted).tolist(), strict=True))
        priced = [
            self._priced(key, value, spread[key]) for key, value in zip(lacking, prices.predict(wanted), strict=True)
        ]
        same = self.about.fingerprint == self.space.fingerprint
        kept = [row for row in self.rows if row.key in self._parts and row.latency is not None]
        networks = [row for row in self.rows if same and row.kind == "network" and row.latency is not None]
        calibration, judged = self._calibrated([*kept, *priced], networks)
        predictor = self._predictor([*kept, *priced, *networks], calibration, spread)
        left, kinds = prices.left_out(), np.array(operators.types)
        types = {kind: errors(left[kinds == kind], y[kinds == kind]) for kind in dict.fromkeys(operators.types)}
        notes = [*self._unused(), *([] if same else [self._foreign(calibration)])]
        return Completed(
            predictor, len(kept), len(lacking), errors(left, y), types, judged, notes, _outside(prices, wanted)
        )

    @cached_property
    def _settings(self) -> tuple[int, str]:
        return batch_and_dtype(self.about, self.where)

    @cached_property
    def _workloads(self) -> dict[str, Any]:
        batch, dtype = self._settings
        return {w.key(batch, dtype): w for w in self.space.workloads(batch)}

    @cached_property
    def _parts(self) -> dict[str, Any]:
        """Key -> what the workloads of the space consist of."""
        return {key: workload.info["operators"] for key, workload in self._workloads.items()}

    @cached_property
    def _lacking(self) -> list[str]:
        known = {row.key for row in self.rows if row.latency is not None}
        return [key for key in self._parts if key not in known]

    @cached_property
    def _timed(self) -> list[Row]:
        return [row for row in self.rows if row.kind != "network" and row.latency is not None and row.latency > 0]

    @cached_property
    def _measured(self) -> tuple[Operators, np.ndarray]:
        """Measured workloads of which it is known what they consist of, and their latencies."""
        parts = {row.key: self._parts.get(row.key, row.info.get("operators")) for row in self._timed}
        usable = [row for row in self._timed if parts[row.key] is not None]
        if len(usable) < len(self._timed) / 2:
            raise PredictorError(
                f"{self.where} does not say what {len(self._timed) - len(usable)} of its {len(self._timed)} workloads "
                "consist of, since an earlier version measured it: measure it again to price others by it"
            )
        operators = Operators.of([row.key for row in usable], [parts[row.key] for row in usable])
        return operators, np.array([row.latency for row in usable], float)

    def _unused(self) -> list[str]:
        n = len(self._timed) - len(self._measured[1])
        return [f"{n} rows of {self.where} do not say what they consist of, and teach nothing"] if n else []

    def _priced(self, key: str, value: float, spread: float) -> Row:
        workload = self._workloads[key]
        kind: Any = "fixed" if workload.fixed else "candidate"
        info = {**workload.info, "priced": True}
        low, high = float(value * np.exp(-spread)), float(value * np.exp(spread))
        why = "priced, not measured"
        return Row(key, workload.op, kind, float(value), self.about.unit, low, high, 0, 0, "ok", why, info)

    def _calibrated(self, rows: Sequence[Row], networks: Sequence[Row]) -> tuple[dict[str, Any] | None, Errors | None]:
        """On the measured networks, with the error on those held out; without them, as the table has it."""
        if len(networks) < HELD_OUT:
            own = None if self.calibration is None else dict(self.calibration)
            return own if networks or own is None else {n: v for n, v in own.items() if n != "networks"}, None
        architectures = [Architecture.from_dict(row.info.get("architecture")) for row in networks]
        codes, latency = self.space.encode(architectures), np.array([row.latency for row in networks], float)
        held = np.array([row.info.get("role") == "held-out" for row in networks])
        if held.all() or not held.any():
            held = np.arange(len(networks)) % HELD_OUT == 0
        values = {row.key: row.latency for row in rows if row.latency is not None}
        batch, dtype = self._settings
        found, _, _ = calibrate(
            self.space.encoding,
            self.space.describe(batch),
            {"isolated": values},
            Observed(codes[~held], latency[~held]),
            Observed(codes[held], latency[held]),
            dtype=dtype,
            exact=self.about.unit == "MMACs",
        )
        return {**found.as_dict(), "networks": [a.as_dict() for a in architectures]}, found.error

    def _predictor(
        self, rows: Sequence[Row], calibration: dict[str, Any] | None, spread: Mapping[str, float]
    ) -> KernelTablePredictor:
        """With intervals that are wider by what the prices may be wrong, all in one direction, in random networks."""
        space = self.space
        about = replace(self.about, space=space.name, space_arguments=space.arguments, fingerprint=space.fingerprint)
        plain = KernelTablePredictor(space, about, rows, calibration, where=self.where)
        if not spread:
            return plain
        values = Calibration.from_dict(calibration or {}).corrected(
            {row.key: row.latency for row in rows if row.kind != "network" and row.latency is not None}
        )
        wrong = {key: value * spread.get(key, 0.0) for key, value in values.items() if key in self._parts}
        live, factor = bool((calibration or {}).get("live", False)), float((calibration or {}).get("factor", 1.0))
        batch, dtype = self._settings
        doubt = AdditiveModel.from_values(space.encoding, space.describe(batch), wrong, dtype=dtype, live=live)
        codes = space.encoding.sample(SAMPLE, np.random.default_rng(0))
        share = float(np.mean(factor * doubt.predict(codes) / plain.predict_codes(codes)))
        error = _widened((calibration or {}).get("error"), share, UNCALIBRATED if self.about.unit == "ms" else 0.0)
        return KernelTablePredictor(space, about, rows, {**(calibration or {}), "error": error}, where=self.where)

    def _foreign(self, calibration: object) -> str:
        about, space = self.about, self.space
        how = "the sums are not calibrated" if calibration is None else "the calibration is that of the other space"
        return (
            f"the table is of space {about.space!r} ({about.fingerprint or 'unknown'}), no network of {space.name!r} "
            f"({space.fingerprint}) was measured: {how}"
        )


def _widened(error: Any, share: float, unknown: float) -> dict[str, Any]:
    known = error if isinstance(error, dict) else {}
    rmse, n = known.get("rmse"), known.get("n")
    if not isinstance(rmse, int | float) or not isinstance(n, int) or n < 1:
        rmse, n = 100 * unknown, 30
    return {**known, "rmse": float(np.hypot(rmse, 100 * share)), "n": n}


def _outside(prices: PriceModel, wanted: Operators) -> list[str]:
    """Sentences on workloads that are unlike all measured ones."""
    said = []
    factor = prices.beyond(wanted)
    far = np.argsort(-factor, kind="stable")[: int((factor > OUTSIDE).sum())]
    if len(far):
        shown = "; ".join(f"{wanted.names[i]} ({factor[i]:.1f} times)" for i in far[:3])
        more = f"; and {len(far) - 3} more" if len(far) > 3 else ""
        said.append(f"{len(far)} of {len(wanted)} priced workloads are beyond the measured sizes: {shown}{more}")
    if unknown := prices.costs.unknown(wanted.families):
        said.append(f"operators of which none was measured are priced like the others: {', '.join(unknown)}")
    return said
