"""``hwnas fit --kind kernel --table TABLE``: prices from a table for what it lacks."""

from pathlib import Path
from typing import TYPE_CHECKING

from .common import Output

if TYPE_CHECKING:
    from ..predictors.table_prices import Completed
    from ..spaces.space import SearchSpace


def from_prices(output: Output, table: Path, space: "SearchSpace", path: Path, *, replace: bool) -> None:
    """Write the predictor that `predictors.table_prices.complete` gives, and say how good its prices are."""
    from ..predictors.fit import check_free
    from ..predictors.table_prices import complete

    check_free(path, replace)
    found = complete(table, space)
    if replace:
        path.unlink(missing_ok=True)
    found.predictor.save(path)
    _show(output, found)
    output.line(f"predictor: {path}")
    output.finish({"predictor": path, **found.as_dict()}, found.doubts)


def _show(output: Output, found: "Completed") -> None:
    if output.quiet:
        return
    for note in found.notes:
        output.line(note)
    total = found.measured + found.priced
    output.line(f"{found.measured} of {total} workloads are measured, {found.priced} priced by them")
    judged = [("all", found.prices), *(found.types.items() if len(found.types) > 1 else ())]
    networks = [("networks, held out of the calibration", found.networks)] if found.networks else []
    output.table(
        ("", "n", "MAPE %", "largest error %"),
        [(name, own.n, own.mape, own.max_error) for name, own in [*judged, *networks]],
        title="Measured workloads, each priced by the others",
    )
