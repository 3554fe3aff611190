"""Just enough of the protocol-buffer encoding to look into an ONNX model where the onnx package is not installed.

Field numbers are those of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

from __future__ import annotations

from collections.abc import Iterator

from .base import DeviceError

MAX_DEPTH = 64

# message -> field number -> message in that field; only the fields on the way to a tensor
_FIELDS = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}
_TENSOR_EXTERNAL_DATA = 13
_MODEL_GRAPH, _GRAPH_NODE = 7, 1
_NODE_OUTPUT, _NODE_NAME, _NODE_OP_TYPE = 2, 3, 4


def external_data(model: bytes) -> str | None:
    """What the model's first reference to data in another file says, None if all its data is inside.

    Raises:
        DeviceError: the bytes are no protocol buffer.
    """
    if b"location" not in model:  # a reference must name its "location": spares reading nearly every model
        return None
    return _external(memoryview(model), "Model", 0)


def graph_nodes(model: bytes) -> list[tuple[str, str, tuple[str, ...]]]:
    """Name, operator type and output names of the main graph's nodes, in the model's order.

    Raises:
        DeviceError: the bytes are no protocol buffer.
    """
    nodes = []
    for number, graph in _messages(memoryview(model)):
        if number == _MODEL_GRAPH:
            nodes += [_node(node) for field, node in _messages(graph) if field == _GRAPH_NODE]
    return nodes


def _node(message: memoryview) -> tuple[str, str, tuple[str, ...]]:
    name, op_type, outputs = "", "", []
    for number, value in _messages(message):
        if number == _NODE_OUTPUT:
            outputs.append(_text(value))
        elif number == _NODE_NAME:
            name = _text(value)
        elif number == _NODE_OP_TYPE:
            op_type = _text(value)
    return name, op_type, tuple(outputs)


def _external(message: memoryview, kind: str, depth: int) -> str | None:
    if depth > MAX_DEPTH:
        raise DeviceError(f"the model nests graphs more than {MAX_DEPTH} deep")
    for number, value in _messages(message):
        if kind == "Tensor" and number == _TENSOR_EXTERNAL_DATA:
            return " ".join(_text(part) for _, part in _messages(value))
        inner = _FIELDS[kind].get(number)
        found = _external(value, inner, depth + 1) if inner is not None else None
        if found is not None:
            return found
    return None


def _messages(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The length-delimited fields of a message; the others are passed over."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        tag &= 0xFFFFFFFF  # as every reader truncates it
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            _, at = _varint(data, at)
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        elif wire == 2:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise DeviceError("the model is truncated")
            yield number, data[at : at + length]
            at += length
        else:
            raise DeviceError("the model is no ONNX file")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
    raise DeviceError("the model is truncated or no ONNX file")


def _text(value: memoryview) -> str:
    return bytes(value).decode("utf-8", errors="replace")
