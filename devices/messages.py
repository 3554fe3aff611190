"""What host and agent tell each other, as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .base import Artifact, NodeTime, NodeTrace, Round, Samples


def describe_artifact(artifact: Artifact) -> dict[str, Any]:
    """All but its bytes."""
    inputs = [[spec.name, spec.shape, spec.dtype, spec.high] for spec in artifact.inputs]
    return {"format": artifact.format, "inputs": inputs, "digest": artifact.digest, "route": artifact.route}


def read_round(answer: Mapping[str, Any], blobs: Sequence[bytes]) -> tuple[Round, dict[str, str]]:
    """The visits that succeeded, and the reasons of those that did not, by id."""
    good = [visit for visit in answer["visits"] if "error" not in visit]
    errors = {visit["id"]: visit["error"] for visit in answer["visits"] if "error" in visit}
    outputs = {visit["id"]: visit["output"] for visit in answer["visits"] if visit.get("output")}
    clocks = [_split(data, [visit["sizes"][i] for visit in good]) for i, data in enumerate(blobs)]
    samples = {
        visit["id"]: Samples(wall_ns, cpu_ns, visit["started"], np.array(visit["reference"], np.int64))
        for visit, wall_ns, cpu_ns in zip(good, *clocks, strict=True)
    }
    result = Round(samples, {}, answer["preemptions"], answer["load"], answer["conditions"], outputs, answer["lost"])
    return result, errors


def read_trace(answer: Mapping[str, Any], blobs: Sequence[bytes]) -> NodeTrace:
    """Times of the nodes, and the model that they belong to."""
    nodes = tuple(NodeTime(name, op, tuple(outputs), ms) for name, op, outputs, ms in answer["nodes"])
    return NodeTrace(nodes, blobs[0], answer["run_ms"], answer["runs"])


def _split(data: bytes, sizes: Sequence[int]) -> list[np.ndarray]:
    """Nanoseconds of several visits, of so many runs each."""
    return np.split(np.frombuffer(data, "<i8").astype(np.int64), np.cumsum(sizes)[:-1]) if sizes else []
