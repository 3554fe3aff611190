"""Writes a model in TFLite's file format: a flatbuffer with the identifier TFL3."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import ai_edge_litert.schema_py_generated as schema
import flatbuffers
import numpy as np

from .model import Operator, Subgraph, Tensor, version

SIGNATURE = "serving_default"
_SCHEMA_VERSION = 3
_ALIGNMENT = 16  # of the constants' bytes, which runtimes use in place
_NO_TENSOR = -1
_OPTIONS = {  # of operators whose options are not called after them
    "CONV_2D": "Conv2DOptions", "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions", "MAX_POOL_2D": "Pool2DOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions", "MEAN": "ReducerOptions", "SUM": "ReducerOptions",
    "REDUCE_MAX": "ReducerOptions", "REDUCE_MIN": "ReducerOptions", "REDUCE_PROD": "ReducerOptions",
    "MAXIMUM": "MaximumMinimumOptions", "MINIMUM": "MaximumMinimumOptions", "BATCH_MATMUL": "BatchMatMulOptions",
}  # fmt: skip


class AlignedBuilder(flatbuffers.Builder):
    """Aligns vectors of bytes, which are the constants, as the format demands and the schema's Python does not."""

    def CreateNumpyVector(self, x: np.ndarray) -> int:
        if x.dtype != np.uint8:
            return int(super().CreateNumpyVector(x))
        self.StartVector(1, len(x), _ALIGNMENT)
        self.head -= len(x)
        self.Bytes[self.head : self.head + len(x)] = x.tobytes()
        self.vectorNumElems = len(x)
        return int(self.EndVector())


def write(graph: Subgraph) -> bytes:
    """The file of one subgraph with one signature, under the names of its inputs and outputs."""
    return _Writer(graph).run()


class _Writer:
    def __init__(self, graph: Subgraph) -> None:
        self.graph = graph
        tensors = dict.fromkeys(tensor for _, tensor in graph.inputs)
        for op in graph.operators:
            tensors.update(dict.fromkeys(tensor for tensor in (*op.inputs, *op.outputs) if tensor is not None))
        self.places = {tensor: i for i, tensor in enumerate(tensors)}
        constants = sum(tensor.data.nbytes for tensor in tensors if tensor.data is not None)
        self.builder = AlignedBuilder(constants + 65536)
        self.buffers = [self._buffer(None)]  # the first one must be empty
        self.shared: dict[tuple[str, bytes], int] = {}

    def run(self) -> bytes:
        b = self.builder
        tensors = [self._tensor(tensor) for tensor in self.places]
        codes, operators = self._operators()
        inputs, outputs = (
            self._numbers(self.places[tensor] for _, tensor in named)
            for named in (self.graph.inputs, self.graph.outputs)
        )
        name, tensors_at, operators_at = b.CreateString("main"), self._offsets(tensors), self._offsets(operators)
        schema.SubGraphStart(b)
        schema.SubGraphAddTensors(b, tensors_at)
        schema.SubGraphAddInputs(b, inputs)
        schema.SubGraphAddOutputs(b, outputs)
        schema.SubGraphAddOperators(b, operators_at)
        schema.SubGraphAddName(b, name)
        subgraphs = self._offsets([schema.SubGraphEnd(b)])
        signatures, description = self._offsets([self._signature()]), b.CreateString("hwnas")
        codes_at, buffers_at = self._offsets(codes), self._offsets(self.buffers)
        schema.ModelStart(b)
        schema.ModelAddVersion(b, _SCHEMA_VERSION)
        schema.ModelAddOperatorCodes(b, codes_at)
        schema.ModelAddSubgraphs(b, subgraphs)
        schema.ModelAddDescription(b, description)
        schema.ModelAddBuffers(b, buffers_at)
        schema.ModelAddSignatureDefs(b, signatures)
        b.Finish(schema.ModelEnd(b), b"TFL3")
        return bytes(b.Output())

    # -- tensors

    def _tensor(self, tensor: Tensor) -> int:
        b = self.builder
        buffer = 0 if tensor.data is None else self._constant(tensor.data)
        shape, name = self._numbers(tensor.shape), b.CreateString(tensor.name or f"constant_{self.places[tensor]}")
        schema.TensorStart(b)
        schema.TensorAddShape(b, shape)
        schema.TensorAddType(b, getattr(schema.TensorType, tensor.dtype.upper()))
        schema.TensorAddBuffer(b, buffer)
        schema.TensorAddName(b, name)
        schema.TensorAddHasRank(b, True)
        return int(schema.TensorEnd(b))

    def _constant(self, array: np.ndarray) -> int:
        """Number of the buffer; equal weights share one, biases do not, since each is quantised by its own operator."""
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        key = (str(array.dtype), data.tobytes())
        if key in self.shared:
            return self.shared[key]
        self.buffers.append(self._buffer(data))
        if array.ndim > 1 or array.dtype.kind == "i":
            self.shared[key] = len(self.buffers) - 1
        return len(self.buffers) - 1

    def _buffer(self, data: np.ndarray | None) -> int:
        at = None if data is None else self.builder.CreateNumpyVector(data)
        schema.BufferStart(self.builder)
        if at is not None:
            schema.BufferAddData(self.builder, at)
        return int(schema.BufferEnd(self.builder))

    # -- operators

    def _operators(self) -> tuple[list[int], list[int]]:
        b = self.builder
        versions: dict[str, int] = {}
        for op in self.graph.operators:
            versions[op.kind] = max(versions.get(op.kind, 1), version(op))
        codes = [self._code(kind, number) for kind, number in versions.items()]
        numbers = {kind: i for i, kind in enumerate(versions)}
        operators = []
        for op in self.graph.operators:
            inputs = self._numbers(_NO_TENSOR if tensor is None else self.places[tensor] for tensor in op.inputs)
            outputs = self._numbers(self.places[tensor] for tensor in op.outputs)
            options = self._options(op)
            schema.OperatorStart(b)
            schema.OperatorAddOpcodeIndex(b, numbers[op.kind])
            schema.OperatorAddInputs(b, inputs)
            schema.OperatorAddOutputs(b, outputs)
            if options is not None:
                schema.OperatorAddBuiltinOptionsType(b, options[0])
                schema.OperatorAddBuiltinOptions(b, options[1])
            operators.append(int(schema.OperatorEnd(b)))
        return codes, operators

    def _code(self, kind: str, number: int) -> int:
        code = getattr(schema.BuiltinOperator, kind)
        schema.OperatorCodeStart(self.builder)
        # The first field is what runtimes read that know no more than 127 operators.
        schema.OperatorCodeAddDeprecatedBuiltinCode(self.builder, min(code, 127))
        schema.OperatorCodeAddVersion(self.builder, number)
        schema.OperatorCodeAddBuiltinCode(self.builder, code)
        return int(schema.OperatorCodeEnd(self.builder))

    def _options(self, op: Operator) -> tuple[int, int] | None:
        """Type and place of the operator's options; None for one that has none."""
        name = _OPTIONS.get(op.kind) or "".join(word.capitalize() for word in op.kind.split("_")) + "Options"
        kind = getattr(schema.BuiltinOptions, name, None)
        if kind is None:
            return None
        options: Any = getattr(schema, f"{name}T")(**op.options)
        return kind, int(options.Pack(self.builder))

    # -- the rest

    def _signature(self) -> int:
        b = self.builder
        inputs, outputs = (
            self._offsets([self._named(name, self.places[tensor]) for name, tensor in named])
            for named in (self.graph.inputs, self.graph.outputs)
        )
        key = b.CreateString(SIGNATURE)
        schema.SignatureDefStart(b)
        schema.SignatureDefAddInputs(b, inputs)
        schema.SignatureDefAddOutputs(b, outputs)
        schema.SignatureDefAddSignatureKey(b, key)
        schema.SignatureDefAddSubgraphIndex(b, 0)
        return int(schema.SignatureDefEnd(b))

    def _named(self, name: str, place: int) -> int:
        at = self.builder.CreateString(name)
        schema.TensorMapStart(self.builder)
        schema.TensorMapAddName(self.builder, at)
        schema.TensorMapAddTensorIndex(self.builder, place)
        return int(schema.TensorMapEnd(self.builder))

    def _numbers(self, numbers: Iterable[int]) -> int:
        return int(self.builder.CreateNumpyVector(np.fromiter(numbers, dtype=np.int32)))

    def _offsets(self, offsets: Sequence[int]) -> int:
        b = self.builder
        b.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            b.PrependUOffsetTRelative(offset)
        return int(b.EndVector())
