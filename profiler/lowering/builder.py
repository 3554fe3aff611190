"""Builds an ONNX model from a graph: names, initialisers, nodes, and which watched call each tensor belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper
from torch import Tensor

from ...spaces.tracer import Graph, Node, Ref, Value
from .operators import Unsupported

__all__ = ["Builder", "Unsupported", "onnx_type"]

OPSET = 20
IR_VERSION = 10

ONNX_TYPES = {
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "int8": TensorProto.INT8,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
    "bool": TensorProto.BOOL,
}


class Builder:
    """Receives ONNX nodes for the operators of ``graph``, one operator at a time (``begin``)."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.owners: dict[str, str] = {}
        self._names: dict[int, str] = {}
        self._small: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._owner = ""
        self._read = {i for node in graph.nodes for i in node.input_ids} | {value.id for value in graph.outputs}
        self.input_names = [f"input_{i}" for i in range(len(graph.inputs))]
        for value, name in zip(graph.inputs, self.input_names, strict=True):
            self._names[value.id] = name

    # -- what operators ask

    def value(self, ref: Ref | Value) -> Value:
        return self.graph.values[ref.id]

    def shape(self, ref: Ref | Value) -> tuple[int, ...]:
        return self.graph.values[ref.id].shape

    def dtype(self, ref: Ref | Value) -> str:
        return self.graph.values[ref.id].dtype

    def is_read(self, value: Value) -> bool:
        """Whether anything reads this output of an operator."""
        return value.id in self._read

    def constant(self, ref: Ref | None) -> Tensor | None:
        """The tensor of a constant, None for what is computed from the inputs."""
        return None if ref is None else self.graph.constants.get(ref.id)

    def name(self, ref: Ref | Value) -> str:
        """ONNX name of a tensor; a constant becomes an initialiser when it is first named."""
        name = self._names.get(ref.id)
        if name is None:
            name = f"constant_{len(self.initializers)}"
            self._add_initializer(name, self.graph.constants[ref.id])
            self._names[ref.id] = name
        return name

    # -- what operators add

    def begin(self, node: Node) -> None:
        if node.call is None:
            self._owner = ""
        else:
            call = self.graph.calls[node.call]
            self._owner = f"{call.path}#{call.index}"

    def end(self, node: Node, names: Sequence[str]) -> None:
        for value, name in zip(node.outputs, names, strict=False):
            self._names[value.id] = name

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output; the output's name."""
        return self.multi(kind, inputs, 1, **attributes)[0]

    def multi(self, kind: str, inputs: Sequence[str], outputs: int, **attributes: Any) -> list[str]:
        """Add a node with several outputs; their names."""
        stem = f"{self._owner or 'main'}/{kind}_{len(self.nodes)}"
        names = [stem if i == 0 else f"{stem}.{i}" for i in range(outputs)]
        kept = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=stem, **kept))
        self.owners.update(dict.fromkeys(names, self._owner))
        return names

    def ints(self, values: Sequence[int]) -> str:
        """A constant int64 vector."""
        return self.array(np.asarray(list(values), dtype=np.int64))

    def scalar(self, value: float | int | bool, dtype: str) -> str:
        """A constant without dimensions."""
        return self.tensor(torch.tensor(value, dtype=getattr(torch, dtype)))

    def array(self, array: np.ndarray) -> str:
        return self.tensor(torch.from_numpy(np.ascontiguousarray(array)))

    def tensor(self, tensor: Tensor) -> str:
        """A constant; equal small ones are shared."""
        data = _raw(tensor)
        key = (str(tensor.dtype), tuple(tensor.shape), data)
        if len(data) > 64 or key not in self._small:
            name = f"constant_{len(self.initializers)}"
            self._add_initializer(name, tensor)
            if len(data) > 64:
                return name
            self._small[key] = name
        return self._small[key]

    def cast(self, name: str, source: str, target: str) -> str:
        """``name`` in another dtype."""
        return name if source == target else self.op("Cast", name, to=onnx_type(target))

    def reshape(self, name: str, shape: Sequence[int]) -> str:
        return self.op("Reshape", name, self.ints(shape))

    # -- the result

    def model(self) -> ModelProto:
        outputs = self._output_names()
        graph = helper.make_graph(
            self.nodes,
            "hwnas",
            [_info(name, value) for name, value in zip(self.input_names, self.graph.inputs, strict=True)],
            [_info(name, value) for name, value in zip(outputs, self.graph.outputs, strict=True)],
            initializer=self.initializers,
        )
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="hwnas")

    def _output_names(self) -> list[str]:
        """Names of the graph's outputs: each a tensor of its own that some node produces, as ONNX demands."""
        self._owner = ""
        taken: set[str] = set()
        names = []
        for value in self.graph.outputs:
            name = self.name(value)
            if name in taken or name not in self.owners:
                name = self.op("Identity", name)
            taken.add(name)
            names.append(name)
        return names

    def _add_initializer(self, name: str, tensor: Tensor) -> None:
        if tensor.is_meta:
            raise Unsupported("a constant is on the meta device and has no values")
        dtype = str(tensor.dtype)[6:]
        proto = TensorProto(name=name, data_type=onnx_type(dtype), dims=list(tensor.shape), raw_data=_raw(tensor))
        self.initializers.append(proto)


def onnx_type(dtype: str) -> int:
    """ONNX's number for torch's dtype name."""
    if dtype not in ONNX_TYPES:
        raise Unsupported(f"dtype {dtype}")
    return ONNX_TYPES[dtype]


def _raw(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def _info(name: str, value: Value) -> Any:
    return helper.make_tensor_value_info(name, onnx_type(value.dtype), list(value.shape))
