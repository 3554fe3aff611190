"""One run of a supernet with one candidate fixed for every choice: what was called, on what, and its graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .calls import Invocation, map_tensors
from .choices import InputChoice, LayerChoice, Selection, active, reduce_inputs
from .graph import Call, Graph
from .structure import Structure, holds_choice
from .tracer import trace

Reach = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Observation:
    """One run.

    Attributes:
        structure: of the supernet.
        chosen: choice module -> candidate number.
        graph: every output of a choice or fixed module is a value of its own in it.
        calls: module -> the arguments of its calls.
    """

    structure: Structure
    chosen: Mapping[nn.Module, int]
    graph: Graph
    calls: Mapping[nn.Module, Sequence[Invocation]]

    def module(self, call: Call) -> nn.Module:
        return self.structure.watched[call.path]

    def invocation(self, call: Call) -> Invocation:
        return self.calls[self.module(call)][call.index]

    def is_inside_leaf(self, call: Call) -> bool:
        """Whether it happened in a fixed module or in a candidate without choices (which share the called module)."""
        while call.parent is not None:
            call = self.graph.calls[call.parent]
            outer = self.module(call)
            if not isinstance(outer, LayerChoice) or not holds_choice(outer[self.chosen[outer]]):
                return True
        return False

    def reach(self, call: Call) -> Reach:
        """Pairs (decision, candidate) of the choices that the call happened inside of."""
        pairs: set[tuple[int, int]] = set()
        while call.parent is not None:
            call = self.graph.calls[call.parent]
            outer = self.module(call)
            if isinstance(outer, LayerChoice):
                pairs.add((self.structure.decision_of[outer], self.chosen[outer]))
        return tuple(sorted(pairs))


def observe(
    supernet: nn.Module, structure: Structure, inputs: Sequence[Tensor], chosen: Mapping[nn.Module, int]
) -> Observation:
    """Run the supernet once; raises whatever its forward raises."""
    context = _Noting(chosen)
    with ExitStack() as stack:
        for module in structure.fixed.values():
            stack.callback(module.register_forward_hook(context.fixed, with_kwargs=True).remove)
        stack.enter_context(active(context))
        graph = trace(supernet, inputs, watch=structure.watched)
    return Observation(structure, chosen, graph, context.calls)


def called_modules(supernet: nn.Module, inputs: Sequence[Tensor], chosen: Mapping[nn.Module, int]) -> set[nn.Module]:
    """The modules that a run calls; raises whatever its forward raises."""
    called: set[nn.Module] = set()

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        called.add(module)

    with ExitStack() as stack:
        for module in supernet.modules():
            stack.callback(module.register_forward_pre_hook(note).remove)
        stack.enter_context(active(Selection(chosen)))
        trace(supernet, inputs)  # faster on the meta device than to call it
    return called


class _Noting:
    """The context of a run: every output gets an identity of its own in the trace."""

    def __init__(self, chosen: Mapping[nn.Module, int]) -> None:
        self.chosen = chosen
        self.calls: dict[nn.Module, list[Invocation]] = {}

    def layer(self, choice: LayerChoice, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._note(choice, args, kwargs)
        return _alias(choice[self.chosen[choice]](*args, **kwargs))

    def inputs(self, choice: InputChoice, tensors: Sequence[Tensor]) -> Any:
        self._note(choice, (list(tensors),), {})
        return _alias(reduce_inputs([tensors[i] for i in choice.subsets[self.chosen[choice]]], choice.reduction))

    def fixed(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        self._note(module, args, kwargs)
        return _alias(output)

    def _note(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.calls.setdefault(module, []).append(Invocation(args, kwargs))


_alias = partial(map_tensors, torch.ops.aten.alias.default)
