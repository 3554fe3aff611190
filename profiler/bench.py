"""The bench: interleaved, adaptive timing of many workloads through one session, stored as it goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from ..devices.base import Artifact, Device, DeviceLost, LoadReport, NodeTrace, Round, WorkloadFailed
from ..devices.session import Session
from .benches import AnyBench, ExactBench, OutOfTime
from .conditions import DeviceLog, keep_output
from .lowering import LoweringError
from .protocol import (
    Estimate,
    MeasuringProtocol,
    Timed,
    estimate_network,
    estimate_operator,
    full_speed,
    network_values,
    operator_values,
    reference_times,
)
from .table import LatencyTable


@contextmanager
def open_session(device: Device, agent: str | None, agent_python: str | None) -> Iterator[Session | None]:
    """The device's session; None for a device whose values are exact."""
    if device.exact:
        yield None
        return
    with device.open(agent=agent, agent_python=agent_python) as session:
        yield session


def describe(device: Device, session: Session | None) -> dict[str, Any]:
    """Provenance of what is measured."""
    return session.describe() if session is not None else {"device": device.name, "unit": device.unit}


def open_bench(
    device: Device, session: Session | None, table: LatencyTable, protocol: MeasuringProtocol, seed: int
) -> AnyBench:
    """The bench for a device: it measures, or, where values are exact, computes."""
    if session is None:
        return ExactBench(table, protocol, device)
    return Bench(table, protocol, device, session=session, rng=np.random.default_rng(seed))


@dataclass
class Bench(AnyBench):
    """Of a device that is timed.

    Attributes:
        session: with the agent that times.
        preemptions, loads: of the rounds so far.
        run_ms: warm run of each workload loaded so far. last_ms: median run of its last visit.
        canary: key of the longest operator, visited in every round of operators; history: its times, by the reference
            where there is one, else in ms.
        last_round: Unix time of the last round's first visit.
        log: what the device said of itself.
    """

    session: Session = field(kw_only=True)
    rng: np.random.Generator = field(kw_only=True)
    preemptions: int = 0
    loads: list[float] = field(default_factory=list)
    run_ms: dict[str, float] = field(default_factory=dict)
    last_ms: dict[str, float] = field(default_factory=dict)
    canary: str = ""
    history: list[float] = field(default_factory=list)
    last_round: float = 0.0
    log: DeviceLog = field(init=False)

    def __post_init__(self) -> None:
        self.log = DeviceLog(self.device)

    def load(self, artifacts: Mapping[str, Callable[[], Artifact]], step: str) -> dict[str, LoadReport]:
        # In random order: what is loaded first finds other memory than what comes last, which shows in its time.
        keys = list(artifacts)
        reports: dict[str, LoadReport] = {}
        for i, k in enumerate(self.rng.permutation(len(keys))):
            key = keys[k]
            self.progress.step(step, i, len(keys))
            try:
                reports[key] = self.session.load(key, artifacts[key]())
                self.run_ms[key] = reports[key].warm_run_ms
            except (WorkloadFailed, LoweringError) as error:
                reason = keep_output(self.table, key, str(error), getattr(error, "output", ""))
                self.table.finish(key, status="failed", reason=reason)
        self.progress.step(step, len(artifacts), len(artifacts))
        return reports

    def unload(self, keys: Sequence[str]) -> None:
        for key in set(keys) & set(self.session.loaded):
            self.session.unload(key)

    def operators(self, keys: Sequence[str]) -> dict[str, Estimate]:
        """Visit workloads round robin in random order until each has converged or has had its visits.

        Visits that the table holds already count.
        """
        known = self.table.all_visits()
        visits: dict[str, list[Timed]] = {key: list(known.get(key, [])) for key in keys}
        pending = self._loaded(self._pending(visits))
        self.canary = self.canary or max(pending, key=lambda key: self.run_ms.get(key, 0.0), default="")
        while pending:
            self._check_time()
            now = set(self._loaded([*pending, self.canary]))
            answer = self._visit(now, self.protocol.warmup, self.protocol.runs, self.protocol.long_ms)
            for key, samples in answer.samples.items():
                visits[key].append(samples)
            for key in answer.failures:
                visits.pop(key, None)
            self.log.cool(self.history)
            pending = self._loaded(self._pending(visits))
            self.progress.step("operators", len(visits) - len(pending), len(visits))
        clock = self.device.clock
        speed = full_speed(visits, partial(operator_values, clock=clock))
        return {key: estimate_operator(v, self.protocol, speed, clock) for key, v in visits.items() if v}

    def networks(self, keys: Sequence[str]) -> dict[str, Estimate]:
        """Give each network its visits, round robin in random order; visits that the table holds already count."""
        visits = self.table.all_visits()
        self.last_ms |= {key: self._ms(own[-1]) for key, own in visits.items() if own}
        left = {key: max(0, self.protocol.network_visits - len(visits.get(key, []))) for key in self._loaded(keys)}
        total = sum(left.values())
        rule = self.protocol
        while any(left.values()):
            self._check_time()
            now = {key for key, n in left.items() if n}
            answer = self._visit(now, rule.network_warmup, rule.network_runs, rule.network_long_ms)
            left = {key: 0 if key in answer.failures else n - (key in now) for key, n in left.items()}
            self.progress.step("networks", total - sum(left.values()), total)
        visits = {key: own for key, own in self.table.all_visits().items() if key in set(keys)}
        failed = {row.key for row in self.table.rows("network") if row.status == "failed"}
        clock = self.device.clock
        speed = full_speed(visits, partial(network_values, clock=clock))
        return {key: estimate_network(visits[key], clock, speed) for key in keys if key in visits and key not in failed}

    def unmeasured(self, keys: Sequence[str], *, networks: bool = False) -> list[str]:
        known = self.table.all_visits()
        if networks:
            return [key for key in keys if len(known.get(key, [])) < self.protocol.network_visits]
        return self._pending({key: known.get(key, []) for key in keys})

    def _loaded(self, keys: Sequence[str]) -> list[str]:
        there = set(self.session.loaded)
        return [key for key in keys if key in there]

    def trace(self, key: str) -> tuple[Artifact, NodeTrace]:
        self._check_time()
        trace = self.session.trace(key, runs=self.protocol.trace_runs)
        return self.session.artifact(key), trace

    def conditions(self) -> dict[str, Any]:
        load = max(self.loads) if self.loads else None
        seen = {"preemptions": self.preemptions, "max_load": load, "canary": self.canary, "canary_times": self.history}
        return {**seen, **self.log.as_dict()}

    def canary_drift(self) -> float | None:
        third = len(self.history) // 3
        if third < 3:
            return None
        return float(np.median(self.history[-third:]) / np.median(self.history[:third]) - 1)

    def _visit(self, keys: Set[str], warmup: int, runs: int, long_ms: float) -> Round:
        """One visit to each; what took longer than so many ms in the last one is run once."""
        long = {key for key in keys if self.last_ms.get(key, 0.0) > long_ms}
        longest = {key for key in long if self.last_ms[key] > self.protocol.network_long_ms}
        rules = ((keys - long, warmup, runs), (long - longest, 1, 1), (longest, 0, 1))
        answers = [self._round(group, warmup, runs) for group, warmup, runs in rules if group]
        samples = {key: own for answer in answers for key, own in answer.samples.items()}
        self.last_ms |= {key: self._ms(own) for key, own in samples.items()}
        return Round(samples, {key: why for answer in answers for key, why in answer.failures.items()}, 0, 0.0)

    def _ms(self, visit: Timed) -> float:
        return float(network_values([visit], self.device.clock)[0])

    def _round(self, keys: Set[str], warmup: int, runs: int) -> Round:
        ordered = sorted(keys)
        order = [ordered[i] for i in self.rng.permutation(len(ordered))]
        answer = self.session.round(order, warmup=warmup, runs=runs)
        self._spread_out(answer)
        with self.table.batch():
            self.table.add_visits(answer.samples, self.session_id)
            for key, reason in answer.failures.items():
                kept = keep_output(self.table, key, reason, answer.outputs.get(key, ""))
                self.table.finish(key, status="failed", reason=kept)
        self.log.add(answer)
        self.preemptions += answer.preemptions
        self.loads.append(answer.load)
        if self.canary in answer.samples:
            self.history.append(_relative(answer.samples[self.canary], self.device.clock))
        if answer.lost:
            raise DeviceLost(answer.lost)
        return answer

    def _spread_out(self, answer: Round) -> None:
        """Sleep where rounds are so short that all visits would fall into one burst of contention."""
        started = [samples.started for samples in answer.samples.values()]
        if started:
            early = self.protocol.pause_s - (min(started) - self.last_round)
            time.sleep(min(max(early, 0.0), self.protocol.pause_s))
            self.last_round = min(started)

    def _pending(self, visits: Mapping[str, Sequence[Timed]]) -> list[str]:
        least = min(self.protocol.min_visits, self.protocol.max_visits)
        ripe = {key for key, v in visits.items() if len(v) >= least}
        values = partial(operator_values, clock=self.device.clock)
        speed = full_speed(visits, values) if ripe else None  # until then nothing is estimated between rounds
        return [key for key, v in visits.items() if key not in ripe or not self._done(v, speed)]

    def _done(self, visits: Sequence[Timed], speed: float | None) -> bool:
        if len(visits) >= self.protocol.max_visits:
            return True
        return estimate_operator(visits, self.protocol, speed, self.device.clock).converged

    def _check_time(self) -> None:
        if time.monotonic() > self.deadline:
            raise OutOfTime


def _relative(visit: Timed, clock: str) -> float:
    reference = reference_times([visit])
    value = operator_values([visit], clock)
    return float((value if reference is None else value / reference)[0])
