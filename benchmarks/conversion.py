"""Time to lower operators and networks to ONNX: the project's emitter beside torch's exporter, in turns.

The emitter is timed as profiling uses it, checked against torch by ONNX Runtime, and without that check; the exporter
without. The first conversion of each route loads libraries and is not counted. Nothing comes from the cache.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from hwnas.benchmarks.common import Finding, Report, by_turns, median, options, script
from hwnas.profiler.artifacts import Lowerer
from hwnas.profiler.lowering import lower, randomise_batch_norms
from hwnas.profiler.progress import Progress
from hwnas.spaces.calls import bind, example_tensors
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace
from torch import Tensor, nn

CHECKED, UNCHECKED, EXPORTER = "emitter, checked", "emitter, unchecked", "torch.onnx (dynamo)"


@dataclass(frozen=True)
class Block:
    """Something to lower."""

    name: str
    module: nn.Module
    inputs: Sequence[Tensor]

    def routes(self) -> dict[str, Callable[[], object]]:
        """Ways to lower it."""
        way = partial(lower, self.module, self.inputs)
        return {
            CHECKED: partial(way, route="emitter"),
            UNCHECKED: partial(way, route="emitter", verify=False),
            EXPORTER: partial(way, route="torch.onnx", verify=False),
        }


def operators(space: SearchSpace, n: int) -> list[Block]:
    """n of the space's workloads (all, where there are fewer), spread evenly over them."""
    workloads, supernet = space.workloads(), Lowerer(space, "onnx").supernet
    places = dict.fromkeys(np.linspace(0, len(workloads) - 1, n).round().astype(int).tolist())
    chosen = [workloads[i] for i in places]
    return [
        Block(w.key(), bind(supernet.get_submodule(w.path), w.call), example_tensors(w.inputs, seed=0)) for w in chosen
    ]


def networks(space: SearchSpace, n: int) -> list[Block]:
    """n random networks."""
    found = []
    for architecture in space.sample(n, np.random.default_rng(0)):
        module = space.build(architecture).eval()
        randomise_batch_norms(module)
        found.append(Block(architecture.short(), module, space.inputs()))
    return found


def seconds(blocks: Sequence[Block], turns: int, progress: Progress, step: str) -> dict[str, list[float]]:
    """Median seconds of each block, by route."""
    found: dict[str, list[float]] = {}
    for i, block in enumerate(blocks):
        progress.step(step, i, len(blocks))
        for route, taken in by_turns(block.routes(), turns).items():
            found.setdefault(route, []).append(float(np.median(taken)))
    progress.step(step, len(blocks), len(blocks))
    return found


def findings(what: str, taken: dict[str, list[float]]) -> list[Finding]:
    """Seconds of a typical block, and how many times longer the exporter takes."""
    ratio = median([b / a for a, b in zip(taken[CHECKED], taken[EXPORTER], strict=True)])
    beside = {name: median(taken[name]) for name in (UNCHECKED, EXPORTER)}
    return [
        Finding(f"{what}: emitter, checked", median(taken[CHECKED]), "s", references=beside),
        Finding(f"{what}: exporter / emitter, checked", ratio, "x"),
    ]


def _parser() -> argparse.ArgumentParser:
    parser = options(
        __doc__,
        "python benchmarks/conversion.py",
        "python benchmarks/conversion.py --space benchmarks/nets.py:transformer --operators 4 --json conversion.json",
    )
    parser.add_argument("--space", nargs="+", help="default proxyless nasbench201 (quick: proxyless-small)")
    parser.add_argument("--operators", type=int, help="of each space; default 8 (quick: 2)")
    parser.add_argument("--networks", type=int, default=1, help="of each space; default 1")
    parser.add_argument("--turns", type=int, help="of which the median counts; default 3 (quick: 1)")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    asked = _parser().parse_args(arguments)
    specs = asked.space or (["proxyless-small"] if asked.quick else ["proxyless", "nasbench201"])
    count, turns = asked.operators or (2 if asked.quick else 8), asked.turns or (1 if asked.quick else 3)
    report = Report(f"Conversion to ONNX: {', '.join(specs)}", asked)
    with report.output.progress() as progress:
        for spec in specs:
            space = load_space(spec)
            blocks = operators(space, max(count, 1))
            by_turns(blocks[0].routes(), 1)  # loads the libraries
            taken = seconds(blocks, turns, progress, f"{spec}: operators")
            report.findings += findings(f"{spec}, an operator", taken)
            whole = networks(space, max(asked.networks, 1))
            of_networks = seconds(whole, turns, progress, f"{spec}: networks")
            report.findings += findings(f"{spec}, a network", of_networks)
            report.details[spec] = {"operators": [b.name for b in blocks], "seconds": taken, "networks": of_networks}
    report.finish()


if __name__ == "__main__":
    script(main)
