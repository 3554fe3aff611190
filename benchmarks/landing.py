"""How near to its latency target a found network ends up, measured on this CPU, one thread.

Profiles `proxyless-small` at each resolution, then lands searches on targets at 20 to 65 % of the space's range. The
search before landing is not what is judged: unless --searched is given its outcome is drawn (random logits, tilted so
that the expected latency is on target). What counts is the independent measurement of each landing, of visits that had
no part in the choice, at the machine's speed at the choice as a reference shows it. Beside it, from the same landings:
the same at the machine's speed at that moment, which may be some percent off; the found network as it is; the candidate
that would have been chosen with a factor from calibration networks alone; and the chosen networks measured once more
afterwards by another agent, all of them interleaved, as they were, and with the change of the machine since their
landing taken out, as calibration networks show it.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hwnas.benchmarks.accuracy import QUICK
from hwnas.benchmarks.common import Finding, Report, folder, median, options, script
from hwnas.devices.registry import create
from hwnas.errors import HwnasError
from hwnas.predictors.lut import LutPredictor
from hwnas.predictors.network_timer import NetworkTimer, spread_networks
from hwnas.profiler.calibration import refit_factor
from hwnas.profiler.profile import ProfileRequest, profile
from hwnas.profiler.progress import Progress
from hwnas.profiler.protocol import MeasuringProtocol
from hwnas.search.algorithm import Budget
from hwnas.search.data.registry import load_data
from hwnas.search.derive import Derived, most_probable
from hwnas.search.engine import Engine
from hwnas.search.goals import Goal, Latency
from hwnas.search.gradient import Gradient
from hwnas.search.landing import CALIBRATION, Derive, Landing, LandingRequest, land
from hwnas.search.objective import Objective
from hwnas.search.schedule import planned_updates
from hwnas.search.settings import LandingSettings, ObjectiveSettings, SearchSettings, WeightSettings
from hwnas.search.supernet import Supernet
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace

SPACE = "proxyless-small"
RESOLUTIONS = (64, 28, 8)
JUDGED = 64
"""Resolution that has a bar."""
SHARE = 0.95
NEAR = 3.0
LOWEST, HIGHEST = 0.2, 0.65
SPREAD = 1.5
"""Standard deviation of random logits: about as decided as searches end."""
AGAIN = 60


@dataclass(frozen=True)
class Case:
    """One search.

    Attributes:
        place: of the target in the range of the space, 0 to 1.
        again: latency of the chosen network, measured once more after all landings.
        again_factor: measured / predicted of calibration networks then.
    """

    seed: int
    place: float
    target: float
    landing: Landing
    again: float | None = None
    again_factor: float | None = None

    def off(self, value: float | None) -> float:
        """Percent from the target; infinite for nothing."""
        return math.inf if value is None else 100 * (value / self.target - 1)

    @property
    def deviation(self) -> float:
        """Of the independent measurement."""
        return self.off(None if self.landing.measured is None else self.landing.measured.value)

    @property
    def plain(self) -> float:
        """Of the independent measurement, at the speed of the machine at that moment."""
        measured, clock = self.landing.measured, self.landing.clock or 0.0
        return self.off(None if measured is None else measured.value * (1 + clock / 100))

    @property
    def again_then(self) -> float:
        """Of the network measured once more, as it would be had the machine been as at its landing."""
        then, now = self.landing.calibration_factor, self.again_factor
        return math.inf if self.again is None or not then or not now else self.off(self.again * then / now)

    @property
    def found(self) -> float:
        """Of the network that was found, in the interleaved measurement of the candidates."""
        return self.off(self.landing.candidates[0].measured.value)

    @property
    def by_calibration(self) -> float:
        """Of the candidate that calibration networks alone would choose, in the same measurement."""
        factor = self.landing.calibration_factor or 1.0
        chosen = min(self.landing.candidates, key=lambda c: abs(factor * (c.predicted or 0.0) / self.target - 1))
        return self.off(chosen.measured.value)

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "seed": self.seed,
            "place": self.place,
            "target": self.target,
            "deviation": self.deviation,
            "plain": self.plain,
            "found": self.found,
            "by_calibration": self.by_calibration,
            "again": self.off(self.again),
            "again_then": self.again_then,
            "landing": self.landing.as_dict(),
        }


def drawn(latency: Latency, seed: int) -> Derive:
    """What a search might have found: random logits, with the expected latency on target."""
    rng = np.random.default_rng(seed)
    objective = Objective(latency, ObjectiveSettings(kind="hold"))
    alphas = [torch.from_numpy(rng.normal(0, SPREAD, len(d))) for d in latency.space.decisions]
    return deriving(latency, [torch.softmax(logits, 0).numpy() for logits in objective.logits(alphas)])


def searched(latency: Latency, seed: int, images: str, epochs: int) -> Derive:
    """What a short gradient search finds."""
    space = latency.space
    settings = SearchSettings(warmup_epochs=epochs, weights=WeightSettings(epochs=2 * epochs))
    data = load_data(
        images, batch_size=settings.weights.batch_size, arch_batch_size=settings.arch_batch_size, seed=seed
    )
    updates = planned_updates(settings, len(data.train), Gradient, settings.gradient)
    objective = Objective(latency, settings.objective)
    algorithm = Gradient(space, objective, settings.gradient, Budget(updates), seed)
    Engine(Supernet(space, space.supernet(), torch.device("cpu")), data, algorithm, settings, seed=seed).run()
    return deriving(latency, algorithm.probabilities())


def deriving(latency: Latency, probabilities: list[np.ndarray]) -> Derive:
    """The most probable networks on target."""

    def derive(n: int, scale: float) -> Sequence[Derived]:
        return most_probable(latency.space, probabilities, latency, rule="band", n=n, scale=scale)

    return derive


def searches(
    predictor: LutPredictor, resolution: int, where: Path, asked: argparse.Namespace, progress: Progress
) -> list[Case]:
    """Land them all, one after the other, and measure what they chose once more."""
    settings = LandingSettings(visits=4, final_visits=4) if asked.quick else LandingSettings()
    device = create("cpu", threads=1)
    span = predictor.model.range
    cases: list[Case] = []
    for i, place in enumerate(np.linspace(LOWEST, HIGHEST, asked.searches).tolist()):
        progress.step("landings", i, asked.searches)
        seed = asked.seed + i
        target = span.min + place * (span.max - span.min)
        latency = Latency(predictor.space, [Goal(predictor, target)])
        derive = (
            searched(latency, seed, f"digits:{resolution}", asked.searched) if asked.searched else drawn(latency, seed)
        )
        request = LandingRequest(predictor.space, latency, derive, device, where, settings=settings, seed=seed)
        cases.append(Case(seed, place, target, land(request)))
    progress.step("landings", asked.searches, asked.searches)
    return again(cases, predictor, where, asked)


def again(cases: Sequence[Case], predictor: LutPredictor, where: Path, asked: argparse.Namespace) -> list[Case]:
    """Measure what was chosen once more, all together and beside calibration networks."""
    device = create("cpu", threads=1)
    chosen = [case.landing.chosen for case in cases]
    known = list(spread_networks(predictor.origin, CALIBRATION))
    with NetworkTimer(predictor.space, device, where, origin=predictor.origin, seed=asked.seed) as timer:
        found = timer.measure(list(dict.fromkeys([*chosen, *known])), 4 if asked.quick else AGAIN, name="again")
    there = [a for a in known if a in found]
    factor = refit_factor(predictor.predict(there), np.array([found[a].value for a in there])) if there else None
    values = [found[a].value if a in found else None for a in chosen]
    return [replace(case, again=value, again_factor=factor) for case, value in zip(cases, values, strict=True)]


def findings(resolution: int, cases: Sequence[Case]) -> list[Finding]:
    """Counts within the bar, and how far off."""
    n = len(cases)

    def within(deviations: Sequence[float]) -> int:
        return sum(abs(d) <= NEAR for d in deviations)

    landed = [case.deviation for case in cases]
    beside = {
        "at the speed of that moment": within([c.plain for c in cases]),
        "measured again": within([c.off(c.again) for c in cases]),
        "again, the machine's change taken out": within([c.again_then for c in cases]),
        "found network, not landed": within([c.found for c in cases]),
        "chosen by calibration networks": within([c.by_calibration for c in cases]),
    }
    bar = math.ceil(SHARE * n) if resolution == JUDGED else None
    unit = f"of {n} within {NEAR:g} %"
    off = [abs(d) for d in landed]
    alone = {
        "at that moment": median([abs(c.plain) for c in cases]),
        "again": median([abs(c.off(c.again)) for c in cases]),
        "again, change taken out": median([abs(c.again_then) for c in cases]),
        "found": median([abs(c.found) for c in cases]),
    }
    return [
        Finding(f"{resolution} pixels: landed", within(landed), unit, bar, True, beside),
        Finding(f"{resolution} pixels: off target, median", median(off), "%", None, False, alone),
        Finding(f"{resolution} pixels: off target, most", max(off), "%"),
        Finding(f"{resolution} pixels: a landing", median([c.landing.seconds for c in cases]), "s"),
    ]


def _parser() -> argparse.ArgumentParser:
    parser = options(
        __doc__,
        "python benchmarks/landing.py",
        "python benchmarks/landing.py --resolution 64 --searches 40 --seed 100 --json landing.json",
        "python benchmarks/landing.py --resolution 28 --table small28.db --out results/landing",
    )
    parser.add_argument(
        "--resolution", type=int, nargs="+", metavar="PIXELS", help="of the images; default 64 28 8 (quick: 28)"
    )
    parser.add_argument("--searches", type=int, help="at each resolution; default 20 (quick: 2)")
    parser.add_argument(
        "--searched",
        type=int,
        metavar="EPOCHS",
        help="search on digits, so many epochs of warm-up and twice as many of search, instead of drawing the outcome",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the first search; default 0")
    parser.add_argument("--table", type=Path, metavar="EXISTING", help="a table to use; then one resolution only")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep tables and raw measurements here")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    asked = _parser().parse_args(arguments)
    asked.resolution = asked.resolution or ([28] if asked.quick else list(RESOLUTIONS))
    asked.searches = asked.searches if asked.searches is not None else 2 if asked.quick else 20
    if asked.searches < 1:
        raise HwnasError(f"--searches must be at least 1, not {asked.searches}")
    if asked.searched is not None and asked.searched < 1:
        raise HwnasError(f"--searched must be at least 1 epoch, not {asked.searched}")
    if asked.table is not None and len(asked.resolution) != 1:
        raise HwnasError("--table is of one resolution: give that one, too")
    report = Report(
        f"Landing: {asked.searches} searches on {SPACE} at {LOWEST:.0%} to {HIGHEST:.0%} of its range", asked
    )
    every: dict[str, Any] = {}
    with folder(asked.out) as where, report.output.progress() as progress:
        for resolution in asked.resolution:
            space = load_space(SPACE, {"resolution": str(resolution)})
            here = where / str(resolution)
            table = asked.table or here / "table.db"
            if asked.table is None:
                make(space, table, progress, asked)
            cases = searches(LutPredictor.load(table, space), resolution, here, asked, progress)
            report.findings += findings(resolution, cases)
            every[str(resolution)] = [case.as_dict() for case in cases]
            doubts = [f"{resolution} pixels, seed {c.seed}: {doubt}" for c in cases for doubt in c.landing.doubts]
            report.notes += [f"note: {doubt}" for doubt in doubts]
    report.details |= {"cases": every}
    report.finish()


def make(space: SearchSpace, path: Path, progress: Progress, asked: argparse.Namespace) -> None:
    """Profile the space; a table that is there already is not gone on with."""
    if path.exists():
        raise HwnasError(f"{path} is there already: give it as --table, or another --out")
    protocol = QUICK if asked.quick else MeasuringProtocol()
    device = create("cpu", threads=1)
    profile(ProfileRequest(device=device, space=space, out=path, protocol=protocol, seed=asked.seed), progress)


if __name__ == "__main__":
    script(main)
