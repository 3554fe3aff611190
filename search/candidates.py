"""The networks that landing measures, and what their measurements say together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..predictors.base import Predictor
from ..predictors.network_timer import Measured
from ..spaces.architecture import Architecture
from .derive import Derived, Rule
from .goals import Latency
from .landed import Candidate
from .refit import Refit, refit


@dataclass
class Network:
    """One that is measured.

    Attributes:
        log_probability, round: of a candidate; in which round it came in.
        taken: a measurement for each round in which it took part.
    """

    codes: np.ndarray
    log_probability: float = 0.0
    round: int = 0
    taken: list[Measured] = field(default_factory=list)

    @property
    def measured(self) -> Measured:
        """Of all rounds together: each had as many visits."""
        n = len(self.taken)
        value = sum(m.value for m in self.taken) / n
        half = math.sqrt(sum(((m.high - m.low) / 2) ** 2 for m in self.taken)) / n
        return replace(self.taken[-1], value=value, low=max(0.0, value - half), high=value + half)


Networks = dict[Architecture, Network]


class Candidates:
    """Candidates, and beside them networks that calibrated the predictor.

    Args:
        latency, goal, predictor, rule: see `landing.LandingRequest`.
        calibration: architectures with their codes.

    Attributes:
        networks: all candidates, in the order in which they were derived.
        failed: architecture -> why it could not be measured.
        refit: the predictor as corrected by what was measured; None without a predictor, or a measurement.
    """

    def __init__(
        self,
        latency: Latency | None,
        goal: int,
        predictor: Predictor | None,
        rule: Rule,
        calibration: Mapping[Architecture, np.ndarray],
    ) -> None:
        self._latency, self._goal, self._predictor, self._rule = latency, goal, predictor, rule
        self.networks: Networks = {}
        self.calibration: Networks = {a: Network(codes) for a, codes in calibration.items()}
        self.failed: dict[Architecture, str] = {}
        self.refit: Refit | None = None

    def add(self, found: Sequence[tuple[Architecture, Derived]], round_: int) -> None:
        """New candidates."""
        for architecture, derived in found:
            self.networks[architecture] = Network(derived.codes, derived.log_probability, round_)

    @property
    def to_measure(self) -> list[Architecture]:
        """All that can be measured; a candidate may have calibrated the predictor, too."""
        return [a for a in {**self.calibration, **self.networks} if a not in self.failed]

    def record(self, found: Mapping[Architecture, Measured], failed: Mapping[Architecture, str]) -> None:
        """What a round found; the predictor is refitted."""
        self.failed |= failed
        for networks in (self.calibration, self.networks):
            for architecture in networks.keys() & found.keys():
                networks[architecture].taken.append(found[architecture])
        if self._predictor is None:
            return
        near, known = (
            [(self.predicted(n), n.measured) for n in networks.values()] for networks in (self.measured, self.known)
        )
        self.refit = refit(near, known) if near or known else None

    @property
    def measured(self) -> Networks:
        """The candidates that could be measured."""
        return {a: n for a, n in self.networks.items() if n.taken and a not in self.failed}

    @property
    def known(self) -> Networks:
        """The calibration networks that could be."""
        return {a: n for a, n in self.calibration.items() if n.taken and a not in self.failed}

    # -- one network

    def predicted(self, network: Network) -> float:
        """As the predictor stands."""
        assert self._predictor is not None
        return float(self._predictor.predict_codes(network.codes[None])[0])

    def expected(self, network: Network) -> tuple[float, float]:
        """What a further measurement of it will find, and how far off that may be (a share)."""
        if self.refit is None:
            return network.measured.value, 0.0
        return self.refit.expected(self.predicted(network), network.measured)

    def ratio(self, network: Network, latency: float | None = None) -> float:
        """latency / target of all goals together; with this latency, where given, of the goal that is measured."""
        goals = self._latency
        assert goals is not None
        values = goals.predicted(network.codes[None])[0]
        if latency is not None:
            values[self._goal] = latency
        ratios = values / goals.targets
        return float(ratios.max() if goals.combine == "worst" else ratios @ goals.weights)

    def candidate(self, architecture: Architecture) -> Candidate:
        """For the report."""
        network = self.networks[architecture]
        predicted = None if self._predictor is None else self.predicted(network)
        return Candidate(
            architecture=architecture,
            log_probability=network.log_probability,
            predicted=predicted,
            predicted_refitted=None if predicted is None or self.refit is None else self.refit.factor * predicted,
            measured=network.measured,
            expected=self.expected(network)[0],
            round=network.round,
        )

    # -- all of them

    @property
    def scale(self) -> float:
        """By how much the ratio of the candidates changes with the refitted factor."""
        factor = self.refit.factor if self.refit is not None else 1.0
        near = list(self.measured.values()) or list(self.networks.values())
        return float(np.median([self.ratio(n, factor * self.predicted(n)) / self.ratio(n) for n in near]))

    @property
    def distance(self) -> float:
        """|ratio - 1| of the nearest; infinite while none is measured."""
        near = self.measured.values()
        return min((abs(self.ratio(n, self.expected(n)[0]) - 1) for n in near), default=math.inf)

    def choose(self) -> Architecture:
        """By the rule, among those that could be measured: there must be one.

        Below a limit is what is expected there with two standard errors to spare; if nothing is, what barely is.
        """
        near = self.measured
        if self._rule == "argmax":
            return next(iter(near))
        expected = {a: self.expected(n) for a, n in near.items()}
        if self._rule == "limit":
            surely = [a for a, (value, error) in expected.items() if self.ratio(near[a], value * (1 + 2 * error)) <= 1]
            below = surely or [a for a, (value, _) in expected.items() if self.ratio(near[a], value) <= 1]
            if below:
                return max(below, key=lambda a: near[a].log_probability)
        return min(near, key=lambda a: abs(self.ratio(near[a], expected[a][0]) - 1))
