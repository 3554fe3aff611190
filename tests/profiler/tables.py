"""What the tests of tables share: provenance, samples, a filled table, and reading all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from hwnas.devices.data import Samples
from hwnas.profiler.table import LatencyTable, Provenance, WorkloadRow
from hypothesis import strategies as st

ABOUT = Provenance(
    device="cpu",
    unit="ms",
    settings={"batch": 1, "threads": 1, "dtype": "fp32"},
    space="proxyless",
    fingerprint="ab12",
    lowering="emitter",
    protocol={"tolerance": 0.01, "warmup": 2},
    environment={"host": "here", "cpu": {"model": "A"}, "runtime": {"name": "onnxruntime", "version": "1.32"}},
    version="0.1.0",
    created="2026-01-02",
)

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(words, json_values, max_size=4)


def samples(*wall: int, cpu: tuple[int, ...] | None = None, started: float = 1.5) -> Any:
    times = np.array(wall, dtype=np.int64)
    return Samples(wall=times, cpu=times if cpu is None else np.array(cpu, dtype=np.int64), started=started)


def fill(path: Path, keys: int = 20) -> None:
    rng = np.random.default_rng(0)
    with LatencyTable.create(path, ABOUT) as table:
        session = table.add_session({"load": [1.0]})
        table.register(WorkloadRow(f"key {i}", "op", "candidate", {"i": i}) for i in range(keys))
        for _ in range(5):
            visits = {}
            for i in range(keys):
                wall = rng.integers(0, 2**40, 3)
                visits[f"key {i}"] = Samples(wall=wall, cpu=wall, started=1.0)
            table.add_visits(visits, session)
        for i in range(keys):
            table.finish(f"key {i}", latency=float(i))
        table.set_calibration({"factor": 1.0})
        table.add_record("canary", {"ms": 1.0})


def read_all(path: Path) -> None:
    with LatencyTable.open(path) as table:
        table.rows()
        table.values()
        table.sessions()
        table.all_visits()
        assert table.calibration is None or isinstance(table.calibration, dict)
        table.records("canary")


def append(path: Path) -> None:
    with LatencyTable.create(path, ABOUT) as table:
        table.all_visits()
        table.rows()
