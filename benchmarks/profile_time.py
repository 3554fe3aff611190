"""Time and memory of `hwnas profile` on this CPU, as a program of its own.

First from nothing, with an empty cache: lowering, measuring, calibration and hold-outs. Then `--method isolated` with
what the first left in the cache; its bare table is the program's whole time less that of the calibration networks.
Memory is the proportional set size of all its processes together, sampled every 50 ms. The bars are for
`proxyless`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hwnas.benchmarks.common import Finding, Report, folder, options, script
from hwnas.errors import HwnasError
from hwnas.profiler.protocol import MeasuringProtocol
from hwnas.profiler.table import LatencyTable

TABLE_S, WHOLE_S, PEAK_MB = 4.0, 30.0, 1500.0
SAMPLING_S = 0.05
AGENT_AND_TORCH = """
import time, torch
from hwnas.devices.registry import create
with create("cpu").open() as session:
    session.describe()
    time.sleep(0.5)
"""


@dataclass(frozen=True)
class Watched:
    """What became of a program: exit code, seconds from start to end, peak memory (MB = 1e6 bytes)."""

    code: int
    seconds: float
    peak_mb: float
    errors: str


def watched(command: Sequence[str], where: Path, environment: Mapping[str, str]) -> Watched:
    """Run a program, sampling the memory of its processes. Its standard output is dropped."""
    peak, done = [0.0], threading.Event()
    with (where / "stderr").open("w+", encoding="utf-8", errors="replace") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=where, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=errors
        )

        def sample() -> None:
            while not done.is_set():
                peak[0] = max(peak[0], memory_mb(process.pid))
                done.wait(SAMPLING_S)

        sampler = threading.Thread(target=sample, daemon=True)
        sampler.start()
        try:
            process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
        finally:
            seconds = time.perf_counter() - start
            done.set()
            sampler.join()
        errors.seek(0)
        return Watched(process.returncode, seconds, peak[0], errors.read())


def memory_mb(pid: int) -> float:
    """Proportional set size of a process and all below it (resident size where the system does not tell)."""
    total = 0.0
    with suppress(OSError, ValueError):  # one that ends meanwhile holds nothing
        total += _kilobytes(pid) * 1024 / 1e6
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += sum(memory_mb(int(child)) for child in (task / "children").read_text().split())
    return total


def _kilobytes(pid: int) -> float:
    for name, field in (("smaps_rollup", "Pss:"), ("status", "VmRSS:")):
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/{name}").read_text().splitlines():
                if line.startswith(field):
                    return float(line.split()[1])
    return 0.0


def hwnas_profile(
    where: Path, name: str, space: str, *options: str, device: str = "cpu"
) -> tuple[Watched, dict[str, Any]]:
    """One run into a new table; raises HwnasError where it gives no result."""
    result = where / f"{name}.json"
    words = ["profile", "--device", device, "--space", space, "--out", f"{name}.db", "--json", str(result), *options]
    program = [sys.executable, "-P", "-m", "hwnas.cli", *words]  # -P: not from the current folder
    run = watched(program, where, {"HWNAS_CACHE": str(where / "cache")})
    if run.code not in (0, 1) or not result.is_file():
        raise HwnasError(f"hwnas {' '.join(words)} ended with {run.code}: {run.errors.strip()}")
    return run, json.loads(result.read_text())


NETWORK_PHASES = ("load networks", "networks", "in-context", "calibration")


def bare_seconds(run: Watched, result: Mapping[str, Any]) -> float:
    """Of the whole program, less what has to do with whole networks."""
    phases = result["phases"]
    return run.seconds - sum(phases.get(name, 0.0) for name in NETWORK_PHASES)


def floor_seconds(table: Path) -> float:
    """Every operator visited as often as the rule asks for at the least, and nothing else."""
    rule = MeasuringProtocol()
    runs = rule.min_visits * (rule.warmup + rule.runs)
    with LatencyTable.open(table) as opened:
        ms = [row.latency for row in opened.rows() if row.kind != "network" and row.latency is not None]
    return runs * sum(ms) / 1e3


def exporter_seconds(space: str, n: int) -> tuple[float, int]:
    """torch.onnx (dynamo) over all workloads one by one, extrapolated from n of them; and how many there are."""
    from hwnas.benchmarks.conversion import EXPORTER, operators
    from hwnas.spaces.registry import load_space

    found = load_space(space)
    routes = [block.routes()[EXPORTER] for block in operators(found, n)]
    routes[0]()  # loads the libraries
    start = time.perf_counter()
    for route in routes:
        route()
    total = len(found.workloads())
    return (time.perf_counter() - start) / len(routes) * total, total


def _parser() -> argparse.ArgumentParser:
    parser = options(
        __doc__,
        "python benchmarks/profile_time.py",
        "python benchmarks/profile_time.py --space nasbench201 --repeats 5 --json profile_time.json",
    )
    parser.add_argument("--space", help="default proxyless (quick: proxyless-small)")
    parser.add_argument("--repeats", type=int, help="of the run with a full cache; default 3 (quick: 1)")
    parser.add_argument("--exported", type=int, help="operators given to torch.onnx; default 5 (quick: 2)")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    asked = _parser().parse_args(arguments)
    space = asked.space or ("proxyless-small" if asked.quick else "proxyless")
    repeats, exported = asked.repeats or (1 if asked.quick else 3), asked.exported or (2 if asked.quick else 5)
    report = Report(f"Profiling: hwnas profile --device cpu --space {space}", asked)
    with folder() as where, report.output.progress() as progress:
        progress.step("from nothing", 0, 1)
        idle = watched([sys.executable, "-P", "-c", AGENT_AND_TORCH], where, {})
        whole, whole_result = hwnas_profile(where, "whole", space)
        progress.step("from nothing", 1, 1)
        cached = []
        for i in range(repeats):
            progress.step("with a full cache", i, repeats)
            cached.append(hwnas_profile(where, f"isolated{i}", space, "--method", "isolated"))
        floor = floor_seconds(where / "isolated0.db")
    slow, total = exporter_seconds(space, exported)
    bare = [bare_seconds(*run) for run in cached]
    by_exporter = {f"torch.onnx one by one ({exported} of {total}, extrapolated), without any measuring": slow}
    report.findings = [
        Finding(f"bare table of {total} workloads", float(np.median(bare)), "s", TABLE_S, False, {"runs alone": floor}),
        Finding("the same with its networks", float(np.median([run.seconds for run, _ in cached])), "s"),
        Finding("whole profile from nothing", whole.seconds, "s", WHOLE_S, False, by_exporter),
        Finding("peak memory of it", whole.peak_mb, "MB", PEAK_MB, False, {"agent + torch": idle.peak_mb}),
        Finding("peak memory with a full cache", float(np.median([run.peak_mb for run, _ in cached])), "MB"),
    ]
    results = [whole_result, *(result for _, result in cached)]
    doubts = {doubt for result in results for doubt in result["doubts"]}
    unconverged = [len(result["unconverged"]) for result in results]
    report.notes += [f"note: {doubt}" for doubt in sorted(doubts)]
    if any(unconverged):
        report.notes.append(f"note: operators that did not converge, run by run: {unconverged}")
    report.details |= {"phases": [result["phases"] for result in results], "bare": bare, "unconverged": unconverged}
    report.finish()


if __name__ == "__main__":
    script(main)
