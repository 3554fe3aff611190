"""Landing: what a search found is built and measured, and the choice among its best corrected by that.

A predictor is off by a percent or two, and by much the same for networks that are alike. So the found network and the
next best are measured, interleaved, beside networks that calibrated the predictor; the factor measured / predicted is
refitted, mostly on the candidates themselves, since they are nearest to what else may be on target; and where none of
them is, more are derived with the refitted factor. A choice by measured value prefers what noise has favoured, so the
value that counts is taken afterwards, from visits that had no part in the choice.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..devices.base import Device, DeviceError
from ..predictors.agreement import check_device
from ..predictors.base import Predictor
from ..predictors.network_timer import Measured, NetworkTimer, spread_networks
from ..profiler.calibration_data import CalibrationData
from ..profiler.progress import Progress
from ..profiler.protocol import MeasuringProtocol
from ..spaces.architecture import Architecture
from ..spaces.space import SearchSpace
from .candidates import Candidates
from .derive import Derived, Rule
from .goals import Latency
from .landed import Candidate, Landing
from .objective import LOW
from .settings import LandingSettings

__all__ = ["Candidate", "Derive", "Landing", "LandingRequest", "from_ranked", "land"]

CALIBRATION = 8
"""Networks of the predictor's calibration that are measured beside the candidates."""
ROUNDS = 3
"""Of measuring candidates, at most."""
MORE = 4
"""Candidates that a further round adds, at most."""
NEAR = 0.01
"""Share of the target within which a measured candidate makes a further round needless."""
REFERENCES = 12
"""Networks measured again beside the chosen one, at most: to see whether the machine is as it was, and because caches
and clocks are others where hardly any network runs beside it (one of 20 us took 3 % more beside two)."""
DRIFT = 3.0
"""Percent from which their change is told."""
PAUSE_S = 0.04
"""Visits so far apart are independent of each other; what more time would even out, the timer holds fixed."""

Derive = Callable[[int, float], Sequence[Derived]]
"""(n, scale) -> the n best networks, best first, where predicted latencies are multiplied by `scale`."""


@dataclass(frozen=True)
class LandingRequest:
    """What to land, and where.

    Attributes:
        latency: the goals; None: there is no target, and what was found is only measured.
        derive: gives the candidates; or these themselves, best first (see `from_ranked`).
        device: where to measure. folder: for the raw samples.
        rule: "band": the candidate nearest to the target is chosen; "limit": the most probable one below it;
            "argmax": the found one, which alone is measured.
        goal: number of the goal whose device this is. With several goals the others' latencies are taken as predicted,
            and what is to be 1 is the ratio that all give together.
        predictor: without goals: the device's, if there is one.
        seed: of the orders of visits. agent, agent_python: where the measuring process runs (see `Device.open`).
        calibration: by which int8 networks are calibrated; None: by random numbers.
    """

    space: SearchSpace
    latency: Latency | None
    derive: Derive | Sequence[Derived]
    device: Device
    folder: Path
    rule: Rule = "band"
    settings: LandingSettings = field(default_factory=LandingSettings)
    goal: int = 0
    predictor: Predictor | None = None
    seed: int = 0
    agent: str | None = None
    agent_python: str | None = None
    calibration: CalibrationData | None = None


def land(request: LandingRequest, progress: Progress | None = None) -> Landing:
    """Measure candidates, choose one, and judge the choice by an independent measurement.

    On a device whose values are exact, measuring is counting.

    Raises:
        DeviceError: the device cannot be used here, its agent cannot be started, or no candidate could be measured.
        PredictorError: the predictor was made for another device or other settings.
    """
    return _Landing(request, progress).run()


def from_ranked(latency: Latency | None, ranked: Sequence[Derived], rule: Rule) -> Derive:
    """Derives from given networks, best first: those that the rule accepts in their order, then the nearest ones."""
    ratio = np.ones(len(ranked)) if latency is None else latency.ratio(np.stack([d.codes for d in ranked]))
    low = LOW if rule == "band" else 0.0

    def derive(n: int, scale: float) -> Sequence[Derived]:
        scaled = scale * ratio
        away = np.zeros(len(ratio)) if rule == "argmax" else np.maximum(scaled - 1, 0) + np.maximum(low - scaled, 0)
        order = np.argsort(away, kind="stable")[:n]
        return [replace(ranked[i], ratio=None if latency is None else float(scaled[i])) for i in order]

    return derive


class _Landing:
    def __init__(self, request: LandingRequest, progress: Progress | None) -> None:
        self.start = time.monotonic()
        self.request, self.settings, self.space = request, request.settings, request.space
        latency, derive, device = request.latency, request.derive, request.device
        self.rule: Rule = "argmax" if latency is None else request.rule
        self.derive = derive if callable(derive) else from_ranked(latency, derive, self.rule)
        self.predictor = latency.goals[request.goal].predictor if latency is not None else request.predictor
        if self.predictor is not None:
            check_device(self.predictor, device)
        self.doubts: list[str] = []
        origin = self.predictor.origin if self.predictor is not None else None
        self.timer = NetworkTimer(
            self.space,
            device,
            request.folder,
            origin=origin,
            agent=request.agent,
            agent_python=request.agent_python,
            protocol=MeasuringProtocol(pause_s=PAUSE_S),
            seed=request.seed,
            progress=progress,
            calibration=request.calibration,
        )
        known = [] if device.exact or self.rule == "argmax" else list(spread_networks(origin, CALIBRATION))
        calibration = dict(zip(known, self.space.encode(known), strict=True))
        self.candidates = Candidates(latency, request.goal, self.predictor, self.rule, calibration)

    def run(self) -> Landing:
        with self.timer as timer:
            if self.predictor is not None:
                self.doubts += check_device(self.predictor, self.request.device, timer.about)
            self._rounds()
            candidates = self.candidates
            if not candidates.measured:
                reasons = "; ".join(dict.fromkeys(candidates.failed[a] for a in candidates.networks))
                raise DeviceError(f"none of {len(candidates.networks)} candidates could be measured: {reasons}")
            chosen = candidates.choose()
            final, drift = self._judge(chosen)
        return self._landing(chosen, final, drift)

    def _rounds(self) -> None:
        """Measure candidates, interleaved with all that were measured before, until there is no need for more."""
        count = 1 if self.rule == "argmax" else self.settings.candidates
        new = self._derived(count, 1.0)[:count]
        for number in range(1, ROUNDS + 1):
            self.candidates.add(new, number)
            found = self.timer.measure(self.candidates.to_measure, self.settings.visits, name=f"landing-{number}")
            self.candidates.record(found, self.timer.failed)
            new = self._more()
            if not new:
                break

    def _derived(self, n: int, scale: float) -> list[tuple[Architecture, Derived]]:
        """Those of the n best that are not among the candidates yet."""
        found = self.derive(n, scale)
        architectures = self.space.decode(np.stack([d.codes for d in found]))
        return [(a, d) for a, d in zip(architectures, found, strict=True) if a not in self.candidates.networks]

    def _more(self) -> list[tuple[Architecture, Derived]]:
        """Further candidates, where those that are measured leave something to be wished."""
        candidates = self.candidates
        if self.rule == "argmax" or self.request.device.exact:
            return []
        if self.rule == "band" and candidates.distance <= NEAR:
            return []
        if self.rule == "limit" and candidates.measured and not self._derived(1, candidates.scale):
            return []  # the most probable one that the refitted factor puts below the limit is measured
        # The nearest to the target is wanted now: the band, which ends there, is moved to have it in its middle.
        scale = candidates.scale * ((1 + LOW) / 2 if self.rule == "band" else 1.0)
        return self._derived(len(candidates.networks) + MORE, scale)[:MORE]

    def _judge(self, chosen: Architecture) -> tuple[Measured | None, float | None]:
        """The chosen network from fresh visits, and by how many percent networks beside it changed since."""
        others = {a: n.measured for a, n in {**self.candidates.known, **self.candidates.measured}.items()}
        value = others.pop(chosen).value
        beside = sorted(others, key=lambda a: abs(others[a].value - value))[:REFERENCES]
        if self.request.device.exact:
            beside = []
        found = self.timer.measure([chosen, *beside], self.settings.final_visits, name="landing-final")
        changes = [math.log(found[a].value / others[a].value) for a in beside if a in found]
        drift = 100 * math.expm1(sum(changes) / len(changes)) if changes else None
        return found.get(chosen), drift

    # -- the result

    def _landing(self, chosen: Architecture, final: Measured | None, drift: float | None) -> Landing:
        device, latency, candidates = self.request.device, self.request.latency, self.candidates
        ratio = None
        if final is not None and latency is not None:
            ratio = candidates.ratio(candidates.networks[chosen], final.value)
        self._doubt(chosen, final, ratio, drift)
        refit = candidates.refit
        return Landing(
            device=device.name,
            settings=device.settings.as_dict(),
            unit=device.unit,
            rule=self.rule,
            target=None if latency is None else latency.goals[self.request.goal].target,
            candidates=tuple(candidates.candidate(a) for a in candidates.measured),
            chosen=chosen,
            measured=final,
            ratio=ratio,
            factor=None if refit is None else refit.factor,
            calibration_factor=None if refit is None else refit.calibration_factor,
            calibration_networks=len(candidates.known),
            drift=drift,
            clock=None if self.timer.change is None else 100 * self.timer.change,
            failed=self._failed(),
            doubts=tuple(self.doubts),
            seconds=time.monotonic() - self.start,
        )

    def _failed(self) -> tuple[tuple[Architecture, str], ...]:
        return tuple((a, reason) for a, reason in self.candidates.failed.items() if a in self.candidates.networks)

    def _doubt(self, chosen: Architecture, final: Measured | None, ratio: float | None, drift: float | None) -> None:
        unit, off = self.request.device.unit, 0.0 if ratio is None else 100 * (ratio - 1)
        self.doubts += [f"left out, not measured: {a.short()}: {reason}" for a, reason in self._failed()]
        if drift is not None and abs(drift) > DRIFT:
            self.doubts.append(f"networks took {drift:+.1f} % in the last measurement: the machine is not quiet")
        if final is None:
            reason = self.timer.failed.get(chosen, "no visits")
            self.doubts.append(f"the chosen network could not be measured again: {reason}")
        elif self.rule == "limit" and off > 0:
            self.doubts.append(f"measured {final.value:.4g} {unit}, {off:.2f} % above the limit")
        elif self.rule == "band" and abs(off) > 100 * self.settings.tolerance:
            self.doubts.append(f"measured {final.value:.4g} {unit}, {off:+.1f} % off the target")
