"""Artifacts for the tests of the devices: real ONNX and TFLite models, and lists of operators."""

from __future__ import annotations

import json
from collections.abc import Callable

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as tflite
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


class TfliteModel:
    """A TFLite model of one input and one output, operator by operator."""

    def __init__(self, shape: tuple[int, ...] = (1, 16, 16, 3), dtype: str = "FLOAT32", name: str = "x") -> None:
        self.codes: list[tuple[int, str]] = []
        self.buffers = [tflite.BufferT()]
        self.graph = tflite.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.last = self.tensor(name, shape, dtype)
        self.graph.inputs = [self.last]
        self.signature = ""

    def tensor(self, name: str, shape: tuple[int, ...], dtype: str = "FLOAT32", data: np.ndarray | None = None) -> int:
        tensor = tflite.TensorT()
        tensor.name, tensor.shape, tensor.type = name, list(shape), getattr(tflite.TensorType, dtype)
        if data is not None:
            tensor.buffer = len(self.buffers)
            self.buffers.append(tflite.BufferT())
            self.buffers[-1].data = np.frombuffer(data.tobytes(), np.uint8)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def op(self, kind: str, inputs: list[int], output: int, custom: str = "", **options: object) -> None:
        code = (getattr(tflite.BuiltinOperator, kind), custom)
        if code not in self.codes:
            self.codes.append(code)
        operator = tflite.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = self.codes.index(code), inputs, [output]
        if options:
            name = options.pop("of")
            operator.builtinOptionsType = getattr(tflite.BuiltinOptions, str(name))
            operator.builtinOptions = getattr(tflite, f"{name}T")()
            vars(operator.builtinOptions).update(options)
        self.graph.operators.append(operator)
        self.last = output

    def conv(self, width: int, activation: str = "RELU6") -> TfliteModel:
        """3x3, of the same height and width."""
        rng = np.random.default_rng(0)
        *outer, depth = self.graph.tensors[self.last].shape
        weights = rng.standard_normal((width, 3, 3, depth)).astype(np.float32)
        inputs = [self.last, self.tensor("w", weights.shape, data=weights)]
        inputs.append(self.tensor("b", (width,), data=np.ones(width, np.float32)))
        options = {"strideH": 1, "strideW": 1, "padding": tflite.Padding.SAME, "of": "Conv2DOptions"}
        options["fusedActivationFunction"] = getattr(tflite.ActivationFunctionType, activation)
        self.op("CONV_2D", inputs, self.tensor("y", (*outer, width)), **options)
        return self

    def same(self, kind: str, custom: str = "", **options: object) -> TfliteModel:
        """An operator that keeps the shape."""
        last = self.graph.tensors[self.last]
        dtype = next(name for name, value in vars(tflite.TensorType).items() if value == last.type)
        self.op(kind, [self.last], self.tensor("z", tuple(last.shape), dtype), custom, **options)
        return self

    def table(self, rows: int) -> TfliteModel:
        """Rows of a table, by number."""
        data = np.ones((rows, 4), np.float32)
        shape = (*self.graph.tensors[self.last].shape, 4)
        inputs = [self.tensor("table", data.shape, data=data), self.last]
        self.op("GATHER", inputs, self.tensor("rows", shape), of="GatherOptions")
        return self

    def data(self) -> bytes:
        model = tflite.ModelT()
        model.version, model.buffers, model.subgraphs, model.operatorCodes = 3, self.buffers, [self.graph], []
        self.graph.outputs = [self.last]
        for kind, custom in self.codes:
            code = tflite.OperatorCodeT()
            code.builtinCode, code.deprecatedBuiltinCode, code.version = kind, min(kind, 127), 1
            code.customCode = custom or None
            model.operatorCodes.append(code)
        if self.signature:
            model.signatureDefs = [tflite.SignatureDefT()]
            model.signatureDefs[0].signatureKey = "serving_default"
            for name, index, where in (
                (self.signature, self.graph.inputs[0], "inputs"),
                ("output", self.last, "outputs"),
            ):
                entry = tflite.TensorMapT()
                entry.name, entry.tensorIndex = name, index
                setattr(model.signatureDefs[0], where, [entry])
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def artifact(self, name: str = "x", shape: tuple[int, ...] = (), dtype: str = "float32", high: int = 1) -> Artifact:
        shape = shape or tuple(self.graph.tensors[self.graph.inputs[0]].shape)
        return Artifact("tflite", self.data(), (TensorSpec(name, shape, dtype, high),), "d", "emitter")


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


@pytest.fixture
def tflite_model() -> type[TfliteModel]:
    return TfliteModel
