"""What one run of a supernet teaches about its nodes, and which further runs it asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import nn

from .calls import Invocation, signature
from .choices import InputChoice, LayerChoice
from .description import INPUT, SpaceError
from .failures import first_line
from .flow import Flow, input_positions
from .graph import Call, Graph
from .learned import Learned, Traced, number
from .observation import Observation
from .opaque import opaque_graph
from .tracer import Untraceable, trace
from .workloads import WorkloadRegistry

Overrides = Mapping[int, int]
"""decision -> candidate; the others use their first."""
Plan = Callable[[Overrides, str], None]
"""Asks for a run: its overrides, and why it may fail."""


class Visit:
    """Learns from one observation, node by node.

    Args:
        overrides: with which the run was made.
        reason: what to say where a candidate cannot take what it is given in this run.

    Attributes:
        states: node -> state of its output.
    """

    def __init__(
        self,
        seen: Observation,
        flow: Flow,
        nodes: Sequence[Learned],
        workloads: WorkloadRegistry,
        plan: Plan,
        overrides: Overrides,
        reason: str,
    ) -> None:
        self.seen = seen
        self.flow = flow
        self.nodes = nodes
        self.workloads = workloads
        self.plan = plan
        self.overrides = overrides
        self.reason = reason
        self.states: dict[int, int] = {}
        self._sensitive: dict[int, frozenset[tuple[int, int]]] = {}

    def learn(self, v: int, call: Call) -> None:
        """Learn from the call that is node `v`; nodes that feed it come first."""
        node, module = self.nodes[v], self.seen.module(call)
        chosen = self.seen.chosen.get(module, 0)
        invocation = self.seen.invocation(call)
        state = number(node.inputs, _readable_signature(invocation))
        sensitive = self._sensitivity(u for value in call.inputs for u in self.flow.shape[value])
        outputs: dict[int, int] = {}
        for j, leaf in enumerate(node.leaves):
            node.shape[j] |= {u for value in call.inputs for u in self.flow.shape[value]}
            if node.decision is None or (leaf is None and j == chosen):
                outputs[j] = self._learn_from_run(node, j, call)
            elif leaf is not None and (j == chosen or (node.decision, j) not in sensitive):
                outputs[j] = self._learn_alone(node, j, state, leaf, call)
            if j in outputs:
                node.transitions[j].append((self.states, state, outputs[j]))
        if node.decision is None:
            self._add_fixed(node, module, state, invocation)
        self.states[v] = outputs[chosen]
        self._sensitive[v] = self._output_sensitivity(node, call, chosen, sensitive, outputs)
        self._plan_deviations(node, state, chosen, outputs)

    # -- sources and outputs

    def _learn_from_run(self, node: Learned, j: int, call: Call) -> int:
        node.data[j] |= {u for value in call.outputs for u in self.flow.inner_data[value]}
        node.shape[j] |= {u for value in call.outputs for u in self.flow.inner_shape[value]}
        return number(node.outputs, signature([self.seen.graph.values[i] for i in call.outputs]))

    def _learn_alone(self, node: Learned, j: int, state: int, leaf: nn.Module, call: Call) -> int:
        """Trace a candidate without inner choices on what it would see."""
        invocation = self.seen.invocation(call)
        if (state, j) not in node.traced:
            module = self.seen.module(call)
            graph = self._trace(leaf, invocation, module, j)
            if isinstance(module, LayerChoice):
                where = f"{node.path}.{module.child_names[j]}".removeprefix(".")
                node.workloads[j][state] = self.workloads.add(leaf, graph, invocation, where, fixed=False)
            output = number(node.outputs, signature(graph.outputs))
            node.traced[state, j] = Traced(output, input_positions(graph))
        known = node.traced[state, j]
        sources = [call.inputs[invocation.sources[p]] for p in known.positions]
        node.data[j] |= {u for value in sources for u in self.flow.data[value]}
        return known.output

    def _add_fixed(self, node: Learned, module: nn.Module, state: int, invocation: Invocation) -> None:
        if state in node.workloads[0]:
            return
        try:
            graph = trace(invocation.bind(module), invocation.tensors).simplified()
            node.workloads[0][state] = self.workloads.add(module, graph, invocation, node.path, fixed=True)
        except Exception:  # what cannot be called by itself cannot be timed by itself; networks hold it all the same
            node.workloads[0][state] = None

    def _trace(self, leaf: nn.Module, invocation: Invocation, module: nn.Module, j: int) -> Graph:
        bound = invocation.bind(leaf)
        try:
            try:
                return trace(bound, invocation.tensors).simplified()
            except Untraceable:  # it may run all the same; whether it can be lowered is found out when it is
                return opaque_graph(bound, invocation.tensors)
        except Exception as error:  # a foreign module may raise anything
            assert isinstance(module, LayerChoice | InputChoice)
            label = self.seen.structure.decisions[self.seen.structure.decision_of[module]].label
            raise SpaceError(
                f"{self.reason and self.reason + '; '}choice {label!r}: candidate {module.names[j]!r} cannot take its "
                f"input ({signature(invocation.tensors)}): {first_line(error)}"
            ) from error

    # -- which other candidates would change the shapes here

    def _sensitivity(self, sources: Iterable[int]) -> frozenset[tuple[int, int]]:
        return frozenset().union(*(self._sensitive[u] for u in set(sources) if u != INPUT))

    def _output_sensitivity(
        self,
        node: Learned,
        call: Call,
        chosen: int,
        sensitive: frozenset[tuple[int, int]],
        outputs: Mapping[int, int],
    ) -> frozenset[tuple[int, int]]:
        """(decision, candidate) pairs whose choice instead might change the shape of the output."""
        inner = self._sensitivity(u for value in call.outputs for u in self.flow.inner_shape[value])
        if node.decision is None:
            return sensitive | inner
        others = {j for j in range(len(node.leaves)) if outputs.get(j) != outputs[chosen]}
        return sensitive | inner | {(node.decision, j) for j in others}

    # -- further runs

    def _plan_deviations(self, node: Learned, state: int, chosen: int, outputs: Mapping[int, int]) -> None:
        """Ask for runs that show output shapes, and candidates in places, which no run has shown yet."""
        node.realised.add(outputs[chosen])
        node.entered.add((state, chosen))
        if node.decision is None:
            return
        for j in range(len(node.leaves)):
            deviation = {**self.overrides, node.decision: j}
            if j in outputs and outputs[j] not in node.realised:
                node.realised.add(outputs[j])
                self.plan(deviation, self._why(node, j, chosen, outputs))
            elif j not in outputs and (state, j) not in node.entered:
                node.entered.add((state, j))
                self.plan(deviation, "")

    def _why(self, node: Learned, j: int, chosen: int, outputs: Mapping[int, int]) -> str:
        assert node.decision is not None
        decision = self.seen.structure.decisions[node.decision]
        return (
            f"choice {decision.label!r}: candidate {decision.candidates[j]!r} returns {node.outputs[outputs[j]]} where "
            f"{decision.candidates[chosen]!r} returns {node.outputs[outputs[chosen]]}, and what follows cannot take it"
        )


def _readable_signature(invocation: Invocation) -> str:
    try:
        return invocation.signature
    except SpaceError:  # what is neither tensor nor plain data counts by its type
        return signature(invocation.tensors)
