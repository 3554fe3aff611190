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
from ..profiler.progress import Progress
from ..profiler.protocol import MeasuringProtocol
from ..spaces.architecture import Architecture
from ..spaces.space import SearchSpace
from .derive import Derived, Rule
from .goals import Latency
from .landed import Candidate, Landing
from .objective import LOW
from .refit import Refit, refit
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
REFERENCES = 2
"""Networks measured again beside the chosen one, to see whether the machine is as it was."""
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


@dataclass
class _Network:
    """One that is measured.

    Attributes:
        taken: a value for each round in which it was.
    """

    codes: np.ndarray
    taken: list[Measured] = field(default_factory=list)
    log_probability: float = 0.0
    round: int = 0

    @property
    def measured(self) -> Measured:
        """Of all rounds together: each had as many visits."""
        n = len(self.taken)
        value = sum(m.value for m in self.taken) / n
        half = math.sqrt(sum(((m.high - m.low) / 2) ** 2 for m in self.taken)) / n
        return replace(self.taken[-1], value=value, low=max(0.0, value - half), high=value + half)


Networks = dict[Architecture, _Network]


class _Landing:
    def __init__(self, request: LandingRequest, progress: Progress | None) -> None:
        self.start = time.monotonic()
        self.request, self.settings, self.latency = request, request.settings, request.latency
        self.rule: Rule = "argmax" if self.latency is None else request.rule
        derive = request.derive
        self.derive = derive if callable(derive) else from_ranked(self.latency, derive, self.rule)
        self.predictor = self.latency.goals[request.goal].predictor if self.latency else request.predictor
        self.doubts: list[str] = []
        if self.predictor is not None:
            check_device(self.predictor, request.device)
        origin = self.predictor.origin if self.predictor is not None else None
        self.timer = NetworkTimer(
            request.space,
            request.device,
            request.folder,
            origin=origin,
            agent=request.agent,
            agent_python=request.agent_python,
            protocol=MeasuringProtocol(pause_s=PAUSE_S),
            seed=request.seed,
            progress=progress,
        )
        self.candidates: Networks = {}
        self.failed: dict[Architecture, str] = {}
        known = [] if request.device.exact or self.rule == "argmax" else list(spread_networks(origin, CALIBRATION))
        self.calibration: Networks = dict(zip(known, map(_Network, request.space.encode(known)), strict=True))
        self.refit: Refit | None = None

    def run(self) -> Landing:
        with self.timer as timer:
            if self.predictor is not None:
                self.doubts += check_device(self.predictor, self.request.device, timer.about)
            count = 1 if self.rule == "argmax" else self.settings.candidates
            new = self._derived(count, 1.0, count)
            for number in range(1, ROUNDS + 1):
                self._round(number, new)
                if self._settled:
                    break
                new = self._derived(len(self.candidates) + MORE, self._scale(), MORE)
                if not new:
                    break
            if not self._measured(self.candidates):
                reasons = "; ".join(dict.fromkeys(self.failed[a] for a in self.candidates))
                raise DeviceError(f"none of {len(self.candidates)} candidates could be measured: {reasons}")
            chosen = self._chosen()
            final, drift = self._judge(chosen)
        return self._landing(chosen, final, drift)

    # -- rounds

    def _derived(self, n: int, scale: float, most: int) -> Networks:
        """Those of the n best that are not among the candidates yet, up to so many."""
        found = self.derive(n, scale)
        architectures = self.request.space.decode(np.stack([d.codes for d in found]))
        new = [(a, d) for a, d in zip(architectures, found, strict=True) if a not in self.candidates]
        return {a: _Network(d.codes, log_probability=d.log_probability) for a, d in new[:most]}

    def _round(self, number: int, new: Networks) -> None:
        """Measure new candidates, interleaved with what was measured before, and refit the factor."""
        for architecture, network in new.items():
            self.candidates[architecture] = replace(network, round=number)
        together = {**self.calibration, **self.candidates}  # a candidate may have calibrated the predictor
        again = [a for a in together if a not in self.failed]
        found = self.timer.measure(again, self.settings.visits, name=f"landing-{number}")
        self.failed |= self.timer.failed
        for networks in (self.calibration, self.candidates):
            for architecture in networks.keys() & found.keys():
                networks[architecture].taken.append(found[architecture])
        self._refit()

    def _refit(self) -> None:
        if self.predictor is None:
            return
        near, known = (
            [(self._predicted(n), n.measured) for n in self._measured(networks).values()]
            for networks in (self.candidates, self.calibration)
        )
        self.refit = refit(near, known) if near or known else None

    def _expected(self, network: _Network) -> tuple[float, float]:
        """What a further measurement of it will find, and how far off that may be (a share)."""
        if self.refit is None:
            return network.measured.value, 0.0
        return self.refit.expected(self._predicted(network), network.measured)

    def _scale(self) -> float:
        """By how much the ratio of the candidates changes with the factor."""
        near = list(self._measured(self.candidates).values()) or list(self.candidates.values())
        factor = self.refit.factor if self.refit is not None else 1.0
        changes = [self._ratio(n, factor * self._predicted(n)) / self._ratio(n) for n in near]
        return float(np.median(changes))

    @property
    def _settled(self) -> bool:
        """Whether more candidates are not needed: one is near enough, or the most probable below is among them."""
        near = self._measured(self.candidates)
        if self.rule == "argmax" or self.request.device.exact:
            return True
        if self.rule == "limit":
            return bool(near) and not self._derived(1, self._scale(), 1)
        return any(abs(self._ratio(n, self._expected(n)[0]) - 1) <= NEAR for n in near.values())

    # -- the choice

    def _chosen(self) -> Architecture:
        near = self._measured(self.candidates)
        if self.rule == "argmax":
            return next(iter(near))
        expected = {a: self._expected(n) for a, n in near.items()}
        if self.rule == "limit":
            surely = [a for a, (value, error) in expected.items() if self._ratio(near[a], value * (1 + 2 * error)) <= 1]
            below = surely or [a for a, (value, _) in expected.items() if self._ratio(near[a], value) <= 1]
            if below:
                return max(below, key=lambda a: near[a].log_probability)
        return min(near, key=lambda a: abs(self._ratio(near[a], expected[a][0]) - 1))

    def _judge(self, chosen: Architecture) -> tuple[Measured | None, float | None]:
        """The chosen network from fresh visits, and by how many percent networks beside it changed since."""
        others = {**self._measured(self.candidates), **self._measured(self.calibration)}
        value = others.pop(chosen).measured.value
        beside = sorted(others, key=lambda a: abs(others[a].measured.value - value))[:REFERENCES]
        if self.request.device.exact:
            beside = []
        found = self.timer.measure([chosen, *beside], self.settings.final_visits, name="landing-final")
        changes = [math.log(found[a].value / others[a].measured.value) for a in beside if a in found]
        drift = 100 * math.expm1(sum(changes) / len(changes)) if changes else None
        return found.get(chosen), drift

    # -- predictions and ratios

    def _measured(self, networks: Networks) -> Networks:
        return {a: n for a, n in networks.items() if n.taken and a not in self.failed}

    def _predicted(self, network: _Network) -> float:
        assert self.predictor is not None
        return float(self.predictor.predict_codes(network.codes[None])[0])

    def _ratio(self, network: _Network, latency: float | None = None) -> float:
        """latency / target of all goals together; with this latency, where given, of the goal at hand."""
        goals = self.latency
        assert goals is not None
        values = goals.predicted(network.codes[None])[0]
        if latency is not None:
            values[self.request.goal] = latency
        ratios = values / goals.targets
        return float(ratios.max() if goals.combine == "worst" else ratios @ goals.weights)

    # -- the result

    def _landing(self, chosen: Architecture, final: Measured | None, drift: float | None) -> Landing:
        device, latency = self.request.device, self.latency
        ratio = None if final is None or latency is None else self._ratio(self.candidates[chosen], final.value)
        near = self._measured(self.candidates)
        failed = [(a, reason) for a, reason in self.failed.items() if a in self.candidates]
        self._doubt(chosen, final, ratio, drift)
        return Landing(
            device=device.name,
            settings=device.settings.as_dict(),
            unit=device.unit,
            rule=self.rule,
            target=None if latency is None else latency.goals[self.request.goal].target,
            candidates=tuple(self._candidate(a, n) for a, n in near.items()),
            chosen=chosen,
            measured=final,
            ratio=ratio,
            factor=None if self.refit is None else self.refit.factor,
            calibration_factor=None if self.refit is None else self.refit.calibration_factor,
            calibration_networks=len(self._measured(self.calibration)),
            drift=drift,
            failed=tuple(failed),
            doubts=tuple(self.doubts),
            seconds=time.monotonic() - self.start,
        )

    def _candidate(self, architecture: Architecture, network: _Network) -> Candidate:
        predicted = None if self.predictor is None else self._predicted(network)
        refitted = None if predicted is None or self.refit is None else self.refit.factor * predicted
        return Candidate(
            architecture,
            network.log_probability,
            predicted,
            refitted,
            network.measured,
            self._expected(network)[0],
            network.round,
        )

    def _doubt(self, chosen: Architecture, final: Measured | None, ratio: float | None, drift: float | None) -> None:
        unit, off = self.request.device.unit, 0.0 if ratio is None else 100 * (ratio - 1)
        self.doubts += [
            f"left out, not measured: {a.short()}: {reason}"
            for a, reason in self.failed.items()
            if a in self.candidates
        ]
        if drift is not None and abs(drift) > DRIFT:
            self.doubts.append(f"networks took {drift:+.1f} % between the choice and the last measurement")
        if final is None:
            reason = self.timer.failed.get(chosen, "no visits")
            self.doubts.append(f"the chosen network could not be measured again: {reason}")
        elif self.rule == "limit" and off > 0:
            self.doubts.append(f"measured {final.value:.4g} {unit}, {off:.2f} % above the limit")
        elif self.rule == "band" and abs(off) > 100 * self.settings.tolerance:
            self.doubts.append(f"measured {final.value:.4g} {unit}, {off:+.1f} % off the target")
