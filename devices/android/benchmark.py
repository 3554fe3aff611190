"""What ``benchmark_model`` prints, of any build so far: summaries in microseconds, delegates, memory."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..data import OutputUnreadable
from .operator_table import operator_tables

AGREE = 0.005
"""The mean is printed twice, with six digits."""

_COUNT = re.compile(r"^(?P<before>.*?)\bcount=(?P<count>\d+)\b(?P<rest>.*)$")
_END = re.compile(r"\b[Ii]nference timings in us: (?P<rest>.*)$")
_PAIR = re.compile(r"(\w+)=([^\s(]+)")
_TIMING = re.compile(r"(Init|First inference|Warmup \(avg\)|Inference \(avg\)|Warmup|no stats): ([^\s,]+)")
_REPLACED = re.compile(r"Replacing (\d+) (?:out of (\d+) )?node\(s\) with delegate \(([^)]*)\)")
_APPLIED = re.compile(
    r"(?:Explicitly applied|Though) (.+?) delegate(?: is explicitly applied)?, (?:and )?the model graph will "
    r"(?:(not) be|be (completely|partially)) executed"
)
_SHARED = re.compile(r"(\d+) operations will run on the GPU, and the remaining (\d+) operations will run on the CPU")
_UNSUPPORTED = re.compile(r"(?:^|[:\s])([A-Z][A-Z0-9_]+): ")
_LEVELS = frozenset({"INFO", "WARN", "WARNING", "ERROR", "VERBOSE", "FATAL"})
_PEAK = re.compile(r"Overall peak memory footprint \(MB\) via periodic monitoring: ([^\s]+)")
_GROWTH = re.compile(
    r"(?:Memory footprint delta from the start of the tool|Peak memory footprint) \(MB\): "
    r"init=([^\s]+) overall=([^\s]+)"
)


@dataclass(frozen=True)
class Summary:
    """Some runs in a row, in microseconds; what was not printed is None."""

    count: int
    mean: float
    first: float | None = None
    min: float | None = None
    max: float | None = None
    std: float | None = None
    p5: float | None = None
    median: float | None = None
    p95: float | None = None


@dataclass(frozen=True)
class Delegation:
    """What became of a delegate that was asked for.

    Attributes:
        extent: "completely", "partially" or "not"; "" where nothing was said.
        delegated, operators: how many operators it took over, of how many; None where it was not said.
        left: names of operators that it did not take, as far as they were named.
    """

    extent: str = ""
    delegated: int | None = None
    operators: int | None = None
    left: tuple[str, ...] = ()


@dataclass(frozen=True)
class Benchmark:
    """One call of ``benchmark_model``: microseconds, MB.

    Attributes:
        measured, warmup: the timed runs, and those before them.
        init, first: of the start-up and of the first run.
        peak_mb: of the whole program's memory; init_mb, overall_mb: by how much it grew.
    """

    measured: Summary
    warmup: Summary | None = None
    init: float | None = None
    first: float | None = None
    peak_mb: float | None = None
    init_mb: float | None = None
    overall_mb: float | None = None


def parse(text: str) -> Benchmark:
    """Read the output of a run that ended well.

    The measurement is the last summary before the line with the inference timings.

    Raises:
        OutputUnreadable: there is none, or it contradicts itself.
    """
    lines = text.splitlines()
    end = next((i for i, line in enumerate(lines) if _END.search(line)), None)
    if end is None:
        raise _unreadable("no line `Inference timings in us:`", text)
    summaries = [summary for line in lines[:end] if (summary := _summary(line, text)) is not None]
    if not summaries or not summaries[-1].count:
        raise _unreadable("no summary of runs (count= ... avg=)", text)
    timings = {name: _number(value) for name, value in _TIMING.findall(lines[end])}
    measured = summaries[-1]
    told = timings.get("Inference (avg)", timings.get("no stats"))
    if told is not None and abs(told - measured.mean) > AGREE * measured.mean + 1:
        raise _unreadable(f"the timed runs took {measured.mean:g} us on average, or {told:g} us", text)
    growth, peak = _GROWTH.search(text), _PEAK.search(text)
    return Benchmark(
        measured=measured,
        warmup=summaries[-2] if len(summaries) > 1 and summaries[-2].count else None,
        init=timings.get("Init"),
        first=timings.get("First inference"),
        peak_mb=_number(peak[1]) if peak else None,
        init_mb=_number(growth[1]) if growth else None,
        overall_mb=_number(growth[2]) if growth else None,
    )


def delegation(text: str, delegate: str) -> Delegation:
    """What a delegate ("GPU", "XNNPACK") took over, by all that the output says about it."""
    extent = next((extent for name, extent in _applied(text) if name == delegate), "")
    delegated, operators = _replaced(text, delegate)
    shared = _SHARED.search(text) if delegate == "GPU" else None
    if shared and operators is None:
        delegated, operators = int(shared[1]), int(shared[1]) + int(shared[2])
    rest = _own_kernels(text)
    left = tuple(dict.fromkeys(_unsupported(text) if delegate == "GPU" else ()))
    if extent == "not":
        delegated = 0
    if delegated is not None and operators is None and (extent == "completely" or rest):
        operators = delegated + (0 if extent == "completely" else len(rest))
    return Delegation(extent, delegated, operators, left or tuple(dict.fromkeys(rest)))


def _applied(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        found = _APPLIED.search(line)
        if found:
            yield found[1].upper(), found[2] or found[3]


def _replaced(text: str, delegate: str) -> tuple[int | None, int | None]:
    """Operators taken over and operators there were, over all subgraphs."""
    taken = [(int(n), all) for n, all, name in _REPLACED.findall(text) if delegate.lower() in name.lower()]
    if not taken:
        return None, None
    known = all(total for _, total in taken)
    return sum(n for n, _ in taken), sum(int(total) for _, total in taken) if known else None


def _unsupported(text: str) -> Iterator[str]:
    """Operators below the line that says that the GPU does not support them."""
    below = False
    for line in text.splitlines():
        if "operations are not supported by GPU delegate" in line:
            below = True
        elif below:
            names = [name for name in _UNSUPPORTED.findall(line + " ") if name not in _LEVELS]
            if not names:
                return
            yield names[0]


def _own_kernels(text: str) -> list[str]:
    """Operators that TFLite's own kernels ran, where operators were profiled."""
    for table in operator_tables(text):
        if table.of_runs:
            return [row.type for row in table.rows if "delegate" not in row.type.lower()]
    return []


def _summary(line: str, text: str) -> Summary | None:
    found = _COUNT.match(line)
    if found is None or found["before"].rstrip().endswith(("(microseconds):", "(bytes):")):  # operator tables have such
        return None
    pairs: Mapping[str, float | None] = {name: _number(value) for name, value in _PAIR.findall(found["rest"])}
    count, mean = int(found["count"]), pairs.get("avg", pairs.get("curr"))
    if not count:
        return Summary(0, math.nan)
    if mean is None or mean < 0:
        raise _unreadable(f"a summary without a mean: {line.strip()[:100]!r}", text)
    low, high = pairs.get("min"), pairs.get("max")
    outside = low is not None and high is not None and not low - 1 <= mean <= high * (1 + AGREE) + 1
    if outside:
        raise _unreadable(f"a mean outside of its runs: {line.strip()[:100]!r}", text)
    names = ("first", "min", "max", "std", "p5", "median", "p95")
    return Summary(count, mean, **{name: pairs.get(name) for name in names})


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _unreadable(what: str, text: str) -> OutputUnreadable:
    return OutputUnreadable(f"the output of benchmark_model cannot be understood: {what}", text)
