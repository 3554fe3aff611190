"""Cost of the steps of a search beside the arithmetic they cannot do without, in time and in memory.

Space `proxyless` at width 1.0, batch 16, 64x64 pixels, 1 thread, channels_last. All ways take turns on each sampled
path; a ratio is the median over paths of the ratio on one path.

- weight step / a plain training step of the same network, built without choices;
- full_v2 step / the path's forward pass, its backward pass to the inputs alone, and one forward pass of each candidate
  that is left out, with weights frozen;
- two step / weight step.

Memory is the peak of a process above what it held before the network was made: weight and full_v2 steps on the largest
path of a supernet with momentum, against plain training of that network with the supernet's other parameters and their
momentum added.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from hwnas.benchmarks.common import Finding, Report, options, script
from hwnas.errors import HwnasError
from hwnas.search.data.prefetch import to_channels_last
from hwnas.search.gates import GateRequest, gate_gradients
from hwnas.search.settings import GateMode, WeightSettings
from hwnas.search.steps import WeightStep
from hwnas.search.supernet import Supernet
from hwnas.search.training import make_optimizer, smoothed_cross_entropy
from hwnas.spaces.choices import LayerChoice, Selection, active
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace
from torch import Tensor, nn

BARS = {"weight_ratio": 1.05, "full_v2_ratio": 1.10, "two_ratio": 0.8, "memory_ratio": 1.15}
LR = 0.01
CLASSES = 1000


class Steps:
    """All the ways, on one supernet and one batch."""

    def __init__(self, space: SearchSpace, batch: int, seed: int) -> None:
        torch.manual_seed(seed)
        self.space = space
        module = space.supernet()
        self.supernet = Supernet(space, module)
        self.weights = WeightStep(self.supernet, make_optimizer(module.parameters(), WeightSettings()))
        self.images, self.labels = made_batch(space, batch)
        self.path = np.zeros(len(space.decisions), int)
        self.partner = self.path
        self._plain: tuple[nn.Module, torch.optim.Optimizer] | None = None

    def go_to(self, path: np.ndarray, partner: np.ndarray) -> None:
        """What the next steps are on; the plain network is a copy with its own optimiser, warmed up."""
        self.path, self.partner = path, partner
        network = self.space.build(self.space.decode(path[None])[0], self.supernet.module).train()
        self._plain = network, make_optimizer(network.parameters(), WeightSettings())

    def weight(self) -> None:
        """A weight step of the search."""
        self.weights(self.path, self.images, self.labels, LR)

    def plain(self) -> None:
        """What anyone would write to train the network."""
        assert self._plain is not None
        plain_step(*self._plain, self.images, self.labels)

    def gates(self, mode: GateMode) -> None:
        """The gradient step of the architecture."""
        request = GateRequest(self.path, mode, self.partner)
        gate_gradients(self.supernet, request, self.images, lambda y: smoothed_cross_entropy(y, self.labels))

    def arithmetic(self) -> None:
        """What full_v2 cannot do without; its derivatives begin where those of the gates do, behind the stem."""
        with self.supernet.frozen():
            seen = _Seen(self.supernet.selection(self.path))
            with active(seen):
                output = self.supernet.module(self.images)
            smoothed_cross_entropy(output, self.labels).backward()
            with torch.no_grad(), active(seen.selection):
                for choice, x in seen.inputs_of:
                    for i in range(len(choice)):
                        if i != seen.selection.chosen[choice]:
                            choice[i](x)


class _Seen:
    """Runs the path, and remembers what each choice was given."""

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self.inputs_of: list[tuple[LayerChoice, Tensor]] = []

    def layer(self, choice: LayerChoice, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.inputs_of.append((choice, args[0].detach()))
        output = self.selection.layer(choice, args, kwargs)
        return output if output.requires_grad else output.detach().requires_grad_()

    def inputs(self, choice: Any, tensors: Sequence[Tensor]) -> Any:
        return self.selection.inputs(choice, tensors)


def plain_step(network: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
    """A training step."""
    optimizer.zero_grad(set_to_none=True)
    smoothed_cross_entropy(network(images), labels).backward()
    optimizer.step()


def made_batch(space: SearchSpace, n: int) -> tuple[Tensor, Tensor]:
    """Random images in channels_last, and labels."""
    (images,) = space.inputs(n)
    generator = torch.Generator().manual_seed(0)
    return to_channels_last(images), torch.randint(CLASSES, (n,), generator=generator)


def measure(space: SearchSpace, batch: int, paths: int, turns: int, seed: int) -> dict[str, list[float]]:
    """Seconds of each way, one value a path: the best of its turns."""
    steps, rng = Steps(space, batch, seed), np.random.default_rng(seed)
    ways: dict[str, Callable[[], None]] = {
        "weight": steps.weight,
        "plain": steps.plain,
        "full_v2": lambda: steps.gates("full_v2"),
        "arithmetic": steps.arithmetic,
        "two": lambda: steps.gates("two"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(paths):
        drawn = [rng.permutation(len(d))[:2] for d in space.decisions]
        steps.go_to(np.array([d[0] for d in drawn]), np.array([d[-1] for d in drawn]))
        for way in ways.values():
            way()  # what a path is given first finds no memory of its shapes
        found: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(turns):
            for name in rng.permutation(list(ways)):
                start = time.perf_counter()
                ways[name]()
                found[name].append(time.perf_counter() - start)
        for name, values in found.items():
            seconds[name].append(min(values))
    return seconds


# -- memory, each way in a process of its own


def peak_mib(way: str, asked: argparse.Namespace) -> dict[str, float]:
    """What `--memory WAY` prints, from a new process."""
    command = [sys.executable, str(Path(__file__)), "--memory", way, "--batch", str(asked.batch)]
    command += ["--resolution", str(asked.resolution), "--width", str(asked.width)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise HwnasError(f"the process that measures memory failed: {done.stderr.strip().splitlines()[-1:]}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def memory(way: str, space: SearchSpace, batch: int) -> dict[str, float]:
    """Peak of this process above what it holds now, MiB, after steps on the path of the largest candidates."""
    images, labels = made_batch(space, batch)
    nn.Conv2d(3, 8, 3)(torch.randn(1, 3, 8, 8)).sum().backward()  # loads the kernels
    largest = np.array([_largest(d.candidates) for d in space.decisions])
    base = _peak()
    if way == "plain":
        network = space.build(space.decode(largest[None])[0]).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = make_optimizer(network.parameters(), WeightSettings())
        for _ in range(4):
            plain_step(network, optimizer, images, labels)
        own = sum(p.numel() for p in network.parameters())
        return {"mib": _peak() - base, "parameters": own}
    module = space.supernet()
    supernet = Supernet(space, module)
    step = WeightStep(supernet, make_optimizer(module.parameters(), WeightSettings()))
    for i in range(max(len(d) for d in space.decisions)):  # every candidate gets its momentum
        step(np.array([min(i, len(d) - 1) for d in space.decisions]), images, labels, LR)
    for _ in range(4):
        step(largest, images, labels, LR)
        gate_gradients(supernet, GateRequest(largest), images, lambda y: smoothed_cross_entropy(y, labels))
    return {"mib": _peak() - base, "parameters": sum(p.numel() for p in module.parameters())}


def _largest(candidates: Sequence[str]) -> int:
    """The widest kernel with the widest expansion comes last by name, the skip aside."""
    return max(range(len(candidates)), key=lambda i: (candidates[i].startswith("k"), candidates[i]))


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# -- the command


def findings(seconds: dict[str, list[float]], plain: dict[str, float], searching: dict[str, float]) -> list[Finding]:
    """The four ratios, and the times behind them."""

    def ratio(one: str, other: str) -> float:
        return median(a / b for a, b in zip(seconds[one], seconds[other], strict=True))

    others = 8 * (searching["parameters"] - plain["parameters"]) / 2**20  # parameter and momentum, float32
    whole = plain["mib"] + others
    ratios = {
        "weight_ratio": ratio("weight", "plain"),
        "full_v2_ratio": ratio("full_v2", "arithmetic"),
        "two_ratio": ratio("two", "weight"),
        "memory_ratio": searching["mib"] / whole,
    }
    found = [Finding(name, value, "x", BARS[name]) for name, value in ratios.items()]
    beside = {"weight": "plain", "full_v2": "arithmetic", "two": "weight"}
    for name, other in beside.items():
        reference = {f"{other} step" if other != "arithmetic" else other: 1e3 * median(seconds[other])}
        found.append(Finding(f"{name} step", 1e3 * median(seconds[name]), "ms", references=reference))
    references = {"plain training of the largest path": plain["mib"], "other parameters, momentum": others}
    return [*found, Finding("peak memory above base", searching["mib"], "MiB", references=references)]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__, "python benchmarks/search_step.py", "python benchmarks/search_step.py --paths 40")
    parser.add_argument("--paths", type=int, help="sampled paths; default 20 (quick: 2)")
    parser.add_argument("--turns", type=int, default=3, help="on each path, of which the best counts; default 3")
    parser.add_argument("--batch", type=int, default=16, help="default 16")
    parser.add_argument("--resolution", type=int, default=64, help="default 64")
    parser.add_argument("--width", type=float, default=1.0, help="default 1.0")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory", choices=("plain", "search"), help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    space = load_space("proxyless", {"resolution": str(asked.resolution), "width": str(asked.width)})
    if asked.memory:
        print(json.dumps(memory(asked.memory, space, asked.batch)))
        return
    paths = asked.paths or (2 if asked.quick else 20)
    if min(paths, asked.turns, asked.batch - 1) < 1:
        raise HwnasError("--paths and --turns must be at least 1, --batch at least 2")
    report = Report(f"Steps of a search: proxyless, {asked.resolution} pixels, batch {asked.batch}", asked)
    plain, searching = peak_mib("plain", asked), peak_mib("search", asked)
    seconds = measure(space, asked.batch, paths, asked.turns, asked.seed)
    report.findings = findings(seconds, plain, searching)
    report.details |= {finding.what: finding.value for finding in report.findings if finding.what in BARS}
    report.details["seconds"] = seconds
    report.finish()


if __name__ == "__main__":
    script(main)
