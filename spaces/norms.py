"""Batch norms go into the convolution or linear layer before them, where nothing else reads its result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from .constants import Constants, dtype_of
from .graph import Aliases, Node, Ref, Value

_LINEAR = frozenset({"addmm", "mm"})


def fold_batch_norms(
    nodes: Sequence[Node], outputs: Iterable[int], constants: Constants, aliases: Aliases
) -> list[Node]:
    """The nodes with each batch norm in the weights before it, or else as ``batch_norm(x, w, b, mean, var, eps)``."""
    readers = Counter(i for node in nodes for i in node.input_ids)
    readers.update(outputs)
    place = {value.id: index for index, node in enumerate(nodes) for value in node.outputs}
    result: list[Node | None] = list(nodes)
    for index, node in enumerate(nodes):
        if node.op != "native_batch_norm" or node.args[5]:
            continue
        source = aliases.now(node.args[0].id)
        producer = result[place[source]] if source in place and readers[source] == 1 else None
        folded = _folded(producer, node, constants) if producer is not None else None
        if folded is None:
            result[index] = _plain(node, constants)
        else:
            result[place[source]] = None
            result[index] = folded
            aliases.replace(source, node.outputs[0].id)
    return [node for node in result if node is not None]


def _plain(node: Node, constants: Constants) -> Node:
    x, weight, bias, mean, var, _, _, eps = node.args
    dtype = dtype_of(constants.values[mean.id])
    like = constants.tensors.get(mean.id)
    device = like.device if like is not None else "cpu"
    shape = constants.values[mean.id].shape
    weight = weight or constants.add(torch.ones(shape, dtype=dtype, device=device))
    bias = bias or constants.add(torch.zeros(shape, dtype=dtype, device=device))
    return Node("batch_norm", (x, weight, bias, mean, var, eps), {}, node.outputs[:1], node.call)


def _folded(producer: Node, norm: Node, constants: Constants) -> Node | None:
    """``producer`` with the batch norm in its weights; None where it is no linear operator.

    w' = w g / sqrt(v + eps), b' = (b - m) g / sqrt(v + eps) + beta, for each output channel.
    """
    tensors = constants.tensors
    refs = _weight_and_bias(producer, constants.values)
    if refs is None or any(r is not None and r.id not in tensors for r in (*refs, *norm.args[1:5])):
        return None
    weight, bias = (None if ref is None else tensors[ref.id] for ref in refs)
    assert weight is not None
    statistics = [None if ref is None else tensors[ref.id] for ref in norm.args[1:5]]
    new_weight, new_bias = _fold(producer, weight, bias, statistics, norm.args[7])
    w, b = constants.add(new_weight), constants.add(new_bias)
    if producer.op == "convolution":
        return Node("convolution", (producer.args[0], w, b, *producer.args[3:]), {}, norm.outputs[:1], producer.call)
    x = producer.args[1] if producer.op == "addmm" else producer.args[0]
    return Node("addmm", (b, x, w), {}, norm.outputs[:1], producer.call)


def _weight_and_bias(node: Node, values: Mapping[int, Value]) -> tuple[Ref, Ref | None] | None:
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
