"""Constants in a sum go into the bias of a convolution of that sum.

Operators that see only zeros (behind an edge whose operator is "none") leave such constants. An inference runtime does
not fold them by itself, and adding a whole tensor of them can cost more than its arithmetic, by a change of layout.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .constants import Constants
from .graph import Aliases, Node, map_refs

_OUTPUT = -1


def fold_into_biases(
    nodes: Sequence[Node], outputs: Iterable[int], constants: Constants, aliases: Aliases
) -> list[Node]:
    """The nodes without the sums whose one summand is a constant by channel and the others hold a convolution.

    The convolution's result, and every partial sum between it and the constant, must have no other reader. A constant
    in a sum without convolution stays.
    """
    return _Sums(nodes, outputs, constants, aliases).run()


class _Sums:
    def __init__(self, nodes: Sequence[Node], outputs: Iterable[int], constants: Constants, aliases: Aliases) -> None:
        self.nodes: list[Node | None] = list(nodes)
        self.constants = constants
        self.aliases = aliases
        self.made = {value.id: index for index, node in enumerate(nodes) for value in node.outputs}
        self.readers: dict[int, list[int]] = {}  # value id -> places of the nodes that read it, _OUTPUT for an output
        for index, node in enumerate(nodes):
            for i in node.input_ids:
                self.readers.setdefault(i, []).append(index)
        for i in outputs:
            self.readers.setdefault(i, []).append(_OUTPUT)

    def run(self) -> list[Node]:
        for index, node in enumerate(self.nodes):
            if node is None or not self.constants.level.intersection(node.input_ids):
                continue
            parts = self._parts(node)
            place = self._convolution(node, parts[0]) if parts is not None else None
            if parts is not None and place is not None:
                rest, constant, sign = parts
                self._add_to_bias(place, constant, sign)
                self._drop(index, node, rest)
        return [self._renamed(node) for node in self.nodes if node is not None]

    def _parts(self, node: Node) -> tuple[int, int, float] | None:
        """(what stays, constant, its factor) of a sum of a tensor and a constant that changes no shape or dtype."""
        if node.op not in ("add.Tensor", "sub.Tensor") or len(node.input_ids) != 2:
            return None
        first, second = (self.aliases.now(i) for i in node.input_ids)
        alpha = node.kwargs.get("alpha", 1)
        parts = (first, second, alpha if node.op == "add.Tensor" else -alpha)
        if second not in self.constants.level:
            if node.op == "sub.Tensor" or alpha != 1:
                return None
            parts = (second, first, 1)
        return parts if self._alike(parts[0], node) and self._alike(parts[1], node) else None

    def _alike(self, value_id: int, node: Node) -> bool:
        before, after = self.constants.values[value_id], node.outputs[0]
        return (before.shape, before.dtype) == (after.shape, after.dtype)

    def _convolution(self, node: Node, start: int) -> int | None:
        """Place of a convolution that is summed with the constant in ``node``: below it, or beside it further up."""
        found = self._below(start)
        while found is None:
            above = self._only_reader(node.outputs[0].id)
            upper = self.nodes[above] if above is not None else None
            if upper is None or not self._is_sum(upper):
                return None
            for i in map(self.aliases.now, upper.input_ids):
                if found is None and i != node.outputs[0].id:
                    found = self._below(i)
            node = upper
        return found

    def _below(self, value_id: int) -> int | None:
        todo = [value_id]
        while todo:
            value_id = todo.pop()
            place = self.made.get(value_id)
            node = self.nodes[place] if place is not None else None
            if node is None or self._only_reader(value_id) is None:
                continue
            if node.op == "convolution" and (node.args[2] is None or node.args[2].id in self.constants.tensors):
                return place
            if self._is_sum(node):
                todo += map(self.aliases.now, reversed(node.input_ids))
        return None

    def _only_reader(self, value_id: int) -> int | None:
        readers = self.readers.get(value_id, [])
        return readers[0] if len(readers) == 1 and readers[0] != _OUTPUT else None

    def _is_sum(self, node: Node) -> bool:
        two = node.op == "add.Tensor" and len(node.input_ids) == 2 and node.kwargs.get("alpha", 1) == 1
        return two and all(self._alike(i, node) for i in node.input_ids)

    def _add_to_bias(self, place: int, constant: int, sign: float) -> None:
        node = self.nodes[place]
        assert node is not None
        ref = node.args[2]
        bias = _sum(None if ref is None else self.constants.tensors[ref.id], self.constants.channels(constant), sign)
        self.nodes[place] = replace(node, args=(*node.args[:2], self.constants.add(bias), *node.args[3:]))

    def _drop(self, index: int, node: Node, rest: int) -> None:
        """Take a sum out; what read it reads ``rest``."""
        self.nodes[index] = None
        output = node.outputs[0].id
        self.readers[rest].remove(index)
        self.readers[rest] += self.readers.pop(output, [])
        self.aliases.replace(output, rest)

    def _renamed(self, node: Node) -> Node:
        names = {i: self.aliases.now(i) for i in node.input_ids}
        kwargs = {name: map_refs(arg, names) for name, arg in node.kwargs.items()}
        return replace(node, args=map_refs(node.args, names), kwargs=kwargs)


def _sum(bias: Tensor | None, constant: Tensor, sign: float) -> Tensor:
    if constant.is_meta or (bias is not None and bias.is_meta):
        return torch.empty(constant.shape, dtype=constant.dtype, device="meta")
    total = sign * constant.double()
    return (total if bias is None else total + bias.double()).to(constant.dtype)
