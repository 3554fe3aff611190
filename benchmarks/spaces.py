"""Accuracy of `hwnas profile` on supernets of many kinds, none of which the project knows anything about.

The small ones of `hwnas.testing.zoo` and the larger ones of `benchmarks/nets.py`, each profiled and compared as in
`accuracy.py`, with fewer networks.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hwnas.benchmarks.accuracy import OTHER, SCALED, Accuracy, mape, measure
from hwnas.benchmarks.common import Finding, Report, folder, options, script
from hwnas.benchmarks.nets import NETS
from hwnas.errors import HwnasError
from hwnas.spaces.space import SearchSpace
from hwnas.testing.zoo import ZOO

Makers = dict[str, Callable[[], SearchSpace]]
QUICK = ("small:residual",)
LEAST = 100
"""Of a space with fewer networks, calibration leaves too few to compare."""


def known() -> Makers:
    """All spaces by name."""
    return {f"small:{name}": make for name, make in ZOO.items()} | dict(NETS)


def finding(name: str, found: Accuracy) -> Finding:
    """The MAPE as the table stands, beside what stands for it in the same run."""
    stands = found.comparison.errors
    beside = {
        "refitted": mape(found.comparison.refitted),
        "largest": stands.max_error if stands else None,
        SCALED: found.references[SCALED],
        "noise": found.comparison.noise,
    }
    what = f"{name} ({found.calibration.get('method', 'not calibrated')}, {len(found.comparison.networks)} networks)"
    return Finding(what, mape(stands), "%", OTHER.mape, False, beside)


def details(found: Accuracy) -> dict[str, Any]:
    """For the JSON: without the networks themselves."""
    left_out = ("networks", "failed", "conditions")
    comparison = {k: v for k, v in found.comparison.as_dict().items() if k not in left_out}
    measured = [n.measured for n in found.comparison.networks]
    return {
        **comparison,
        "median_ms": float(np.median(measured)),
        "references": dict(found.references),
        "calibration": {k: v for k, v in found.calibration.items() if k != "networks"},
    }


def _parser() -> argparse.ArgumentParser:
    parser = options(
        __doc__,
        "python benchmarks/spaces.py",
        "python benchmarks/spaces.py --only residual transformer --networks 20 --seed 3 --json spaces.json",
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"of: {', '.join(known())}")
    parser.add_argument("--networks", type=int, help="unseen networks of each space; default 12 (quick: 4)")
    parser.add_argument("--seed", type=int, default=1, help="of the networks and the order of the visits; default 1")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    asked = _parser().parse_args(arguments)
    makers = known()
    names = asked.only or (QUICK if asked.quick else tuple(makers))
    unknown = [name for name in names if name not in makers]
    if unknown:
        raise HwnasError(f"there is no space {unknown[0]!r} here; there are {', '.join(makers)}")
    networks = asked.networks or (4 if asked.quick else 12)
    report = Report(f"Accuracy on other spaces: MAPE as the table stands, seed {asked.seed}", asked)
    for name in names:
        with folder() as where:
            _one(report, name, makers[name], where, networks, asked)
    report.finish()


def _one(
    report: Report,
    name: str,
    make: Callable[[], SearchSpace],
    where: Path,
    networks: int,
    asked: argparse.Namespace,
) -> None:
    """Adds a finding; a space that cannot be measured misses its bar, and a note says why."""
    try:
        space = make()
        if space.size < LEAST:
            report.notes.append(f"{name}: left out, it has {space.size} networks")
            return
        with report.output.progress() as progress:
            progress.step(name, 0, 1)
            found = measure(space, where, progress, networks=networks, seed=asked.seed, quick=asked.quick)
    except HwnasError as error:
        report.findings.append(Finding(name, None, "%", OTHER.mape))
        report.notes.append(f"{name}: {error}")
        return
    report.findings.append(finding(name, found))
    report.details[name] = details(found)
    report.notes += [f"{name}: {doubt}" for doubt in found.comparison.doubts]


if __name__ == "__main__":
    script(main)
