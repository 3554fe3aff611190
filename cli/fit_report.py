"""What ``hwnas fit`` prints."""

import shlex
from typing import TYPE_CHECKING

from .common import Output

if TYPE_CHECKING:
    from ..predictors.fit import FitResult

MANY = 50
"""Times as many networks are no advice any more."""


def show_fit(output: Output, result: "FitResult") -> None:
    """How good the predictor is, and how many more networks would help."""
    if output.quiet:
        return
    for note in result.notes:
        output.line(note)
    if result.rounds is not None:
        _show_rounds(output, result)
    error, n = result.error, len(result.predictor.training.latency)
    latency, unit = result.predictor.training.latency, result.predictor.unit
    by = f", judged by {error.n} random ones" if result.rounds is not None else ""
    output.table(
        ("cross-validation", f"{result.predictor.kind}, {n} networks{by}"),
        [
            ("MAPE %", error.mape),
            ("within 1 / 5 / 10 %", f"{error.within_1:.0f} / {error.within_5:.0f} / {error.within_10:.0f}"),
            ("largest error %", error.max_error),
            ("Kendall tau", error.kendall),
            ("width of 90 % intervals %", result.width),
            (f"the networks take ({unit})", f"{latency.min():.4g} to {latency.max():.4g}"),
        ],
    )
    _show_curve(output, result, n)


def show_use(output: Output, result: "FitResult", space: str) -> None:
    """Where the predictor is, and what can be done with it."""
    output.line(f"predictor: {result.path}")
    if output.quiet:
        return
    given = f"--space {space} --predictor {shlex.quote(str(result.path))}"
    if result.predictor.training.provenance is not None:  # compare would not know where to measure
        output.line(f"judge it on networks that it has not seen: hwnas compare {given}")
    output.line(f"search with it: hwnas search {given} --target X")


def _show_rounds(output: Output, result: "FitResult") -> None:
    from ..predictors.active import RULE

    output.table(
        ("networks", "random ones", "MAPE %", "standard error %", "both together"),
        [(one.networks, one.judges, one.mape, one.mape_se, one.mape + one.mape_se) for one in result.rounds or ()],
        title="Measured until the error was small" if result.reached else "Measured until the budget was spent",
    )
    output.line(RULE)


def _show_curve(output: Output, result: "FitResult", n: int) -> None:
    curve = result.curve
    more = [(m, curve.at(m)) for m in (2 * n, 4 * n)]
    output.table(
        ("networks", "MAPE %", ""),
        [*((m, e, "") for m, e in curve.points), *((m, e, "expected, at best") for m, e in more if e is not None)],
        title="How much more measuring would help",
    )
    needed = curve.needed(result.error.mape / 2)
    if needed is not None and needed <= MANY * n:
        output.line(f"to halve the error takes about {needed} networks, if it keeps falling as it did")
    elif curve.exponent is not None:
        output.line("more networks would help little")
