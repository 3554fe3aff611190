"""A latency table and a search space: which workloads it covers, and tables imported for a space."""

import datetime
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .table_export import check_new
from .table_provenance import Provenance
from .table_schema import TableError, WorkloadRow
from .yaml_tables import IMPORTED, import_yaml, workload_row

if TYPE_CHECKING:
    from ..spaces.space import SearchSpace


def space_keys(space: "SearchSpace", provenance: Provenance) -> list[str]:
    """Keys of a space's workloads under a table's settings, candidates first."""
    batch, dtype = provenance.settings.get("batch", 1), provenance.settings.get("dtype", "fp32")
    if not isinstance(batch, int) or not 1 <= batch <= 1_000_000 or not isinstance(dtype, str):
        raise TableError(f"the table's settings cannot be used: batch {batch!r}, dtype {dtype!r}")
    return [workload.key(batch, dtype) for workload in space.workloads(batch)]


def import_table(
    source: Path, out: Path, space: "SearchSpace | None" = None, *, force: bool = False
) -> tuple[int, list[str]]:
    """Make a table from a YAML lookup table, with a space's keys where one is given.

    Returns:
        The number of rows, and the keys of the space's workloads that the file lacks.

    Raises:
        TableError: see `import_yaml`; or ``out`` exists and ``force`` is False.
    """
    from .. import __version__

    check_new(out, force=force, source=source)
    rows: list[WorkloadRow] = []
    if space is not None:
        rows = [workload_row(w.key(), w.op, w.shapes, w.info, fixed=w.fixed) for w in space.workloads()]
    temporary = out.with_name(f".{out.name}.new")
    if temporary.exists():
        temporary.unlink()
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    about = replace(IMPORTED, version=__version__, created=now)
    if space is not None:
        about = replace(about, space=space.name, space_arguments=space.arguments, fingerprint=space.fingerprint)
    with import_yaml(source, temporary, workloads=rows, about=about) as table:
        count, lacking = len(table.rows()), table.missing(row.key for row in rows)
    try:
        out.with_name(out.name + "-journal").unlink(missing_ok=True)  # of the file that is replaced
        temporary.replace(out)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise TableError(f"{out} cannot be written: {error.strerror}") from error
    return count, lacking
