"""Two tables compared."""

from __future__ import annotations

from pathlib import Path

import pytest
from hwnas.profiler.table import LatencyTable, Provenance, TableError, WorkloadRow
from hwnas.profiler.table_export import Difference, diff_tables


def make(path: Path, values: dict[str, float | None], **about: object) -> Path:
    with LatencyTable.create(path, Provenance(**{"device": "cpu", "unit": "ms", **about})) as table:  # type: ignore[arg-type]
        table.register(WorkloadRow(key, "op") for key in values)
        for key, value in values.items():
            table.finish(key, latency=value, status="failed" if value is None else "ok")
    return path


def diff(a: Path, b: Path) -> Difference:
    with LatencyTable.open(a) as first, LatencyTable.open(b) as second:
        return diff_tables(first, second)


def test_the_common_factor_is_taken_out(tmp_path: Path) -> None:
    a = make(tmp_path / "a.db", {"x": 1.0, "y": 2.0, "z": 4.0, "mine": 1.0, "zero": 0.0, "broken": 1.0})
    b = make(tmp_path / "b.db", {"x": 2.0, "y": 4.0, "z": 8.8, "yours": 1.0, "zero": 0.0, "broken": None})
    found = diff(a, b)
    assert found.ratios == {"x": 2.0, "y": 2.0, "z": 2.2}
    assert found.factor == 2.0
    assert found.rms == pytest.approx(100 * (0.1**2 / 3) ** 0.5)
    assert found.worst == pytest.approx(10)
    assert (found.only_in_a, found.only_in_b) == (("mine", "broken"), ("yours",))


def test_nothing_in_common(tmp_path: Path) -> None:
    found = diff(make(tmp_path / "a.db", {"x": 1.0}), make(tmp_path / "b.db", {"y": 1.0}))
    assert (found.ratios, found.factor, found.rms, found.worst) == ({}, None, None, None)


def test_what_differs_in_the_provenance(tmp_path: Path) -> None:
    a = make(tmp_path / "a.db", {"x": 1.0}, settings={"threads": 1, "batch": 1}, environment={"host": "a"})
    b = make(tmp_path / "b.db", {"x": 1.0}, settings={"threads": 2, "batch": 1}, device="mobile")
    assert diff(a, b).provenance == {
        "device": ("cpu", "mobile"),
        "settings.threads": (1, 2),
        "environment.host": ("a", None),
    }


def test_units_do_not_compare(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"ms, .* in MMACs"):
        diff(make(tmp_path / "a.db", {"x": 1.0}), make(tmp_path / "b.db", {"x": 1.0}, unit="MMACs"))
