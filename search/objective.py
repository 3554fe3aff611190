"""What accuracy and latency are worth together.

With R the expected latency / target (see `goals`), E and T the expected latency and the target in their unit:

    hold        L = task * CE, under probabilities that are tilted so that R = 1 (see `tilt`)
    limit       the same with R <= 1
    mul#log     L = a * task * CE * (log E / log T) ** b        ProxylessNAS, arXiv:1812.00332, its published code
    add#linear  L = task * CE + l * (R - 1)                     likewise
    none        L = task * CE

Where a predictor's expectation has no closed form, R is estimated, and the estimate kept while the probabilities stay
near (see `estimates`). Latency that is measured can only be sampled: hold and limit then take multiplier * R from the
reward, and a PI controller moves the multiplier so that R is observed to be 1 (see `control`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import HwnasError
from .control import Controller
from .goals import ROUNDING, Latency, plain
from .holding import Holding
from .settings import ObjectiveSettings

if TYPE_CHECKING:
    from torch import Tensor

    from .derive import Rule

LOW = 0.98
"""Lower end of the band of latency / target that counts as on target."""
LEAST_TARGET = 2.0
"""Of mul#log, in the unit."""
LEAST_EXPECTED = 1.1
"""Of mul#log, in the unit: nearer to 1 the derivative of (log E) ** b grows without bound."""
PROBES = 32
"""Networks by whose predictions predictors are told apart."""
DISTANCE = 0.5
"""Weight of the distance from the target in the reward of a network, where probabilities are not tilted."""


class ObjectiveError(HwnasError):
    """An objective that cannot be used as it was asked for."""


class Objective:
    """Loss, reward and acceptance of a search.

    Args:
        latency: the goals; None: latency plays no part, whatever the settings' kind.
        settings: see `ObjectiveSettings`.

    Attributes:
        kind: as in the settings; "none" without goals.
        tilts: whether `logits` holds the expected latency.

    Raises:
        ObjectiveError: mul#log with a target near 1 or below in its unit.
    """

    def __init__(self, latency: Latency | None, settings: ObjectiveSettings) -> None:
        self.latency = latency
        self.settings = settings
        self.kind = settings.kind if latency is not None else "none"
        self._holds = self.kind in ("hold", "limit")
        self.tilts = self._holds and latency is not None and not latency.measures
        self._holding = None if latency is None else Holding(latency, tilts=self.tilts, limit=self.kind == "limit")
        # tuned on simulated searches of 60 to 1,000 updates whose gradients differ by a factor of 100
        self._controller = Controller(3.0, 0.1, positive=self.kind == "limit")
        if self.kind == "mul#log":
            self._check_targets()

    @property
    def rule(self) -> Rule:
        """By which architectures are derived from this objective's probabilities (see `derive`)."""
        if self.latency is None:
            return "argmax"
        if self.settings.derive != "auto":
            return self.settings.derive
        rules: dict[str, Rule] = {"limit": "limit", "none": "argmax"}
        return rules.get(self.kind, "band")

    # -- gradient

    def logits(self, alphas: Sequence[Tensor]) -> list[Tensor]:
        """The logits to draw from: alphas - mu * t / T where the objective tilts, else the alphas.

        mu and t = dE/dp are solved for anew and are constants to autograd: the same alphas give the same logits.
        Estimated expectations follow the alphas first, once for each that come here.

        Args:
            alphas: one vector a decision.

        Raises:
            ObjectiveError: they are not finite.
        """
        if self._holding is None or self.latency is None or not (self.tilts or self.latency.near):
            return list(alphas)
        import torch

        flat = torch.cat([a.detach().reshape(-1) for a in alphas]).double().cpu().numpy()
        if not np.isfinite(flat).all():
            raise ObjectiveError("the architecture parameters are not finite: the search diverged; lower its lr")
        shift = self._holding.shift(flat)
        if not self.tilts:
            return list(alphas)
        vectors = torch.from_numpy(shift).to(alphas[0]).split([len(a) for a in alphas])
        return [a - s for a, s in zip(alphas, vectors, strict=True)]

    def loss(self, task: Tensor, probabilities: Sequence[Tensor]) -> Tensor:
        """The loss; differentiable in both.

        Args:
            task: cross-entropy.
            probabilities: one vector a decision.

        Raises:
            ObjectiveError: mul#log with an expected latency near 1 or below in its unit; a latency that is measured.
        """
        weight = self.settings.task
        if self.latency is None or self.kind == "none" or self.tilts:
            return weight * task
        if self.latency.measures:
            raise ObjectiveError("latency that is measured has no derivative: search by reinforce, or with a predictor")
        if self.kind == "mul#log":
            factor = self._log_ratio(self.latency.expected(probabilities)) ** self.settings.b
            return self.settings.a * (weight * task if weight else 1.0) * factor
        ratio: Tensor = self.latency.expected_ratio(probabilities)
        return weight * task + self.settings.l * (ratio - 1)

    # -- sampled networks

    def reward(
        self, accuracy: NDArray[np.float64], codes: np.ndarray | None = None, ratio: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64]:
        """(N,) what sampled networks are worth.

        mul#log: task * accuracy * (1 / ratio) ** power. add#linear: task * accuracy - l * (ratio - 1). hold and limit:
        task * accuracy where the probabilities are tilted; else less 0.5 * abs(ratio - 1) + multiplier * (ratio - 1)
        (limit: both only above 1 and for a multiplier >= 0). In simulated searches the distance alone ended 2 %
        (nine in ten: 24 %) off target, the multiplier alone 1.9 % (8 %), both together 0.7 % (2.4 %).

        Args:
            accuracy: (N,) from 0 to 1.
            codes: (N, decisions), from which the ratio is predicted where it is not given.
            ratio: (N,) latency / target.
        """
        worth = self.settings.task * np.asarray(accuracy, float)
        if self.latency is None or self.kind == "none" or self.tilts:
            return worth
        if ratio is None:
            if codes is None:
                raise ObjectiveError("a reward under a latency goal needs the networks or their latency / target")
            ratio = self.latency.ratio(codes)
        if self.kind == "mul#log":
            return np.asarray((worth if self.settings.task else 1.0) * (1 / ratio) ** self.settings.power)
        miss = np.asarray(ratio, float) - 1
        if self.kind == "add#linear":
            return np.asarray(worth - self.settings.l * miss)
        distance = np.maximum(miss, 0) if self.kind == "limit" else np.abs(miss)
        return np.asarray(worth - DISTANCE * distance - self._controller.multiplier * miss)

    def accepts(self, ratio: NDArray[np.float64] | None) -> NDArray[np.bool_]:
        """Which of (N,) latencies / target are on it: from 0.98 to 1, up to 1 for limit, all for none."""
        ratio = np.asarray(ratio, float)
        if self.kind == "none" and self.rule == "argmax":
            return np.ones(ratio.shape, bool)
        below = ratio <= 1 + ROUNDING
        return below if "limit" in (self.kind, self.rule) else below & (ratio >= LOW - ROUNDING)

    def far(self, ratio: float | None) -> list[str]:
        """Sentences about the best network's latency / target, where it is not accepted: small spaces have gaps."""
        if ratio is None or self.rule == "argmax" or self.accepts(np.array([ratio]))[0]:
            return []
        wanted = "at or below the target" if self.rule == "limit" else f"at {LOW:.0%} to 100% of the target"
        return [f"no network that is predicted {wanted} was found; the nearest one is at {ratio:.1%} of it"]

    # -- the controller

    def observe(self, ratio: float) -> None:
        """Tell the mean ratio of sampled networks, after an update.

        Raises:
            ObjectiveError: it is not finite.
        """
        if not self._holds or self.tilts:
            return
        if not math.isfinite(ratio):
            raise ObjectiveError(
                f"the predictor gave a latency of {ratio} times the target: it cannot be searched with"
            )
        self._controller.observe(ratio)

    # -- the record

    def log(self, probabilities: Sequence[Any]) -> dict[str, float]:
        """`expected` latency of each goal, in its unit, the expected `ratio`, and `mu` or `multiplier`.

        Of estimates also `r2` and `error` (see `predictors.expectation`). With several goals these and the first are
        `expected/NAME` and so on, and for the worst of them there is `mu/NAME`. What would have to be measured is left
        out.
        """
        if self.latency is None:
            return {}
        names = self.latency.names
        found: dict[str, float] = {}
        if not self.latency.measures:
            expected = [plain(e) for e in self.latency.expected(probabilities)]
            ends = [""] if len(names) == 1 else [f"/{n}" for n in names]
            found |= {f"expected{end}": e for end, e in zip(ends, expected, strict=True)}
            for i, near in self.latency.near.items():
                found |= {f"r2{ends[i]}": near.estimate.r2, f"error{ends[i]}": near.estimate.error}
            found["ratio"] = plain(self.latency.expected_ratio(probabilities))
        tilt = None if self._holding is None else self._holding.tilt
        if self.tilts and tilt is not None:
            mu = tilt.multipliers.tolist()
            found |= {"mu": mu[0]} if len(mu) == 1 else {f"mu/{n}": m for n, m in zip(names, mu, strict=True)}
        elif self._holds:
            found["multiplier"] = self._controller.multiplier
        return found

    def state(self) -> dict[str, Any]:
        """All that changes, and by what the predictors are known again."""
        held = None if self._holding is None else self._holding.state()
        return {"reward": self._controller.state(), "held": held, "probes": self._probes}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave.

        Raises:
            ObjectiveError: the predictors are not those of that state, whatever their files are called; or it is of an
                older version.
        """
        if "held" not in state:
            raise ObjectiveError("the run was begun by an older version: go on with that, or begin anew with --force")
        then, now = state["probes"], self._probes
        if len(then) != len(now) or not np.allclose(then, now, rtol=1e-6):
            raise ObjectiveError(
                "the predictor gives other latencies than when this run began: its table was measured anew, or fitted "
                "again; go on with the one that was there, or begin anew with --force"
            )
        self._controller.load_state(state["reward"])
        if self._holding is not None:
            self._holding.load_state(state["held"])

    # -- inside

    @cached_property
    def _probes(self) -> list[float]:
        """What the predictors say of some networks."""
        if self.latency is None or self.latency.measures:
            return []
        codes = self.latency.space.encoding.sample(PROBES, np.random.default_rng(0))
        probes: list[float] = self.latency.predicted(codes).ravel().tolist()
        return probes

    def _check_targets(self) -> None:
        assert self.latency is not None
        for goal in self.latency.goals:
            if goal.target <= LEAST_TARGET:
                raise ObjectiveError(
                    f"mul#log cannot be used with a target of {goal.target:g} {goal.predictor.unit}: it compares "
                    f"logarithms, so it depends on the unit and breaks near 1 (it needs targets above "
                    f"{LEAST_TARGET:g}); use hold"
                )

    def _log_ratio(self, expected: Sequence[Tensor]) -> Tensor:
        """log E / log T; of several goals the weighted geometric mean, or the largest."""
        assert self.latency is not None
        found = []
        for goal, e in zip(self.latency.goals, expected, strict=True):
            now = float(e.detach())
            if not now >= LEAST_EXPECTED:
                raise ObjectiveError(
                    f"mul#log cannot go on: the expected latency fell to {now:.3g} {goal.predictor.unit} and its "
                    f"logarithm to 0 or below, for it depends on the unit; use hold"
                )
            found.append(e.log() / math.log(goal.target))
        if self.latency.combine == "worst":
            return max(found, key=lambda ratio: float(ratio.detach()))
        result = found[0] ** self.latency.weights[0]
        for ratio, weight in zip(found[1:], self.latency.weights[1:], strict=True):
            result = result * ratio**weight
        return result
