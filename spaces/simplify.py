"""Graph -> the same computation in fewer nodes; decided by structure alone, so that meta and real tensors agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .graph import SHAPE_ONLY, Call, Graph, Node, Ref, Value, map_refs

_COPIES = frozenset({"clone", "alias", "detach", "lift_fresh", "contiguous"})
_RESHAPES = frozenset({"view", "_unsafe_view", "_reshape_alias", "squeeze", "squeeze.dim", "squeeze.dims", "unsqueeze"})
_SAME_SHAPE_IS_NOOP = _RESHAPES | {"expand", "slice.Tensor", "repeat", "split", "split.Tensor"}
_LINEAR = frozenset({"addmm", "mm"})
_ZEROS = frozenset({"zeros", "zeros_like", "new_zeros", "zero"})
_KEEP_ZERO = (
    frozenset(
        {
            "add.Tensor",
            "mul.Tensor",
            "relu",
            "avg_pool2d",
            "avg_pool1d",
            "mean.dim",
            "max_pool2d_with_indices",
            "silu",
            "gelu",
        }
    )
    | _COPIES
    | _RESHAPES
)
_FILLED = frozenset({"zeros", "ones", "full", "scalar_tensor", *SHAPE_ONLY}) - {"copy", "fill.Tensor"}


def simplify(graph: Graph) -> Graph:
    """See :meth:`Graph.simplified`."""
    return _Simplifier(graph).run()


class _Simplifier:
    def __init__(self, graph: Graph) -> None:
        self.source = graph
        self.dependent = set(graph.dependent_ids())
        self.values = dict(graph.values)
        self.constants = dict(graph.constants)
        self.zeros: set[int] = set()  # constants that are zero by construction, with or without data
        self.same: dict[int, int] = {}  # value id -> the id that stands for it now
        self.next_id = max(self.values, default=-1) + 1

    def run(self) -> Graph:
        nodes = self._fold_batch_norms(list(self._shorten(self.source.nodes)))
        outputs = [self.values[self._now(value.id)] for value in self.source.outputs]
        nodes = _living(nodes, outputs)
        used = {i for node in nodes for i in node.input_ids} | {value.id for value in outputs}
        return Graph(
            inputs=list(self.source.inputs),
            outputs=outputs,
            nodes=nodes,
            constants={key: tensor for key, tensor in self.constants.items() if key in used},
            values=self.values,
            calls=[self._remap(call) for call in self.source.calls],
            dependent=frozenset(self.dependent),
        )

    def _now(self, value_id: int) -> int:
        while value_id in self.same:
            value_id = self.same[value_id]
        return value_id

    def _remap(self, call: Call) -> Call:
        inputs, outputs = (tuple(self._now(i) for i in ids) for ids in (call.inputs, call.outputs))
        return replace(call, inputs=inputs, outputs=outputs)

    def _constant(self, tensor: Tensor) -> Ref:
        value = Value(self.next_id, tuple(tensor.shape), str(tensor.dtype)[6:])
        self.next_id += 1
        self.values[value.id] = value
        self.constants[value.id] = tensor
        return Ref(value.id)

    # -- constants, copies and reshapes

    def _shorten(self, nodes: Iterable[Node]) -> Iterable[Node]:
        reshaped: dict[int, int] = {}  # result of a reshape -> what was reshaped
        for node in nodes:
            node = replace(node, args=map_refs(node.args, self.same), kwargs=self._map_kwargs(node))
            if self._folds(node):
                self._note_zero(node)
                continue
            summand = self._other_than_zero(node)
            if summand is not None:
                self._replace(node.outputs[0].id, summand)
                continue
            if _is_noop(node, self.values):
                self._replace(node.outputs[0].id, node.input_ids[0])
                continue
            if node.op in _RESHAPES:
                source, shape = node.input_ids[0], node.outputs[0].shape
                source = reshaped.get(source, source)
                if self.values[source].shape == shape:
                    self._replace(node.outputs[0].id, source)
                    continue
                reshaped[node.outputs[0].id] = source
                node = Node("view", (Ref(source), shape), {}, node.outputs, node.call)
            yield node

    def _note_zero(self, node: Node) -> None:
        if node.op in _ZEROS or (node.op in _KEEP_ZERO and self.zeros.issuperset(node.input_ids)):
            self.zeros.update(value.id for value in node.outputs)

    def _other_than_zero(self, node: Node) -> int | None:
        """What is added to zero: a sum over operators one of which was chosen to be none."""
        if node.op not in ("add.Tensor", "sub.Tensor") or len(node.input_ids) != 2:
            return None
        first, second = node.input_ids
        kept = first if second in self.zeros else second if first in self.zeros and node.op == "add.Tensor" else None
        plain = kept == first or node.kwargs.get("alpha", 1) == 1
        if kept is None or not plain:
            return None
        before, after = self.values[kept], node.outputs[0]
        return kept if (before.shape, before.dtype) == (after.shape, after.dtype) else None

    def _map_kwargs(self, node: Node) -> dict[str, Any]:
        return {name: map_refs(arg, self.same) for name, arg in node.kwargs.items()}

    def _replace(self, value_id: int, by: int) -> None:
        self.same[value_id] = self._now(by)

    def _folds(self, node: Node) -> bool:
        if any(value.id in self.dependent for value in node.outputs):
            return False
        if any(i not in self.constants for i in node.data_ids):
            return False
        results = self._evaluate(node)
        if results is None:
            return False
        for value, tensor in zip(node.outputs, results, strict=True):
            self.constants[value.id] = tensor
        return True

    def _evaluate(self, node: Node) -> list[Tensor] | None:
        tensors = {i: self.constants[i] for i in node.data_ids}
        if any(tensor.is_meta for tensor in tensors.values()):
            return [torch.empty(value.shape, dtype=_dtype(value), device="meta") for value in node.outputs]
        for i in node.input_ids:
            value = self.values[i]
            tensors.setdefault(i, torch.zeros((), dtype=_dtype(value)).expand(value.shape))
        func = _function(node.op)
        if func is None:
            return None
        try:
            with torch.no_grad():
                kwargs = {name: _fill(arg, tensors) for name, arg in node.kwargs.items()}
                result = func(*_fill(node.args, tensors), **kwargs)
        except (RuntimeError, TypeError):  # a kernel that torch lacks outside the module's own run: leave the node
            return None
        results = [result] if isinstance(result, Tensor) else [item for item in result if isinstance(item, Tensor)]
        if len(results) != len(node.outputs):
            return None
        if node.op in _FILLED and results[0].numel() > 1:  # one element tells all: keep one
            return [results[0].reshape(-1)[0].clone().expand(results[0].shape)]
        return results

    # -- batch norm

    def _fold_batch_norms(self, nodes: list[Node]) -> list[Node]:
        readers = Counter(i for node in nodes for i in node.input_ids)
        readers.update(self._now(value.id) for value in self.source.outputs)
        place = {value.id: index for index, node in enumerate(nodes) for value in node.outputs}
        result: list[Node | None] = list(nodes)
        for index, node in enumerate(nodes):
            if node.op != "native_batch_norm" or node.args[5]:
                continue
            source = self._now(node.args[0].id)
            producer = result[place[source]] if source in place and readers[source] == 1 else None
            folded = self._folded(producer, node) if producer is not None else None
            if folded is None:
                result[index] = self._plain_batch_norm(node)
            else:
                result[place[source]] = None
                result[index] = folded
                self._replace(source, node.outputs[0].id)
        return [node for node in result if node is not None]

    def _plain_batch_norm(self, node: Node) -> Node:
        x, weight, bias, mean, var, _, _, eps = node.args
        dtype = _dtype(self.values[mean.id])
        like = self.constants.get(mean.id)
        device = like.device if like is not None else "cpu"
        shape = self.values[mean.id].shape
        weight = weight or self._constant(torch.ones(shape, dtype=dtype, device=device))
        bias = bias or self._constant(torch.zeros(shape, dtype=dtype, device=device))
        return Node("batch_norm", (x, weight, bias, mean, var, eps), {}, node.outputs[:1], node.call)

    def _folded(self, producer: Node, norm: Node) -> Node | None:
        """``producer`` with the batch norm in its weights; None where it is no linear operator.

        w' = w g / sqrt(v + eps), b' = (b - m) g / sqrt(v + eps) + beta, for each output channel.
        """
        refs = _weight_and_bias(producer, self.values)
        if refs is None or any(r is not None and r.id not in self.constants for r in (*refs, *norm.args[1:5])):
            return None
        weight, bias = (None if ref is None else self.constants[ref.id] for ref in refs)
        assert weight is not None
        statistics = [None if ref is None else self.constants[ref.id] for ref in norm.args[1:5]]
        new_weight, new_bias = _fold(producer, weight, bias, statistics, norm.args[7])
        w, b = self._constant(new_weight), self._constant(new_bias)
        if producer.op == "convolution":
            return Node(
                "convolution", (producer.args[0], w, b, *producer.args[3:]), {}, norm.outputs[:1], producer.call
            )
        x = producer.args[1] if producer.op == "addmm" else producer.args[0]
        return Node("addmm", (b, x, w), {}, norm.outputs[:1], producer.call)


def _weight_and_bias(node: Node, values: dict[int, Value]) -> tuple[Ref, Ref | None] | None:
    if node.op == "convolution":
        return node.args[1], node.args[2]
    if node.op in _LINEAR and not node.kwargs:
        bias = node.args[0] if node.op == "addmm" else None
        if bias is None or len(values[bias.id].shape) == 1:
            return node.args[-1], bias
    return None


def _fold(
    node: Node, weight: Tensor, bias: Tensor | None, statistics: list[Tensor | None], eps: float
) -> tuple[Tensor, Tensor]:
    gamma, beta, mean, var = statistics
    assert mean is not None
    assert var is not None
    if any(tensor is not None and tensor.is_meta for tensor in (weight, bias, *statistics)):
        return torch.empty_like(weight, device="meta"), torch.empty(mean.shape, dtype=weight.dtype, device="meta")
    scale = (var.double() + eps).rsqrt()
    scale = scale if gamma is None else scale * gamma.double()
    shift = (-mean.double() if bias is None else bias.double() - mean.double()) * scale
    shift = shift if beta is None else shift + beta.double()
    return (weight.double() * _per_channel(scale, node, weight)).to(weight.dtype), shift.to(weight.dtype)


def _per_channel(scale: Tensor, node: Node, weight: Tensor) -> Tensor:
    """``scale``, one for each output channel, in a shape that broadcasts over the weight of ``node``."""
    if node.op != "convolution":
        return scale  # (in, out)
    rest = (1,) * (weight.dim() - 2)
    if not node.args[6]:
        return scale.reshape(-1, 1, *rest)  # (out, in / groups, ...)
    groups = node.args[8]  # transposed: (in, out / groups, ...), the input channels of a group lie together
    per_group = scale.reshape(groups, 1, -1).expand(groups, weight.shape[0] // groups, weight.shape[1])
    return per_group.reshape(weight.shape[0], weight.shape[1], *rest)


def _is_noop(node: Node, values: dict[int, Value]) -> bool:
    if node.op in _COPIES:
        return True
    if not node.input_ids or len(node.outputs) != 1:
        return False
    before, after = values[node.input_ids[0]], node.outputs[0]
    if before.shape != after.shape or before.dtype != after.dtype:
        return False
    if node.op in _SAME_SHAPE_IS_NOOP or node.op == "_to_copy":
        return True
    if node.op == "transpose.int":
        return node.args[1] % len(after.shape) == node.args[2] % len(after.shape)
    if node.op == "permute":
        return all(dim % len(after.shape) == i for i, dim in enumerate(node.args[1]))
    return node.op == "constant_pad_nd" and not any(node.args[1])


def _living(nodes: list[Node], outputs: list[Value]) -> list[Node]:
    needed = {value.id for value in outputs}
    kept = []
    for node in reversed(nodes):
        if any(value.id in needed for value in node.outputs):
            needed.update(node.input_ids)
            kept.append(node)
    return kept[::-1]


def _dtype(value: Value) -> torch.dtype:
    dtype = getattr(torch, value.dtype)
    assert isinstance(dtype, torch.dtype)
    return dtype


def _function(op: str) -> Any:
    name, _, overload = op.partition(".")
    packet = getattr(torch.ops.aten, name, None)
    return getattr(packet, overload or "default", None) if packet is not None else None


def _fill(arg: Any, tensors: dict[int, Tensor]) -> Any:
    if isinstance(arg, Ref):
        return tensors[arg.id]
    if isinstance(arg, tuple):
        return [_fill(item, tensors) for item in arg]
    return arg
