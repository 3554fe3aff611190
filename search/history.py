"""What the records of a run tell, whatever fields they lack."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Records = Sequence[Mapping[str, Any]]

POINTS = 400
"""Moments that are kept of a series, at most."""


def series(records: Records, field: str) -> tuple[np.ndarray, list[Any], str]:
    """(moments, values, what the moments are) of the records of the search that have this field, thinned out.

    Records of other phases are taken only where the search has none.
    """
    time, label = clock(records)
    there = [i for i, record in enumerate(records) if record.get(field)]
    searched = [i for i in there if records[i].get("phase") == "search"]
    kept = searched or there
    if len(kept) > POINTS:
        kept = [kept[round(j)] for j in np.linspace(0, len(kept) - 1, POINTS)]
    return time[kept], [records[i][field] for i in kept], label


def clock(records: Records) -> tuple[np.ndarray, str]:
    """When each record was written, in weight steps, never falling.

    Where steps begin anew (the final training counts its own), they go on from the last one; where they stand still
    and architecture updates go on, each update counts as one.
    """
    time = np.zeros(len(records))
    label, offset = "weight step", 0.0
    for i, record in enumerate(records):
        step, update = (number(record.get(name)) or 0 for name in ("step", "updates"))
        if i == 0:
            time[0] = step
            continue
        before, updated = (number(records[i - 1].get(name)) or 0 for name in ("step", "updates"))
        if step < before:
            offset = time[i - 1]
        elif step == before and update > updated:
            offset += update - updated
            label = "weight steps, then architecture updates"
        time[i] = offset + step
    return time, label


def goals_of(expected: Any) -> dict[str, float]:
    """Name -> expected latency, out of what an objective logs; the only goal is called \"\"."""
    if not isinstance(expected, Mapping):
        return {}
    plain = {str(k): v for k, v in expected.items() if number(v) is not None}
    named = {k.removeprefix("expected/"): v for k, v in plain.items() if k.startswith("expected/")}
    return named or ({"": plain["expected"]} if "expected" in plain else {})


def valid_of(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The accuracy on held-out images that a record holds; empty where it holds none."""
    valid = record.get("valid")
    return valid if isinstance(valid, Mapping) else {}


def number(value: Any) -> float | None:
    """A finite number, or None for anything else."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if good else None
