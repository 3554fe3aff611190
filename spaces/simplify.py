"""Graph -> the same computation in fewer nodes; decided by structure alone, so that meta and real tensors agree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from .biases import fold_into_biases
from .constants import COPIES, RESHAPES, Constants
from .graph import Aliases, Call, Graph, Node, Ref, Value, map_refs
from .norms import fold_batch_norms

_SAME_SHAPE_IS_NOOP = RESHAPES | {"expand", "slice.Tensor", "repeat", "split", "split.Tensor"}


def simplify(graph: Graph) -> Graph:
    """See :meth:`Graph.simplified`."""
    constants, aliases = Constants(graph), Aliases()
    nodes = list(_shorten(graph.nodes, constants, aliases))
    results = [aliases.now(value.id) for value in graph.outputs]
    nodes = fold_batch_norms(_living(nodes, results), results, constants, aliases)
    results = [aliases.now(i) for i in results]
    nodes = fold_into_biases(nodes, results, constants, aliases)
    outputs = [constants.values[aliases.now(i)] for i in results]
    used = {i for node in nodes for i in node.input_ids} | {value.id for value in outputs}
    return Graph(
        inputs=list(graph.inputs),
        outputs=outputs,
        nodes=nodes,
        constants={key: tensor for key, tensor in constants.tensors.items() if key in used},
        values=constants.values,
        calls=[_remap(call, aliases) for call in graph.calls],
        dependent=constants.dependent,
    )


def _remap(call: Call, aliases: Aliases) -> Call:
    inputs, outputs = (tuple(aliases.now(i) for i in ids) for ids in (call.inputs, call.outputs))
    return replace(call, inputs=inputs, outputs=outputs)


def _shorten(nodes: Iterable[Node], constants: Constants, aliases: Aliases) -> Iterable[Node]:
    """Without constants, copies, sums with zero, and reshapes of reshapes."""
    values = constants.values
    reshaped: dict[int, int] = {}  # result of a reshape -> what was reshaped
    for node in nodes:
        kwargs = {name: map_refs(arg, aliases.names) for name, arg in node.kwargs.items()}
        node = replace(node, args=map_refs(node.args, aliases.names), kwargs=kwargs)
        summand = _other_than_zero(node, constants)
        if summand is not None:
            aliases.replace(node.outputs[0].id, summand)
            continue
        if constants.absorb(node):
            continue
        if _is_noop(node, values):
            aliases.replace(node.outputs[0].id, node.input_ids[0])
            continue
        if node.op in RESHAPES:
            source, shape = node.input_ids[0], node.outputs[0].shape
            source = reshaped.get(source, source)
            if values[source].shape == shape:
                aliases.replace(node.outputs[0].id, source)
                continue
            reshaped[node.outputs[0].id] = source
            node = Node("view", (Ref(source), shape), {}, node.outputs, node.call)
        yield node


def _other_than_zero(node: Node, constants: Constants) -> int | None:
    """What is added to zero: the number that Python's sum begins with, or an operator that was chosen to be none."""
    if node.op not in ("add.Tensor", "sub.Tensor"):
        return None
    first, second = node.args[:2]
    if _is_zero(second, constants):
        kept = first
    elif _is_zero(first, constants) and node.op == "add.Tensor" and node.kwargs.get("alpha", 1) == 1:
        kept = second
    else:
        return None
    if not isinstance(kept, Ref):
        return None
    before, after = constants.values[kept.id], node.outputs[0]
    return kept.id if (before.shape, before.dtype) == (after.shape, after.dtype) else None


def _is_zero(summand: object, constants: Constants) -> bool:
    if isinstance(summand, Ref):
        return summand.id in constants.zeros
    return isinstance(summand, int | float) and summand == 0


def _is_noop(node: Node, values: Mapping[int, Value]) -> bool:
    if node.op in COPIES:
        return True
    if not node.input_ids or len(node.outputs) != 1:
        return False
    before, after = values[node.input_ids[0]], node.outputs[0]
    if before.shape != after.shape or before.dtype != after.dtype:
        return False
    if node.op in _SAME_SHAPE_IS_NOOP or node.op == "_to_copy":
        return True
    if node.op == "transpose.int":
        return bool(node.args[1] % len(after.shape) == node.args[2] % len(after.shape))
    if node.op == "permute":
        return all(dim % len(after.shape) == i for i, dim in enumerate(node.args[1]))
    return node.op == "constant_pad_nd" and not any(node.args[1])


def _living(nodes: Iterable[Node], outputs: Iterable[int]) -> list[Node]:
    """Those that an output depends on."""
    needed = set(outputs)
    kept = []
    for node in reversed(list(nodes)):
        if any(value.id in needed for value in node.outputs):
            needed.update(node.input_ids)
            kept.append(node)
    return kept[::-1]
