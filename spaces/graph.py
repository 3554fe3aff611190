"""A traced module as plain data: operators, values, constants and the watched calls they belong to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Operators that read at most the shape of their first tensor, so that their result depends on nothing that flows there.
SHAPE_ONLY = frozenset(
    {
        "zeros_like",
        "ones_like",
        "full_like",
        "empty_like",
        "new_zeros",
        "new_ones",
        "new_full",
        "new_empty",
        "new_empty_strided",
        "zero",
        "fill.Scalar",
        "fill.Tensor",
        "copy",
    }
)


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor in a graph; ``dtype`` is torch's name without the prefix, such as ``float32``."""

    id: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Ref:
    """Stands for a tensor inside the arguments of a node."""

    id: int


@dataclass(frozen=True, slots=True)
class Node:
    """One operator: its aten name without ``.default`` (in-place variants under the functional name)."""

    op: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[Value, ...]
    call: int | None

    @property
    def input_ids(self) -> tuple[int, ...]:
        """Value ids of all tensors among the arguments, in order."""
        return tuple(_refs((*self.args, *self.kwargs.values())))

    @property
    def data_ids(self) -> tuple[int, ...]:
        """Value ids of the tensors whose elements, not merely their shapes, are read."""
        ids = self.input_ids
        return ids[1:] if self.op in SHAPE_ONLY else ids


@dataclass(frozen=True, slots=True)
class Call:
    """The ``index``-th call of the watched module at ``path``; ``parent`` is the index in ``Graph.calls`` around it.

    ``inputs`` and ``outputs`` are the ids of all tensors in the arguments and in the result, containers flattened.
    """

    path: str
    index: int
    parent: int | None
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(eq=False)
class Graph:
    """A module traced for one set of inputs. Nodes are in the order of execution, which is topological."""

    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    constants: dict[int, torch.Tensor] = field(default_factory=dict)
    values: dict[int, Value] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    dependent: frozenset[int] | None = field(default=None, repr=False)

    def depends_on_input(self, value_id: int) -> bool:
        """Whether the elements of this value are computed from a graph input (its shape alone does not count)."""
        return value_id in self.dependent_ids()

    def dependent_ids(self) -> frozenset[int]:
        """Ids of all values that depend on a graph input."""
        if self.dependent is None:
            found = {value.id for value in self.inputs}
            for node in self.nodes:
                if any(i in found for i in node.data_ids):
                    found.update(value.id for value in node.outputs)
            self.dependent = frozenset(found)
        return self.dependent

    def digest(self) -> str:
        """SHA-256 over topology, operators, attributes, shapes and dtypes; hex.

        Values are numbered in order of appearance and constants count by shape and dtype only, so that the digest is
        the same in every process, on every device (meta included) and for every instance of the same structure.
        Outputs that nobody reads are left out, since devices disagree on them (saved statistics of batch norm).
        """
        read = {i for node in self.nodes for i in node.input_ids} | {value.id for value in self.outputs}
        writer = _DigestWriter(self)
        for value in self.inputs:
            writer.number(value)
        for node in self.nodes:
            writer.node(node, read)
        for value in self.outputs:
            writer.emit("out", writer.reference(value.id))
        return writer.hash.hexdigest()

    def simplified(self) -> Graph:
        """The same computation in fewer nodes; value ids stay valid or are remapped in ``calls`` and ``outputs``.

        Constants are folded (on the meta device by shape alone), dead nodes and no-op views and copies dropped, and
        batch norm is folded into the convolution or linear layer before it; one that stands alone becomes a node
        ``batch_norm(x, weight, bias, mean, var, eps)``. Constants by channel that are summed with a convolution's
        result go into its bias. A call whose nodes all vanished stays in ``calls``.
        """
        from .simplify import simplify

        return simplify(self)


class _DigestWriter:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.hash = hashlib.sha256()
        self.numbers: dict[int, int] = {}

    def emit(self, *parts: object) -> None:
        self.hash.update(repr(parts).encode())

    def number(self, value: Value) -> None:
        self.numbers[value.id] = len(self.numbers)
        self.emit("value", value.shape, value.dtype)

    def reference(self, value_id: int) -> str:
        if value_id not in self.numbers:
            self.emit("constant")
            self.number(self.graph.values[value_id])
        return f"%{self.numbers[value_id]}"

    def node(self, node: Node, read: set[int]) -> None:
        args = tuple(self._plain(arg) for arg in node.args)
        kwargs = tuple((name, self._plain(node.kwargs[name])) for name in sorted(node.kwargs))
        self.emit(node.op, args, kwargs)
        for position, value in enumerate(node.outputs):
            if value.id in read:
                self.emit(position)
                self.number(value)

    def _plain(self, arg: Any) -> Any:
        if isinstance(arg, Ref):
            return self.reference(arg.id)
        if isinstance(arg, tuple):
            return tuple(self._plain(item) for item in arg)
        return arg if isinstance(arg, int | float | bool | None) else str(arg)


def _refs(items: Iterable[Any]) -> Iterator[int]:
    for item in items:
        if isinstance(item, Ref):
            yield item.id
        elif isinstance(item, tuple):
            yield from _refs(item)


def map_refs(item: Any, replace: Mapping[int, int]) -> Any:
    """``item`` (an argument of a node) with the value ids of its references replaced."""
    if isinstance(item, Ref):
        return Ref(replace[item.id]) if item.id in replace else item
    if isinstance(item, tuple):
        return tuple(map_refs(part, replace) for part in item)
    return item


class Aliases:
    """Which value stands for another, in a graph that is being rewritten; ``names`` has an entry for each replaced."""

    def __init__(self) -> None:
        self.names: dict[int, int] = {}

    def now(self, value_id: int) -> int:
        """The value that stands for this one, itself where none does."""
        while value_id in self.names:
            value_id = self.names[value_id]
        return value_id

    def replace(self, value_id: int, by: int) -> None:
        """Let ``by`` stand for a value from now on."""
        self.names[value_id] = self.now(by)
