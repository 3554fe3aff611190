"""Inputs and outputs of quantised ONNX models: the quantiser leaves them float32, here they become uint8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, load_from_string, numpy_helper

from .run import Border, Runner

Feeds = Sequence[Mapping[str, np.ndarray]]


def close(model: ModelProto, original: bytes, feeds: Feeds) -> None:
    """Make the float inputs and outputs of a quantised model uint8, in place.

    Where the quantiser has put a QuantizeLinear behind an input (a DequantizeLinear before an output), it goes; where
    it has not, since only float operators are there, the opposite is put in.

    Args:
        original: the float model. feeds: inputs by name, for the ranges of the latter.
    """
    graph = model.graph
    seen = _Seen(original, feeds)
    for value in graph.input:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            _close_input(graph, value, seen)
    for value in graph.output:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            _close_output(graph, value, seen)


def read(model: ModelProto) -> tuple[tuple[Border, ...], tuple[Border, ...]]:
    """Inputs and outputs, with their scales where they are quantised."""
    graph = model.graph
    scales = {}
    for node in graph.node:
        if node.op_type == "DequantizeLinear":
            scales[node.input[0]] = node
        elif node.op_type == "QuantizeLinear":
            scales[node.output[0]] = node
    constants = {tensor.name: tensor for tensor in graph.initializer}
    inside = {tensor.name for tensor in graph.initializer}
    given = [value for value in graph.input if value.name not in inside]
    return (
        tuple(_border(value, scales.get(value.name), constants) for value in given),
        tuple(_border(value, scales.get(value.name), constants) for value in graph.output),
    )


def read_borders(data: bytes) -> tuple[tuple[Border, ...], tuple[Border, ...]]:
    """As `read`, of a model's bytes."""
    return read(load_from_string(data))


def _border(value: Any, node: NodeProto | None, constants: Mapping[str, TensorProto]) -> Border:
    kind = value.type.tensor_type
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)).name
    shape = tuple(d.dim_value for d in kind.shape.dim)
    if node is None:
        return Border(value.name, shape, dtype)
    scale, zero_point = (numpy_helper.to_array(constants[name]).item() for name in node.input[1:3])
    return Border(value.name, shape, dtype, scale, zero_point)


class _Seen:
    """What values the float model's inputs and outputs took."""

    def __init__(self, original: bytes, feeds: Feeds) -> None:
        self._original, self._feeds = original, feeds

    @cached_property
    def _outputs(self) -> list[dict[str, np.ndarray]]:
        runner = Runner("onnx", self._original)
        order = [border.name for border in runner.inputs]
        names = [border.name for border in runner.outputs]
        return [dict(zip(names, runner.run([feed[n] for n in order]), strict=True)) for feed in self._feeds]

    def parameters(self, name: str) -> tuple[float, int]:
        """Scale and zero point for uint8."""
        given = self._feeds if name in self._feeds[0] else self._outputs
        low = min(0.0, *(float(arrays[name].min()) for arrays in given))
        high = max(0.0, *(float(arrays[name].max()) for arrays in given))
        scale = (high - low) / 255 or 1.0
        return scale, round(-low / scale)


def _close_input(graph: GraphProto, value: Any, seen: _Seen) -> None:
    name = value.name
    quantisers = [n for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0] == name]
    parameters = list(quantisers[0].input[1:3]) if quantisers else _parameters(graph, name, seen)
    for node in quantisers:
        graph.node.remove(node)
    users = [node for node in graph.node if name in node.input]
    if users:  # in float
        real = f"{name}_real"
        for node in users:
            _rename(node.input, name, real)
        graph.node.insert(
            0, helper.make_node("DequantizeLinear", [name, *parameters], [real], name=f"{name}_DequantizeLinear")
        )
    for quantiser in quantisers:
        for node in graph.node:
            _rename(node.input, quantiser.output[0], name)
    value.type.tensor_type.elem_type = TensorProto.UINT8


def _close_output(graph: GraphProto, value: Any, seen: _Seen) -> None:
    name, real = value.name, f"{value.name}_real"
    made_by = {output: node for node in graph.node for output in node.output}
    producer, whole = made_by[name], None
    if producer.op_type == "DequantizeLinear" and producer.input[0] in made_by:
        whole = producer.input[0]
    for node in graph.node:
        _rename(node.output, name, real)
        _rename(node.input, name, real)
    if whole is None:
        parameters = _parameters(graph, name, seen)
        graph.node.append(
            helper.make_node("QuantizeLinear", [real, *parameters], [name], name=f"{name}_QuantizeLinear")
        )
    else:
        for node in graph.node:
            _rename(node.output, whole, name)
            _rename(node.input, whole, name)
        if not any(real in node.input for node in graph.node):
            graph.node.remove(producer)
    value.type.tensor_type.elem_type = TensorProto.UINT8


def _parameters(graph: GraphProto, name: str, seen: _Seen) -> list[str]:
    """Names of new constants: scale and zero point of a tensor."""
    scale, zero_point = seen.parameters(name)
    names = [f"{name}_border_scale", f"{name}_border_zero_point"]
    graph.initializer.append(numpy_helper.from_array(np.array(scale, np.float32), names[0]))
    graph.initializer.append(numpy_helper.from_array(np.array(zero_point, np.uint8), names[1]))
    return names


def _rename(names: Any, old: str, new: str) -> None:
    for i, name in enumerate(names):
        if name == old:
            names[i] = new
