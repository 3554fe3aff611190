"""Receives TFLite operators for a graph and keeps track of where each torch tensor lies and in which order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ....spaces.tracer import Graph, Node, Ref, Value
from ..operators import Handlers, Unsupported
from .layout import NHWC, Order, Shape, at_the_border, coalesced, natural, same_memory, stored, viewed
from .model import FUSED, FUSING, Operator, Subgraph, Tensor, check_dtype


@dataclass(frozen=True, slots=True)
class Laid:
    """A torch tensor of ``shape``: where it lies, and in which order."""

    tensor: Tensor
    shape: Shape
    order: Order


Handler = Callable[["Builder", Node], "Laid | Sequence[Laid | None]"]


class Table(Handlers[Handler]):
    """Handlers of the TFLite emitter: each adds operators and returns where its output, or outputs, lie."""


class Builder:
    """Receives TFLite operators for the operators of ``graph``, one of these at a time (``begin``)."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.operators: list[Operator] = []
        self._laid: dict[int, Laid] = {}
        self._moved: dict[tuple[Tensor, tuple[int, ...]], Tensor] = {}
        self._owner = ""
        self.place = -1
        self._made_by = {value.id: i for i, node in enumerate(graph.nodes) for value in node.outputs}
        self._readers = Counter(i for node in graph.nodes for i in node.input_ids)
        self._readers.update(value.id for value in graph.outputs)
        self.inputs: list[tuple[str, Tensor]] = []
        for i, value in enumerate(graph.inputs):
            order = at_the_border(len(value.shape))
            tensor = Tensor(stored(value.shape, order), check_dtype(value.dtype), name=f"input_{i}")
            self.inputs.append((tensor.name, tensor))
            self._laid[value.id] = Laid(tensor, value.shape, order)

    # -- what operators ask

    def shape(self, ref: Ref | Value) -> Shape:
        return self.graph.values[ref.id].shape

    def dtype(self, ref: Ref | Value) -> str:
        return self.graph.values[ref.id].dtype

    def is_read(self, value: Value) -> bool:
        """Whether anything reads this output of an operator."""
        return self._readers[value.id] > 0

    def maker(self, ref: Ref) -> Node | None:
        """The operator that computes this value; None for inputs and constants."""
        place = self._made_by.get(ref.id)
        return None if place is None else self.graph.nodes[place]

    def constant(self, ref: Ref | None) -> np.ndarray | None:
        """The elements of a constant, None for what is computed from the inputs."""
        tensor = None if ref is None else self.graph.constants.get(ref.id)
        if tensor is None:
            return None
        if tensor.is_meta:
            raise Unsupported("a constant is on the meta device and has no values")
        check_dtype(str(tensor.dtype)[6:])
        return np.asarray(tensor.detach().cpu().numpy())

    def laid(self, ref: Ref | Value) -> Laid:
        """Where a value lies."""
        found = self._laid.get(ref.id)
        if found is None:
            array = self.constant(Ref(ref.id))
            assert array is not None
            found = self._laid[ref.id] = Laid(self.array(array), array.shape, natural(array.ndim))
        return found

    def image(self, ref: Ref, spatial: int = 2) -> Tensor:
        """A value as (N, H, W, C): (N, C, W) or (N, C, H, W), by the number of spatial axes, or one without N."""
        shape = self.shape(ref)
        if spatial > 2:
            raise Unsupported(f"aten.{self.graph.nodes[self.place].op} over {spatial} dimensions")
        full = shape if len(shape) == spatial + 2 else (1, *shape)
        return self.at(self.view(self.laid(ref), full if spatial == 2 else (*full[:2], 1, *full[2:])), NHWC)

    # -- constants

    def array(self, array: np.ndarray) -> Tensor:
        return Tensor(array.shape, check_dtype(str(array.dtype)), array)

    def ints(self, values: Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
        """A constant of int32, as shapes, axes and paddings are given."""
        return self.array(np.asarray(values, dtype=np.int32))

    def scalar(self, value: float | int | bool, dtype: str) -> Tensor:
        """A constant without dimensions."""
        return self.array(torch.tensor(value, dtype=getattr(torch, check_dtype(dtype))).numpy())

    # -- what operators add

    def begin(self, place: int) -> None:
        """The operators added from now on belong to this node of the graph."""
        self.place = place
        call = self.graph.nodes[place].call
        self._owner = "" if call is None else f"{self.graph.calls[call].path}#{self.graph.calls[call].index}"

    def end(self, node: Node, results: Sequence[Laid | None]) -> None:
        for value, laid in zip(node.outputs, results, strict=False):
            if laid is not None:
                self._laid[value.id] = laid

    def op(
        self, kind: str, inputs: Sequence[Tensor | None], shape: Sequence[int], dtype: str = "", **options: Any
    ) -> Tensor:
        """Add an operator with one output of ``shape``, as stored, in the first input's dtype if none is given."""
        return self.multi(kind, inputs, [tuple(shape)], dtype, **options)[0]

    def multi(
        self, kind: str, inputs: Sequence[Tensor | None], shapes: Sequence[Shape], dtype: str = "", **options: Any
    ) -> tuple[Tensor, ...]:
        """Add an operator with several outputs."""
        if not dtype:
            dtype = next(tensor.dtype for tensor in inputs if tensor is not None)
        if kind in FUSING:
            options.setdefault(FUSED, 0)
        stem = f"{self._owner or 'main'}/{kind}_{len(self.operators)}"
        op = Operator(kind, tuple(inputs), (), options, self._owner, self.place)
        op.outputs = tuple(
            Tensor(shape, check_dtype(dtype), None, op, f"{stem}.{i}" if i else stem) for i, shape in enumerate(shapes)
        )
        self.operators.append(op)
        return op.outputs

    def only_reader_of(self, ref: Ref) -> Operator | None:
        """The operator whose result this value is, if it was made for it and nothing else reads the value; what is
        read here next may then become part of that operator."""
        tensor = self.laid(ref).tensor
        while tensor.maker is not None and tensor.maker.kind == "RESHAPE":
            tensor = _source(tensor.maker)
        op = tensor.maker
        made_here = op is not None and op.node == self._made_by.get(ref.id)
        return op if made_here and self._readers[ref.id] == 1 and tensor.dtype == "float32" else None

    # -- moving

    def cast(self, tensor: Tensor, dtype: str) -> Tensor:
        if tensor.dtype == dtype:
            return tensor
        check_dtype(dtype)
        if tensor.data is not None:
            return self.array(tensor.data.astype(dtype))
        return self.op("CAST", [tensor], tensor.shape, dtype)

    def reshape(self, tensor: Tensor, shape: Sequence[int]) -> Tensor:
        """The same elements in memory in another shape."""
        shape = tuple(shape)
        if tensor.shape == shape:
            return tensor
        if tensor.data is not None:
            return self.array(tensor.data.reshape(shape))
        maker = tensor.maker
        if maker is not None and maker.kind == "RESHAPE":
            return self.reshape(_source(maker), shape)
        if maker is not None and maker.options.get("keepDims") and shape == _without_reduced(maker):
            return self.op(maker.kind, maker.inputs, shape, keepDims=False)
        return self.op("RESHAPE", [tensor, self.ints(shape)], shape, newShape=list(shape))

    def transpose(self, tensor: Tensor, permutation: Sequence[int]) -> Tensor:
        """The axes of a stored tensor in another order: place in ``tensor`` of each axis of the result."""
        permutation = tuple(permutation)
        if tensor.data is not None:
            return self.array(tensor.data.transpose(permutation))
        if tensor.maker is not None and tensor.maker.kind == "TRANSPOSE":
            first, places = tensor.maker.inputs
            assert first is not None
            assert places is not None
            assert places.data is not None
            tensor, permutation = first, tuple(int(places.data[place]) for place in permutation)
        shape = tuple(tensor.shape[place] for place in permutation)
        merged, order = coalesced(tensor.shape, permutation)
        if order == natural(len(order)):
            return self.reshape(tensor, shape)
        known = self._moved.get((tensor, permutation))
        if known is None:
            if len(shape) > 4:
                tensor = self.reshape(tensor, merged)
                moved = self.op("TRANSPOSE", [tensor, self.ints(order)], [merged[place] for place in order])
                known = self.reshape(moved, shape)
            else:
                known = self.op("TRANSPOSE", [tensor, self.ints(permutation)], shape)
                self._moved[tensor, permutation] = known
        return known

    def at(self, laid: Laid, order: Order) -> Tensor:
        """The tensor in this order, moved if it must be."""
        if laid.order == order:
            return laid.tensor
        if same_memory(laid.shape, laid.order, order):
            return self.reshape(laid.tensor, stored(laid.shape, order))
        return self.transpose(laid.tensor, [laid.order.index(axis) for axis in order])

    def view(self, laid: Laid, shape: Sequence[int], wanted: Order | None = None) -> Laid:
        """torch's view: the same elements, counted in torch's order, in another shape; see `viewed`."""
        after = tuple(shape)
        if after == laid.shape:
            return laid
        way = viewed(laid.shape, laid.order, after, wanted)
        tensor = laid.tensor
        if way.needed != way.given:
            tensor = self._split(tensor, stored(way.sizes, way.given))
            narrow = len(tensor.shape) - len(way.sizes)
            tensor = self.transpose(tensor, [*range(narrow), *(narrow + way.given.index(part) for part in way.needed)])
        return Laid(self.reshape(tensor, stored(after, way.order)), after, way.order)

    def _split(self, tensor: Tensor, sizes: Shape) -> Tensor:
        """The tensor with axes of these sizes, and before them perhaps some of size 1 if it has them there."""
        narrow = len(tensor.shape) - len(sizes)
        if narrow >= 0 and tensor.shape == (1,) * narrow + sizes:
            return tensor
        return self.reshape(tensor, sizes)

    # -- the result

    def subgraph(self) -> Subgraph:
        """What was built, without operators whose results nobody reads."""
        self._owner, self.place = "", -1
        outputs = [(f"output_{i}", tensor) for i, tensor in enumerate(self._outputs())]
        needed = {tensor for _, tensor in outputs}
        living = []
        for op in reversed(self.operators):
            if not needed.isdisjoint(op.outputs):
                needed.update(tensor for tensor in op.inputs if tensor is not None)
                living.append(op)
        return Subgraph(self.inputs, outputs, living[::-1])

    def _outputs(self) -> list[Tensor]:
        """The graph's outputs: each a tensor of its own that some operator computes."""
        taken: list[Tensor] = []
        for value in self.graph.outputs:
            laid = self.laid(value)
            tensor = self.at(laid, at_the_border(len(value.shape)))
            if tensor.maker is None or tensor in taken:
                tensor = self.op(
                    "RESHAPE", [tensor, self.ints(tensor.shape)], tensor.shape, newShape=list(tensor.shape)
                )
            taken.append(tensor)
        return taken


def _source(op: Operator) -> Tensor:
    source = op.inputs[0]
    assert source is not None
    return source


def _without_reduced(op: Operator) -> Shape:
    """Shape of a reduction's result without the axes that it went over."""
    axes = op.inputs[1]
    assert axes is not None
    assert axes.data is not None
    return tuple(size for i, size in enumerate(op.outputs[0].shape) if i not in axes.data)
