"""What the benchmarks share: options, the table of results beside bars and references, and timing by turns."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

from hwnas.cli.common import Output
from hwnas.devices.provenance import environment
from hwnas.errors import HwnasError


@dataclass(frozen=True)
class Finding:
    """One result.

    Attributes:
        what, value, unit: what was found; None where it could not be.
        bar: what is to be reached, in the same unit: at most so much, or `at_least`. None: there is none.
        references: other ways to the same end, from the same run and in the same unit.
    """

    what: str
    value: float | None
    unit: str
    bar: float | None = None
    at_least: bool = False
    references: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the bar is reached; None where there is none."""
        if self.bar is None:
            return None
        if self.value is None:
            return False
        return self.value >= self.bar if self.at_least else self.value <= self.bar

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "what": self.what,
            "value": self.value,
            "unit": self.unit,
            "bar": self.bar,
            "at_least": self.at_least,
            "met": self.met,
            "references": dict(self.references),
        }

    def row(self) -> tuple[object, ...]:
        """Cells of the printed table."""
        limit = "" if self.bar is None else f"{'>=' if self.at_least else '<='} {self.bar:g}"
        verdict = {True: "reached", False: "MISSED", None: ""}[self.met]
        beside = "; ".join(f"{name} {_short(value)}" for name, value in self.references.items())
        return self.what, _short(self.value), self.unit, limit, verdict, beside


def options(description: str | None, *examples: str) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark, and examples at the end of its help."""
    shown = "\n".join(f"  {example}" for example in examples)
    parser = argparse.ArgumentParser(
        description=description,
        epilog=f"examples:\n{shown}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="short settings: shows that it works, proves nothing")
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON; - is standard output")
    return parser


class Report:
    """Collects findings, then prints and writes them. Made before the work, so that a bad --json is found early."""

    def __init__(self, title: str, arguments: argparse.Namespace) -> None:
        self.title = title
        self.quick: bool = arguments.quick
        self.output = Output(False, arguments.json)
        self.before = environment()
        self.findings: list[Finding] = []
        self.details: dict[str, Any] = {k: v for k, v in vars(arguments).items() if k != "json"}
        self.notes: list[str] = []
        self._start = time.monotonic()

    def finish(self) -> None:
        """Print the table, the notes, and write the JSON."""
        columns = ("what", "here", "unit", "bar", "", "beside it, in the same run")
        self.output.table(columns, [finding.row() for finding in self.findings], title=self.title)
        after = environment()
        if self.quick:
            self.notes.append("short settings (--quick): these numbers prove nothing")
        busy, cores = (self.before["load"] or [0.0])[0], os.cpu_count() or 1
        if busy > cores / 2:
            self.notes.append(f"the machine was busy at the start: load {busy:g} on {cores} cores")
        for note in self.notes:
            self.output.line(note)
        missed = sum(finding.met is False for finding in self.findings)
        bars = sum(finding.bar is not None for finding in self.findings)
        if bars:
            self.output.line(f"{bars - missed} of {bars} bars reached")
        self.output.finish(
            {
                "title": self.title,
                "findings": [finding.as_dict() for finding in self.findings],
                "missed": missed,
                "seconds": time.monotonic() - self._start,
                "machine": {"before": self.before, "load_after": after["load"]},
                "notes": self.notes,
                **self.details,
            }
        )


def script(main: Callable[[Sequence[str] | None], None]) -> NoReturn:
    """Run a benchmark as a program: a missed bar is no failure, a request that cannot be carried out is (2)."""
    try:
        main(None)
    except HwnasError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    except KeyboardInterrupt as error:
        raise SystemExit(130) from error
    raise SystemExit(0)


@contextmanager
def folder(kept: Path | None = None) -> Iterator[Path]:
    """A folder for tables and results: the given one, or one that is gone afterwards."""
    if kept is not None:
        try:
            kept.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HwnasError(f"{kept} cannot be made: {error.strerror}") from error
        yield kept
        return
    with TemporaryDirectory(prefix="hwnas-benchmark-") as name:
        yield Path(name)


def by_turns(ways: Mapping[str, Callable[[], object]], turns: int) -> dict[str, list[float]]:
    """Seconds of each way, all of them in every turn, so that a slow moment of the machine meets all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def median(values: Sequence[float]) -> float | None:
    """None of nothing."""
    return statistics.median(values) if values else None


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
