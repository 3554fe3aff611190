"""`profile`: from a space and a device to a calibrated latency table, in one call."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np

from ..devices.base import LoadReport
from ..errors import HwnasError
from .additive import AdditiveModel, MissingKeys
from .artifacts import Lowerer
from .bench import describe, open_bench, open_session
from .benches import AnyBench, OutOfTime
from .calibration import COMBINED, Calibration, calibrate, combined
from .delegation import delegation
from .designs import designed, held_out, uniform
from .networks import NetworkSet, in_context_values
from .profile_request import Method, ProfileRequest, ProfileResult
from .progress import Progress, Silent
from .protocol import Estimate
from .table import LatencyTable, WorkloadRow
from .table_provenance import provenance_of

__all__ = ["Method", "ProfileRequest", "ProfileResult", "profile"]

T = TypeVar("T")
HELD_OUT = 8
HELD_OUT_SEED = 20_000
BUSY = 0.5
"""Load average from which times of several threads are doubted."""
CANARY = 0.08
"""Drift of the operator that is visited throughout that is worth a word."""
NETWORK_SECONDS = 5.0
"""What the calibration networks' runs may take together, as far as their number goes."""


def profile(request: ProfileRequest, progress: Progress | None = None) -> ProfileResult:
    """Measure a space's workloads and calibrate them on whole networks; the table is kept at every step.

    Raises:
        HwnasError: the request cannot be carried out; what was measured until then is kept.
    """
    return _Profile(request, progress or Silent()).run()


class _Profile:
    def __init__(self, request: ProfileRequest, progress: Progress) -> None:
        self.request = request
        self.progress = progress
        self.start = time.monotonic()
        device, space = request.device, request.space
        self.protocol = request.protocol if self._traces else request.protocol.untraced
        self.dtype = device.settings.dtype
        self.description = space.describe(device.settings.batch)
        self.keys = {w.key(self.description.batch, self.dtype): w for w in self.description.workloads}
        self.lowerer = Lowerer(
            space, device.format, self.description.batch, dtype=self.dtype, calibration=request.calibration
        )
        self.networks = NetworkSet(self.lowerer, self.dtype)
        self.reports: dict[str, LoadReport] = {}
        self.phases: dict[str, float] = {}
        self.doubts: list[str] = []
        self.tried: list[Calibration] = []

    def run(self) -> ProfileResult:
        if not self.keys:
            raise HwnasError(f"space {self.request.space.name!r} has no operator that costs anything")
        device = self.request.device
        if self.request.method == "in-context" and "trace" not in device.capabilities:
            raise HwnasError(f"device {device.name!r} cannot time single nodes of a network: use --method isolated")
        unlowered = self._timed("lowering", self._lower)
        with open_session(device, self.request.agent, self.request.agent_python) as session:
            about = describe(device, session)
            self._check_load(about)
            rules = {**self.protocol.as_dict(), "method": self.request.method}
            data = self.request.calibration
            provenance = provenance_of(
                device, self.request.space, self.lowerer.route, about, protocol=rules, calibration=data
            )
            with LatencyTable.create(self.request.out, provenance) as table:
                table.register(
                    WorkloadRow(key, w.op, "fixed" if w.fixed else "candidate", {**w.info, "path": w.path})
                    for key, w in self.keys.items()
                )
                bench = open_bench(device, session, table, self.protocol, self.request.seed)
                bench.progress = self.progress
                if self.request.budget_s is not None:
                    bench.deadline = self.start + self.request.budget_s
                bench.session_id = table.add_session({**about, "seed": self.request.seed})
                return self._measure(bench, table, unlowered)

    def _check_load(self, about: dict[str, Any]) -> None:
        """Several threads wait for each other, so their times mean little beside other work."""
        load = about.get("load") or [0.0]
        if self.request.device.settings.threads > 1 and load[0] > BUSY:
            self.doubts.append(
                f"{self.request.device.settings.threads} threads on a busy machine (load {load[0]:.2f}): "
                "measure with --threads 1, or again when nothing else runs"
            )

    def _lower(self) -> dict[str, str]:
        encoding = self.request.space.encoding
        rows = held_out(encoding, 1, HELD_OUT_SEED, uniform(encoding)[:0])  # will be measured, if nothing is in the way
        reasons = self.lowerer.choose_route(self.request.space.decode(rows)[0], self.progress)
        if "network" in reasons:
            self.doubts.append(f"whole networks cannot be lowered, the table is not calibrated: {reasons['network']}")
        return reasons

    def _measure(self, bench: AnyBench, table: LatencyTable, unlowered: Mapping[str, str]) -> ProfileResult:
        failed = {key: unlowered[w.digest] for key, w in self.keys.items() if w.digest in unlowered}
        for key, reason in failed.items():
            table.finish(key, status="failed", reason=reason)
        estimates: dict[str, Estimate] = {}
        calibration: Calibration | None = None
        try:
            if self.request.method != "in-context":
                estimates = self._operators(bench, [key for key in self.keys if key not in failed])
                if table.calibration is None:  # a calibrated table's values go with its calibration until both are new
                    self._finish(table, estimates)
            if "network" not in unlowered:
                calibration = self._calibrate(bench, table, estimates)
        except OutOfTime:
            self.doubts.append(f"the budget of {self.request.budget_s:g} s ran out; the same command goes on from here")
        self._note_conditions(bench, table)
        return self._result(table, calibration)

    def _operators(self, bench: AnyBench, keys: Sequence[str]) -> dict[str, Estimate]:
        artifacts = {key: partial(self.lowerer.workload, self.keys[key]) for key in bench.unmeasured(keys)}
        self.reports = self._timed("load", lambda: bench.load(artifacts, "load operators"))
        estimates = self._timed("operators", lambda: bench.operators(keys))
        bench.unload(list(self.reports))
        return estimates

    # -- networks

    def _calibrate(self, bench: AnyBench, table: LatencyTable, isolated: Mapping[str, Estimate]) -> Calibration | None:
        isolates = self.request.method != "in-context"
        values = {"isolated": {key: e.value for key, e in isolated.items()}} if isolates else {}
        latency = self._measure_networks(bench, table, values.get("isolated"))
        traced: dict[str, list[float]] = {}
        if self._traces:
            training = [key for key in latency if self.networks.roles[key] == "calibration"]
            traced = self._timed("in-context", lambda: in_context_values(bench, self.networks, training, latency))
            values["in-context"] = {key: float(np.mean(ms)) for key, ms in traced.items()}
        if "isolated" in values and values.get("in-context"):
            values[COMBINED] = combined(values["isolated"], values["in-context"])
        bench.unload(list(self.networks.codes))
        calibration = self._timed("calibration", lambda: self._fit(values, latency))
        if calibration is not None:
            alone = isolated if calibration.method == COMBINED else {}
            inside = {key: _spread(ms, alone.get(key)) for key, ms in traced.items()}
            networks = [a.as_dict() for key, a in self.networks.architectures.items() if key in latency]
            with table.batch():
                self._finish(table, isolated if calibration.method == "isolated" else inside)
                table.set_calibration({**calibration.as_dict(), "networks": networks})
                table.add_record("calibration", {"tried": [c.as_dict() for c in self.tried], "in-context": traced})
        return calibration

    def _measure_networks(
        self, bench: AnyBench, table: LatencyTable, values: Mapping[str, float] | None
    ) -> dict[str, float]:
        """Latency of the calibration and the held-out networks; what has to be traced yet stays loaded."""
        encoding = self.request.space.encoding
        ends, typical = self._ends(values)
        rows = designed(encoding, self._affordable(typical), ends=ends)
        self.networks.add(rows, "calibration")
        unseen = min(3 if self.request.device.exact else HELD_OUT, max(1, self.request.space.size // 8))
        self.networks.add(held_out(encoding, unseen, HELD_OUT_SEED, rows), "held-out")
        table.register(self.networks.rows())
        keys = list(self.networks.codes)
        untraced = set(keys) - {r["network"] for r in table.records("trace")} if self._traces else set()
        wanted = {
            *bench.unmeasured(keys, networks=True),
            *(k for k in untraced if self.networks.roles[k] == "calibration"),
        }
        artifacts = {key: partial(self.networks.artifact, key) for key in keys if key in wanted}
        self.reports |= self._timed("load networks", lambda: bench.load(artifacts, "load networks"))
        estimates = self._timed("networks", lambda: bench.networks(keys))
        for key, estimate in estimates.items():
            table.finish(key, latency=estimate.value, low=estimate.low, high=estimate.high, phases=self._phases(key))
        return {key: e.value for key, e in estimates.items()}

    @property
    def _traces(self) -> bool:
        return self.request.method != "isolated" and "trace" in self.request.device.capabilities

    def _affordable(self, typical: float) -> int:
        """How many calibration networks, of so many ms each: every candidate occurs in one, and time is short."""
        few = max(3, self.request.space.size // 3)  # a small space keeps some to be compared with
        if self.request.device.exact:
            return min(4, few)
        least = min(2 + max(map(len, self.request.space.encoding.decisions)), 16)
        if not typical:
            return min(16, few)
        seconds = typical * 1e-3 * self.protocol.network_run_count
        return min(int(np.clip(NETWORK_SECONDS / seconds, least, 48)), few)

    def _ends(self, values: Mapping[str, float] | None) -> tuple[np.ndarray | None, float]:
        """Encoded smallest and largest network by the plain sum, and what a typical one takes."""
        if values is None:
            return None, 0.0
        try:
            model = AdditiveModel.from_values(
                self.request.space.encoding, self.description, values, dtype=self.dtype, live=False
            )
        except MissingKeys:
            return None, 0.0
        return np.stack([model.range.smallest, model.range.largest]), model.range.mean

    def _fit(self, values: Mapping[str, Mapping[str, float]], latency: Mapping[str, float]) -> Calibration | None:
        training = self.networks.observed("calibration", latency)
        held = self.networks.observed("held-out", latency)
        if not len(training.codes):
            self.doubts.append("no calibration network could be measured, so predictions are plain sums")
            return None
        try:
            best, _, self.tried = calibrate(
                self.request.space.encoding,
                self.description,
                values,
                training,
                held,
                dtype=self.dtype,
                exact=self.request.device.exact,
            )
        except MissingKeys as error:
            self.doubts.append(f"not calibrated: {error}")
            return None
        return best

    # -- results

    def _finish(self, table: LatencyTable, estimates: Mapping[str, Estimate]) -> None:
        with table.batch():
            for key, e in estimates.items():
                table.finish(
                    key,
                    latency=e.value,
                    low=e.low,
                    high=e.high,
                    status="ok" if e.converged else "unconverged",
                    reason="" if e.converged else "the visits did not agree",
                    phases=self._phases(key),
                )

    def _phases(self, key: str) -> dict[str, Any] | None:
        """Time and peak memory of lowering, load, first and warm run, and what was delegated, as far as known."""
        if key not in self.reports:
            return None
        lowering = self.lowerer.costs.get(self.keys[key].digest, {}) if key in self.keys else {}
        return {**lowering, **self.reports[key].as_dict()}

    def _note_conditions(self, bench: AnyBench, table: LatencyTable) -> None:
        drift = bench.canary_drift()
        conditions = bench.conditions()
        self.doubts += conditions.get("doubts", [])
        table.add_record("conditions", {**conditions, "canary_drift": drift, "phases": self.phases})
        if drift is not None and abs(drift) > CANARY:
            self.doubts.append(
                f"an operator visited throughout moved by {100 * drift:+.1f} % meanwhile: the machine was not steady"
            )

    def _result(self, table: LatencyTable, calibration: Calibration | None) -> ProfileResult:
        delegated = delegation(table.rows())
        if delegated is not None and delegated.doubt:
            self.doubts.append(delegated.doubt)
        rows = [row for row in table.rows() if row.key in self.keys]
        failed = {row.key: row.reason for row in rows if row.status == "failed"}
        unconverged = [row.key for row in rows if row.status in ("unconverged", "pending")]
        if calibration is not None and self.request.method == "in-context":
            unconverged = []
        return ProfileResult(
            table=self.request.out,
            n=len(rows),
            failed=failed,
            unconverged=unconverged,
            calibration=calibration,
            tried=self.tried,
            seconds=time.monotonic() - self.start,
            phases=self.phases,
            doubts=self.doubts,
        )

    def _timed(self, phase: str, work: Callable[[], T]) -> T:
        start = time.monotonic()
        try:
            return work()
        finally:
            self.phases[phase] = self.phases.get(phase, 0.0) + time.monotonic() - start


def _spread(ms: Sequence[float], alone: Estimate | None) -> Estimate:
    """Times of one operator wherever it occurs in networks, and, where both count, timed alone."""
    inside = Estimate(float(np.mean(ms)), float(np.min(ms)), float(np.max(ms)), True)
    if alone is None:
        return inside
    value = (inside.value + alone.value) / 2
    return Estimate(value, min(inside.low, alone.low, value), max(inside.high, alone.high, value), alone.converged)
