"""What a built network really computes, found out without the description: by tracing the plain network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..spaces.architecture import Architecture
from ..spaces.assembly import replace_choices
from ..spaces.calls import Invocation
from ..spaces.choices import LayerChoice
from ..spaces.graph import Graph
from ..spaces.space import SearchSpace
from ..spaces.structure import holds_choice, read_structure
from ..spaces.tracer import trace


def called_workloads(space: SearchSpace, architecture: Architecture, *, live: bool) -> Counter[str]:
    """Digests of the candidates and fixed modules that the network calls (and that do something in it).

    A module does something where one of its operators depends on the network's input and the output depends on it.
    """
    supernet, inputs = space.supernet(), space.inputs()
    supernet, inputs = supernet.to("meta"), [t.to("meta") for t in inputs]
    codes = space.encode([architecture])[0].tolist()
    structure = read_structure(supernet)
    chosen = structure.selection({d: c for d, c in enumerate(codes) if c >= 0})
    fixed = {supernet.get_submodule(node.path) for node in space.description.nodes if node.decision is None}
    candidates = {c[name] for c in structure.choices.values() if isinstance(c, LayerChoice) for name in c.names}
    leaves = {module for module in candidates if not holds_choice(module)}
    network = replace_choices(supernet, chosen, copied=False)
    watch = {path: module for path, module in network.named_modules() if module in leaves | fixed}
    calls: list[tuple[nn.Module, Invocation]] = []
    order: dict[tuple[str, int], int] = {}
    hooks = [
        module.register_forward_pre_hook(_noting(path, calls, order), with_kwargs=True)
        for path, module in watch.items()
    ]
    try:
        with torch.device("meta"):  # also for what a forward makes
            graph = trace(network, inputs, watch=watch)
    finally:
        for hook in hooks:
            hook.remove()
    working = _working_calls(graph) if live else set(range(len(graph.calls)))
    found: Counter[str] = Counter()
    for at, call in enumerate(graph.calls):
        if at in working and call.parent is None:
            module, invocation = calls[order[call.path, call.index]]
            alone = trace(invocation.bind(module), invocation.tensors).simplified()
            found.update([alone.digest()] if alone.nodes else [])
    return found


def _noting(path: str, calls: list[Any], order: dict[tuple[str, int], int]) -> Any:
    def note(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        index = sum(known == path for known, _ in order)
        order[path, index] = len(calls)
        calls.append((module, Invocation(args, kwargs)))

    return note


def _working_calls(graph: Graph) -> set[int]:
    needed = {value.id for value in graph.outputs}
    fed = graph.dependent_ids()
    working: set[int] = set()
    for node in reversed(graph.nodes):
        if any(out.id in needed for out in node.outputs):
            needed.update(node.data_ids)
            at = node.call if any(out.id in fed for out in node.outputs) else None
            while at is not None:
                working.add(at)
                at = graph.calls[at].parent
    return working


def digests(space: SearchSpace, numbers: Sequence[int]) -> Counter[str]:
    """Digests of workloads by their numbers, -1 left out."""
    workloads = space.workloads()
    return Counter(workloads[i].digest for i in numbers if i >= 0)
