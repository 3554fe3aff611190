"""Weight and architecture steps of ProxylessNAS against those of NNI 3.0, on the same sampled paths.

Space `proxyless` at width 1.0, 1000 classes, batch 16, 64x64 pixels, 1 thread. NNI runs in an environment of its own,

    python -m venv ENV
    ENV/bin/pip install nni==3.0 pytorch-lightning torchmetrics filelock torch==2.13.0

as a process that makes steps on request, so that both sides take turns in short bursts. Each burst of NNI and the burst
beside it train the same path (the same blocks in the same places); the figure is the median over such pairs of the
ratio of their best steps. Half of the paths are drawn as NNI draws them at the start of a search (a block that may be
skipped is so with probability 1/2), half as hwnas does (1/7). NNI gets no Lightning trainer, which would add to its
time, and gets its own layout of images unless asked otherwise. Without --nni-python only the steps here are timed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import torch
from hwnas.benchmarks.common import Finding, Report, options, script
from hwnas.errors import HwnasError
from hwnas.search.algorithm import Budget
from hwnas.search.depthwise import with_quick_depthwise
from hwnas.search.gates import GateRequest, GateResult, gate_gradients
from hwnas.search.gradient import Gradient
from hwnas.search.objective import Objective
from hwnas.search.settings import GradientSettings, ObjectiveSettings, WeightSettings
from hwnas.search.steps import WeightStep
from hwnas.search.supernet import Supernet
from hwnas.search.training import make_optimizer, smoothed_cross_entropy
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace

BARS = {"weights": 0.35, "architecture": 0.6}
TITLES = {"weights": "weight step", "architecture": "architecture step (full_v2)"}
WORKER = Path(__file__).parent / "peers" / "nni_worker.py"
SKIPPED = {"as NNI draws": 1 / 2, "as hwnas draws": 1 / 7}
BATCH, SIZE, CLASSES, SKIP = 16, 64, 1000, "skip"

Burst = list[tuple[float, float]]
"""(wall, CPU) seconds of each step."""


@dataclass(frozen=True)
class Pair:
    """A burst of each side on one path.

    Attributes:
        kind: "weights" or "architecture". drawn: from which distribution. depth: blocks that are not skipped.
    """

    kind: str
    drawn: str
    depth: int
    here: Burst
    nni: Burst

    def ratio(self, clock: int = 0) -> float:
        """Seconds here / seconds there, by wall (0) or CPU clock (1), of the best step of each burst."""
        return min(step[clock] for step in self.here) / min(step[clock] for step in self.nni)


class Here:
    """Both steps as `hwnas search` makes them."""

    def __init__(self, space: SearchSpace) -> None:
        module = with_quick_depthwise(space.supernet())
        self.supernet = Supernet(space, module)
        optimizer = make_optimizer(module.parameters(), WeightSettings())
        self.weight_step = WeightStep(self.supernet, optimizer, label_smoothing=0.1)
        objective = Objective(None, ObjectiveSettings(kind="none"))
        self.algorithm = Gradient(space, objective, GradientSettings(mode="full_v2"), Budget(1000), seed=0)
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(BATCH, 3, SIZE, SIZE, generator=generator)
        self.images = images.to(memory_format=torch.channels_last)
        self.labels = torch.randint(CLASSES, (BATCH,), generator=generator)
        self._path = np.zeros(0)

    def burst(self, kind: str, path: np.ndarray, n: int) -> Burst:
        """Make n steps."""
        self._path = path
        step: Callable[[], Any] = {"weights": self._weights, "architecture": self._architecture}[kind]
        found = []
        for _ in range(n):
            wall, cpu = time.perf_counter(), time.process_time()
            step()
            found.append((time.perf_counter() - wall, time.process_time() - cpu))
        return found

    def _weights(self) -> None:
        self.weight_step(self._path, self.images, self.labels, 0.025)

    def _architecture(self) -> None:
        self.algorithm.update(self, 0)

    def gates(self, request: GateRequest) -> GateResult:
        """As the engine answers the algorithm, but on the path that is to be compared."""
        request = replace(request, path=self._path)
        return gate_gradients(self.supernet, request, self.images, lambda y: smoothed_cross_entropy(y, self.labels))

    def accuracy(self, codes: np.ndarray) -> np.ndarray:
        """The gradient algorithm does not ask."""
        raise NotImplementedError


class Nni:
    """The process that makes NNI's steps; a context manager.

    Raises:
        HwnasError: it cannot be started, has no NNI 3.0, or its supernet is another.
    """

    def __init__(self, python: str, space: SearchSpace, *, channels_last: bool) -> None:
        settings = {"batch": BATCH, "size": SIZE, "classes": CLASSES, "channels_last": channels_last, "threads": 1}
        command = [python, str(WORKER), json.dumps(settings)]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        env.pop("PYTHONPATH", None)
        self._errors = TemporaryFile("w+")  # noqa: SIM115  closed on exit
        try:
            self._process = subprocess.Popen(
                command, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
            )
        except OSError as error:
            raise HwnasError(f"--nni-python {python}: {error.strerror}") from error
        try:
            self.about = self._answer()
            self._check(space)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Nni:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def burst(self, kind: str, names: Sequence[str], n: int) -> Burst:
        """Make n steps."""
        with suppress(BrokenPipeError):  # the answer says why
            print(json.dumps({"kind": kind, "names": names, "n": n}), file=self._process.stdin, flush=True)
        return [(wall, cpu) for wall, cpu in self._answer()]

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        self._process.wait()
        self._errors.seek(0)
        last = ["without a word", *self._errors.read().strip().splitlines()][-1]
        raise HwnasError(f"the process of NNI ended ({last}); `{Path(__file__).name} --help` says what it needs")

    def _check(self, space: SearchSpace) -> None:
        if not self.about["nni"].startswith("3.0"):
            raise HwnasError(f"NNI 3.0 is to be compared with, but its environment has {self.about['nni']}")
        ours = [set(d.candidates) for d in space.decisions]
        weights = sum(p.numel() for p in space.supernet().parameters())
        if [set(c) for c in self.about["candidates"]] != ours or self.about["parameters"] != weights:
            raise HwnasError("the supernet of NNI has other candidates or weights than `proxyless` here")


def draw(space: SearchSpace, skipped: float, rng: np.random.Generator) -> np.ndarray:
    """A path whose blocks are skipped, where they can be, with that probability."""
    path = []
    for decision in space.decisions:
        blocks = [i for i, name in enumerate(decision.candidates) if name != SKIP]
        skips = len(blocks) < len(decision) and rng.random() < skipped
        path.append(decision.candidates.index(SKIP) if skips else rng.choice(blocks))
    return np.array(path)


def compare(space: SearchSpace, nni: Nni | None, *, paths: int, steps: int, seed: int) -> list[Pair]:
    """Bursts of both sides by turns; who is first alternates. Without NNI its bursts are empty."""
    here, rng = Here(space), np.random.default_rng(seed)
    pairs = []
    for i in range(-1, paths):  # the first path warms up
        drawn = list(SKIPPED)[i % len(SKIPPED)]
        path = draw(space, SKIPPED[drawn], rng)
        names = [d.candidates[c] for d, c in zip(space.decisions, path, strict=True)]
        for kind in BARS:
            ways: dict[str, Callable[[], Burst]] = {"here": lambda k=kind, p=path: here.burst(k, p, steps)}  # type: ignore[misc]
            if nni is not None:
                ways["nni"] = lambda k=kind, n=names: nni.burst(k, n, steps)  # type: ignore[misc]
            order = list(ways) if i // 2 % 2 else list(ways)[::-1]
            found = {name: ways[name]() for name in order}
            pairs.append(Pair(kind, drawn, len(names) - names.count(SKIP), found["here"], found.get("nni", [])))
    return pairs[len(BARS) :]


def findings(pairs: Sequence[Pair], nni: bool) -> list[Finding]:
    """Ratios with their bars, and the times they are made of."""
    found = []
    for kind, bar in BARS.items() if nni else ():
        own = [pair for pair in pairs if pair.kind == kind]
        beside = {f"paths {name}": _median([p.ratio() for p in own if p.drawn == name]) for name in SKIPPED}
        beside["CPU time"] = _median([p.ratio(1) for p in own])
        found.append(Finding(f"{TITLES[kind]} / NNI's", _median([p.ratio() for p in own]), "x", bar, references=beside))
    for kind in BARS:
        for name in SKIPPED:
            own = [pair for pair in pairs if pair.kind == kind and pair.drawn == name]
            depth = np.mean([pair.depth for pair in own]) if own else 0
            beside = {"NNI 3.0": _median([1e3 * s[0] for p in own for s in p.nni])} if nni else {}
            what = f"{TITLES[kind]}, {depth:.1f} blocks, {name}"
            found.append(Finding(what, _median([1e3 * s[0] for p in own for s in p.here]), "ms", references=beside))
    return found


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = options(
        __doc__,
        "python benchmarks/nni_steps.py --nni-python ENV/bin/python",
        "python benchmarks/nni_steps.py --nni-python ENV/bin/python --nni-channels-last --json nni.json",
    )
    parser.add_argument("--nni-python", metavar="PATH", help="the interpreter of an environment that has NNI 3.0")
    parser.add_argument("--nni-channels-last", action="store_true", help="give NNI the layout that is used here")
    parser.add_argument("--paths", type=int, default=20, help="sampled paths (default: 20; 5 to 10 s each)")
    parser.add_argument("--seed", type=int, default=0, help="of the paths")
    arguments = parser.parse_args(argv)
    report = Report("Steps against NNI 3.0", arguments)
    run(report, arguments)
    report.finish()


def run(report: Report, arguments: argparse.Namespace) -> None:
    """Measure and fill the report."""
    torch.set_num_threads(1)
    space = load_space("proxyless", {})
    size = {"paths": 2 if report.quick else arguments.paths, "steps": 1 if report.quick else 3, "seed": arguments.seed}
    if arguments.nni_python is None:
        pairs = compare(space, None, **size)
        report.notes.append("NNI was not timed: --nni-python is not given; --help says how to make its environment")
    else:
        with Nni(arguments.nni_python, space, channels_last=arguments.nni_channels_last) as nni:
            pairs = compare(space, nni, **size)
            report.details["nni"] = {name: nni.about[name] for name in ("nni", "torch", "parameters")}
        if report.details["nni"]["torch"].partition("+")[0] != torch.__version__.partition("+")[0]:
            report.notes.append(f"NNI ran on torch {report.details['nni']['torch']}, this on {torch.__version__}")
    report.findings += findings(pairs, arguments.nni_python is not None)
    report.details["pairs"] = [
        {"kind": p.kind, "drawn": p.drawn, "depth": p.depth, "here": p.here, "nni": p.nni} for p in pairs
    ]


if __name__ == "__main__":
    script(main)
