"""What the expected latency of a fitted predictor costs a search, and how far off it is.

Each kind of predictor is fitted on networks of a made-up device, whose choices interact: ten times (MMACs / their mean)
** 0.8, times up to 2 % for each pair of neighbouring choices, and 1 % of noise. Then the architecture updates of a
search are made with each, to a target at 40 % of the range, by Adam and random gates instead of a network's; beside
them a table, whose expectation has a closed form. Its values are other ones, so that its errors are of its own sums.

- share: CPU time of all that deals with the latency in an update (estimate, tilt, loss, record), as a share of the
  steps of this update: two weight steps and a full_v2 step of the space's supernet, 1 thread;
- error of the value and of the derivatives in the logits (the largest), at several moments of the search, as a share of
  the latency: against enumeration where the space has up to 200,000 networks, else against an estimate from 20,000
  networks, whose own error is some hundredths of a percent.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
import torch
from hwnas.benchmarks.common import Finding, Report, options, script
from hwnas.errors import HwnasError
from hwnas.predictors.base import Predictor
from hwnas.predictors.expectation import Expectation
from hwnas.predictors.flops import FlopsPredictor
from hwnas.predictors.registry import predictor_type
from hwnas.search.data.prefetch import to_channels_last
from hwnas.search.gates import GateRequest, gate_gradients
from hwnas.search.goals import Goal, Latency
from hwnas.search.objective import Objective
from hwnas.search.settings import ObjectiveSettings, WeightSettings
from hwnas.search.steps import WeightStep
from hwnas.search.supernet import Supernet
from hwnas.search.training import make_optimizer, smoothed_cross_entropy
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace
from hwnas.testing.search import made_up_table

KINDS = ("lut", "gbdt", "stacked", "gcn")
SHARE, ERROR = 10.0, 0.5
"""Bars, in percent."""
LISTED = 200_000
MANY = 20_000
PER_UPDATE = 2
"""Weight steps."""
TRAVEL = 15.0


@dataclass
class Found:
    """What one search with one kind of predictor found.

    Attributes:
        latency_s: CPU seconds of each update for the latency. estimates: how many were made.
        value, slope: errors at several moments, percent of the latency. r2: of the estimates there.
    """

    latency_s: list[float] = field(default_factory=list)
    estimates: int = 0
    value: list[float] = field(default_factory=list)
    slope: list[float] = field(default_factory=list)
    r2: list[float] = field(default_factory=list)


def device(space: SearchSpace, codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(N,) made-up latencies, ms."""
    macs = FlopsPredictor.of(space).predict_codes(codes)
    rows = np.maximum(codes, 0)
    pairs = 0.02 * np.sin(1.7 * rows[:, :-1] + 2.3 * rows[:, 1:]).sum(axis=1)
    return np.asarray(10 * (macs / macs.mean()) ** 0.8 * np.exp(pairs + 0.01 * rng.standard_normal(len(codes))))


def fitted(space: SearchSpace, kind: str, networks: int, seed: int) -> Predictor:
    if kind == "lut":
        return made_up_table(space, seed)
    rng = np.random.default_rng(seed)
    codes = space.encoding.sample(networks, rng)
    return predictor_type(kind).fit(space, space.decode(codes), device(space, codes, rng).tolist(), rng=rng)


def step_s(space: SearchSpace, batch: int, paths: int, seed: int) -> float:
    """CPU seconds of the steps of one architecture update: weight steps and a full_v2 step; the median over paths."""
    torch.manual_seed(seed)
    module = space.supernet()
    supernet = Supernet(space, module)
    weights = WeightStep(supernet, make_optimizer(module.parameters(), WeightSettings()))
    (images,) = space.inputs(batch)
    images, labels = to_channels_last(images), torch.zeros(batch, dtype=torch.long)
    rng = np.random.default_rng(seed)
    seconds = []
    for n in range(paths + 1):
        path = np.array([rng.integers(len(d)) for d in space.decisions])
        start = time.process_time()
        for _ in range(PER_UPDATE):
            weights(path, images, labels, 0.01)
        gate_gradients(supernet, GateRequest(path), images, lambda y: smoothed_cross_entropy(y, labels))
        seconds += [time.process_time() - start] * (n > 0)  # the first one finds no memory
    return median(seconds)


class Truth:
    """Expected latency and its derivatives in the logits, as exactly as can be."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        sizes = [len(d) for d in predictor.space.decisions]
        self.every: torch.Tensor | None = None
        if not predictor.closed_form and np.prod(sizes, dtype=float) <= LISTED:
            rows = np.indices(sizes).reshape(len(sizes), -1).T
            values = predictor.predict_codes(predictor.space.encoding.canonical(rows))
            self.every = torch.from_numpy(values.reshape(sizes))

    def __call__(self, p: Sequence[torch.Tensor]) -> torch.Tensor:
        if self.every is not None:
            total = self.every
            for q in p:
                total = torch.tensordot(q, total, 1)
            return total
        predictor = self.predictor
        if predictor.closed_form:
            return predictor.expected(p)  # type: ignore[no-any-return]
        many = Expectation(
            predictor.predict_codes, predictor.space.encoding, control=predictor.control, samples=MANY, seed=9
        )
        return many(p)  # type: ignore[no-any-return]


def search(predictor: Predictor, updates: int, moments: int, seed: int) -> Found:
    """The updates of a search without its network."""
    space, found, truth = predictor.space, Found(), Truth(predictor)
    low, high = predictor.predict_codes(predictor.extremes())
    latency = Latency(space, [Goal(predictor, float(low + 0.4 * (high - low)))])
    objective = Objective(latency, ObjectiveSettings())
    rng = np.random.default_rng(seed)
    alphas = [torch.zeros(len(d), dtype=torch.float64, requires_grad=True) for d in space.decisions]
    worth = [0.1 * rng.standard_normal(len(a)) for a in alphas]
    optimizer = torch.optim.Adam(alphas, lr=min(TRAVEL / updates, 0.3), betas=(0.0, 0.999))
    before: Any = None
    for update in range(updates):
        start = time.process_time()
        p = [z.softmax(0) for z in objective.logits(alphas)]
        task = sum(q @ torch.tensor(w + 0.1 * rng.standard_normal(len(w))) for q, w in zip(p, worth, strict=True))
        loss = objective.loss(task, p)  # type: ignore[arg-type]
        objective.log([q.detach().numpy() for q in p])
        found.latency_s.append(time.process_time() - start)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        now = latency.near[0].estimate if latency.near else None
        found.estimates += now is not before
        before = now
        if update in np.linspace(0, updates - 1, moments).astype(int):
            compare(found, latency, truth, p)
            found.r2 += [] if now is None else [now.r2]
    return found


def compare(found: Found, latency: Latency, truth: Truth, p: Sequence[torch.Tensor]) -> None:
    """Errors at some probabilities."""
    slopes, values = [], []
    for expected in (truth, lambda q: latency.expected(q)[0]):
        logits = [q.detach().clamp(min=1e-300).log().requires_grad_() for q in p]
        value = expected([z.softmax(0) for z in logits])
        slopes.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, logits)]))
        values.append(value.item())
    found.value.append(100 * abs(values[1] / values[0] - 1))
    found.slope.append(100 * float((slopes[1] - slopes[0]).abs().max()) / values[0])


def findings(kind: str, found: Found, step: float) -> list[Finding]:
    share = 100 * sum(found.latency_s) / len(found.latency_s) / step
    result = [
        Finding(f"{kind}: share of the step", share, "%", SHARE, references={"estimates": found.estimates}),
        Finding(f"{kind}: error of the value", max(found.value), "%", ERROR),
        Finding(f"{kind}: error of a derivative", max(found.slope), "%", ERROR),
    ]
    return [*result, *([Finding(f"{kind}: R2 of the fit", min(found.r2), "")] if found.r2 else [])]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(
        __doc__,
        "python benchmarks/expectation.py",
        "python benchmarks/expectation.py --resolution 8 --kinds gbdt gcn",
        "python benchmarks/expectation.py --space proxyless --resolution 224 --batch 16 --kinds stacked",
    )
    parser.add_argument("--space", default="proxyless-small", help="default proxyless-small")
    parser.add_argument("--resolution", type=int, help="default: the space's")
    parser.add_argument("--kinds", nargs="+", default=KINDS, help=f"default {' '.join(KINDS)}")
    parser.add_argument("--networks", type=int, help="that each kind is fitted on; default 200 (quick: 60)")
    parser.add_argument("--updates", type=int, help="of the architecture; default 270 (quick: 60)")
    parser.add_argument("--moments", type=int, default=8, help="at which errors are taken; default 8")
    parser.add_argument("--batch", type=int, default=64, help="default 64")
    parser.add_argument("--paths", type=int, help="on which the steps are timed; default 9 (quick: 2)")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    updates, paths = asked.updates or (60 if asked.quick else 270), asked.paths or (2 if asked.quick else 9)
    networks = asked.networks or (60 if asked.quick else 200)
    if min(updates, paths, asked.moments, asked.batch - 1) < 1:
        raise HwnasError("--updates, --paths and --moments must be at least 1, --batch at least 2")
    space = load_space(asked.space, {} if asked.resolution is None else {"resolution": str(asked.resolution)})
    report = Report(f"Expected latency in a search: {asked.space}, batch {asked.batch}", asked)
    step = step_s(space, asked.batch, paths, asked.seed)
    report.details["step_s"] = step
    for kind in asked.kinds:
        found = search(fitted(space, kind, networks, asked.seed), updates, asked.moments, asked.seed)
        report.findings += findings(kind, found, step)
        report.details[kind] = vars(found)
    report.finish()


if __name__ == "__main__":
    script(main)
