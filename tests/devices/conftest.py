"""Artifacts for the tests of the devices: real ONNX models, and lists of operators."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from hwnas.devices import Artifact, TensorSpec
from onnx import TensorProto, helper, numpy_helper


def _conv_net(width: int = 16) -> bytes:
    """Two convolutions with activations on 3x32x32, serialised."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in (("w1", (width, 3, 3, 3)), ("w2", (2 * width, width, 3, 3)))
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], name="second", pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c2"], ["y"], name="pool"),
    ]
    return _onnx_model(nodes, ("x", [1, 3, 32, 32]), ("y", [1, 2 * width, 1, 1]), weights)


def _onnx_model(
    nodes: list, x: tuple[str, list], y: tuple[str, list], initializers: list, dtype: int = TensorProto.FLOAT
) -> bytes:
    """A serialised model of one float output and one input of the given dtype."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(x[0], dtype, x[1])],
        [helper.make_tensor_value_info(y[0], TensorProto.FLOAT, y[1])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def _onnx_artifact(
    data: bytes, shape: tuple[int, ...] = (1, 3, 32, 32), dtype: str = "float32", high: int = 1
) -> Artifact:
    """An artifact with one input "x"."""
    return Artifact("onnx", data, (TensorSpec("x", shape, dtype, high),), "d", "emitter")


def _ops_artifact(macs: int = 10_000_000, **more: object) -> Artifact:
    """A list of operators with the given MACs in all."""
    data = {"macs": macs, "params": 1, "activation_bytes": 1, **more}
    return Artifact("ops", json.dumps(data).encode(), (), f"digest{macs}", "ops")


# Helpers reach the tests as fixtures, because test folders are no packages.
@pytest.fixture
def conv_net() -> Callable[..., bytes]:
    return _conv_net


@pytest.fixture
def onnx_model() -> Callable[..., bytes]:
    return _onnx_model


@pytest.fixture
def onnx_artifact() -> Callable[..., Artifact]:
    return _onnx_artifact


@pytest.fixture
def ops_artifact() -> Callable[..., Artifact]:
    return _ops_artifact


@pytest.fixture
def conv() -> Artifact:
    return _onnx_artifact(_conv_net())
