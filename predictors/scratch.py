"""The file that keeps raw measurements of networks while they are taken, so that a killed run goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..profiler.table import LatencyTable, Provenance, TableError, TableMismatch

MAX_AGE_S = 3600.0
"""Measurements that are to be compared with each other are not farther apart."""


def open_scratch(path: Path, provenance: Provenance, wanted: Mapping[str, Any]) -> LatencyTable:
    """The table of an unfinished, recent run of the same request under the same conditions, else a new one.

    Raises:
        TableError: the file is something else than an earlier run's measurements, or cannot be written.
    """
    if not _resumable(path, wanted):
        _remove(path)
    try:
        table = LatencyTable.create(path, provenance)
    except TableMismatch:
        _remove(path)
        table = LatencyTable.create(path, provenance)
    try:
        if not table.records("request"):
            table.add_record("request", wanted)
    except BaseException:
        table.close()
        raise
    return table


def open_earlier(path: Path) -> LatencyTable | None:
    """What an earlier run left, to be read; None where that is nothing, or an empty file, since it was killed at once.

    Raises:
        TableError: the file is something else.
    """
    if not path.exists():
        return None
    try:
        return LatencyTable.open(path)
    except TableError:
        if path.stat().st_size:
            raise
        return None


def _resumable(path: Path, wanted: Mapping[str, Any]) -> bool:
    table = open_earlier(path)
    if table is None:
        return True
    with table:
        requests, sessions = table.records("request"), table.sessions()
        if not requests and table.rows():
            raise TableError(f"{path} is a table of something else; give another --out")
        begun = [environment.get("begun", 0) for environment in sessions.values()]
        recent = all(isinstance(t, int | float) and abs(time.time() - t) < MAX_AGE_S for t in begun)
        same = not requests or requests[0] == json.loads(json.dumps(wanted))
        return same and recent and not table.records("finished")


def _remove(path: Path) -> None:
    try:
        path.with_name(path.name + "-journal").unlink(missing_ok=True)
        path.unlink()
    except OSError as error:
        raise TableError(f"{path} cannot be replaced: {error.strerror}") from error
