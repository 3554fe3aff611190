"""Whole networks of a space on a device: which ones, lowered, measured, and traced for in-context times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..devices.base import Artifact, WorkloadFailed
from ..spaces.architecture import Architecture
from ..spaces.usage import usage
from .artifacts import Lowerer
from .benches import AnyBench
from .calibration import Observed
from .designs import network_key
from .in_context import attribute
from .table import WorkloadRow

MIN_OWNED = 0.5
"""Share of a network's time that must be attributed to modules for in-context times to mean anything."""


@dataclass
class NetworkSet:
    """Networks to be measured, by key.

    Attributes:
        codes: integer-encoded row of each.
        roles: "calibration", "held-out", or whatever they are measured for.
    """

    lowerer: Lowerer
    dtype: str
    codes: dict[str, np.ndarray] = field(default_factory=dict)
    roles: dict[str, str] = field(default_factory=dict)
    architectures: dict[str, Architecture] = field(default_factory=dict)

    def add(self, rows: np.ndarray, role: str) -> list[str]:
        """Add encoded networks; returns their keys. One that is there already keeps its role."""
        keys = []
        for row, architecture in zip(rows, self.lowerer.space.decode(rows), strict=True):
            key = network_key(architecture, self.lowerer.batch, self.dtype)
            self.codes.setdefault(key, row)
            self.roles.setdefault(key, role)
            self.architectures.setdefault(key, architecture)
            keys.append(key)
        return keys

    def artifact(self, key: str) -> Artifact:
        """Lower a network."""
        return self.lowerer.network(self.architectures[key])

    def rows(self) -> list[WorkloadRow]:
        """As workloads of a table."""
        return [
            WorkloadRow(key, "network", "network", {"role": self.roles[key], "architecture": a.as_dict()})
            for key, a in self.architectures.items()
        ]

    def observed(self, role: str, latency: Mapping[str, float]) -> Observed:
        """The measured ones of a role."""
        keys = [key for key, r in self.roles.items() if r == role and key in latency]
        width = len(self.lowerer.description.decisions)
        codes = np.array([self.codes[key] for key in keys], np.int16).reshape(len(keys), width)
        return Observed(codes, np.array([latency[key] for key in keys]))


def in_context_values(
    bench: AnyBench, networks: NetworkSet, keys: Sequence[str], latency: Mapping[str, float]
) -> dict[str, list[float]]:
    """Trace networks and collect the time of each workload wherever it occurs, ms.

    Each network's node times are scaled to add up to its measured latency, so that a burst of contention during the
    trace, and the profiler's own cost, drop out.

    Returns:
        workload key -> its times; empty where nothing could be traced and attributed.
    """
    known = {record["network"]: record for record in bench.table.records("trace")}
    found: dict[str, list[float]] = {}
    for i, key in enumerate(keys):
        bench.progress.step("in-context", i, len(keys))
        record = known.get(key) or _traced(bench, networks, key)
        if record["owned"] < MIN_OWNED * record["total"] or not record["total"]:
            continue
        scale = latency[key] / record["total"]
        for workload, ms in record["times"].items():
            found.setdefault(workload, []).extend(scale * value for value in ms)
    bench.progress.step("in-context", len(keys), len(keys))
    return {key: ms or [0.0] for key, ms in found.items()}  # never timed: always fused into its neighbours


def _traced(bench: AnyBench, networks: NetworkSet, key: str) -> dict[str, Any]:
    """Trace one network and keep the outcome in the table, so that it is traced only once."""
    record: dict[str, Any] = {"network": key, "total": 0.0, "owned": 0.0, "times": {}}
    try:
        times = attribute(*bench.trace(key))
        record["owned"] = sum(times.owned.values())
        record["total"] = record["owned"] + times.unowned
        record["times"] = _by_workload(networks, networks.codes[key], times.owned)
    except WorkloadFailed as error:
        record["reason"] = error.reason
    bench.table.add_record("trace", record)
    return record


def _by_workload(networks: NetworkSet, row: np.ndarray, owned: Mapping[str, float]) -> dict[str, list[float]]:
    """Times by workload key of the module calls of one network.

    A call without any time counts as 0, unless it has no weights: then another call may have done its work, and it
    counts as nothing.
    """
    lowerer = networks.lowerer
    description = lowerer.description
    used = usage(description, row[None], live=True)[0]
    found: dict[str, list[float]] = {}
    calls: dict[str, int] = {}
    for v, number in enumerate(used.tolist()):
        path = lowerer.built_path(v)
        if any(row[d] != c for d, c in description.nodes[v].reach):
            continue
        owner = f"{path}#{calls.setdefault(path, 0)}"
        calls[path] += 1
        workload = description.workloads[number] if number >= 0 else None
        if workload is not None:
            times = found.setdefault(workload.key(lowerer.batch, networks.dtype), [])
            times += [owned.get(owner, 0.0)] if owner in owned or not workload.weightless else []
    return found
