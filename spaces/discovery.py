"""Discovery: run a supernet on tensors without data and learn what every candidate sees and who feeds whom.

Each run fixes one candidate per choice; every candidate of a choice that is reached is traced on the inputs it really
sees. Where a candidate's output differs in shape, a further run follows it downstream, so that each reachable shape is
met; where several such paths meet, every combination of their shapes is run.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .calls import Invocation, WorkloadRegistry, signature
from .choices import ChosenInputs, InputChoice, LayerChoice, active, reduce_inputs
from .description import INPUT, Node, SpaceDescription, SpaceError
from .failures import first_line, locate_failure
from .flow import Flow, input_positions
from .graph import Call, Graph
from .structure import read_structure
from .tracer import trace

MAX_RUNS = 512
"""Runs of the supernet after which its shapes are declared too entangled."""

Reach = tuple[tuple[int, int], ...]
Overrides = Mapping[int, int]
"""decision -> candidate; the others use their first."""


def discover(make: Callable[[], nn.Module], inputs: Sequence[Tensor]) -> SpaceDescription:
    """Describe the search space of a supernet.

    Args:
        make: builds the supernet.
        inputs: example inputs with batch, on the CPU.

    Raises:
        SpaceError: it holds no choice, cannot run, or its candidates' shapes do not fit what follows.
    """
    try:
        with torch.device("meta"):
            supernet = make().to("meta")
        return Discovery(supernet, [t.to("meta") for t in inputs]).run()
    except Exception:
        # Constructors with numpy buffers and forwards that look at values need real tensors. Foreign code may raise
        # anything here, and the real run tells best what is wrong.
        return Discovery(make(), inputs).run()


@dataclass
class _Learned:
    """What is known of one node; lists are per candidate.

    `leaves` holds None for a candidate with choices of its own. `transitions`: states of all nodes in a run, own input
    state, own output state. `realised`: output state -> a run that shows it downstream.
    """

    decision: int | None
    leaves: list[nn.Module | None]
    data: list[set[int]]
    shape: list[set[int]]
    transitions: list[list[tuple[Mapping[int, int], int, int]]]
    workloads: list[dict[int, int | None]]
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    realised: dict[int, Overrides] = field(default_factory=dict)
    entered: set[tuple[int, int]] = field(default_factory=set)
    traced: dict[int, list[tuple[int, tuple[int, ...]]]] = field(default_factory=dict)


class _Run:
    """The context of one run: a fixed selection; every output gets an identity of its own in the trace."""

    def __init__(self, chosen: Mapping[nn.Module, int]) -> None:
        self.chosen = chosen
        self.calls: dict[nn.Module, list[Invocation]] = {}
        self.states: dict[int, int] = {}

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


def _alias(output: Any) -> Any:
    return pytree.tree_map_only(Tensor, torch.ops.aten.alias.default, output)


class Discovery:
    """The worklist over runs of one supernet."""

    def __init__(self, supernet: nn.Module, inputs: Sequence[Tensor]) -> None:
        self.supernet = supernet.eval()
        self.inputs = list(inputs)
        self.structure = read_structure(supernet)
        self.modules: dict[str, nn.Module] = {**self.structure.choices, **self.structure.fixed}
        self.numbers: dict[tuple[str, Reach, int], int] = {}
        self.nodes: list[_Learned] = []
        self.outputs: set[int] = set()
        self.workloads = WorkloadRegistry()
        self.queue: deque[tuple[Overrides, str]] = deque([({}, "")])
        self.combined: set[Reach] = set()
        self.runs = 0

    def run(self) -> SpaceDescription:
        while self.queue:
            while self.queue:
                self._explore(*self.queue.popleft())
            self.queue.extend((overrides, "") for overrides in self._untried_combinations())
        return self._describe()

    def _explore(self, overrides: Overrides, reason: str) -> None:
        self.runs += 1
        if self.runs > MAX_RUNS:
            raise SpaceError(
                f"the shapes in this space depend on each other in more than {MAX_RUNS} combinations of choices; "
                "let candidates agree in their output shapes, or split the space"
            )
        run = _Run(self.structure.selection(overrides))
        graph = self._trace(run, reason)
        flow = Flow(graph, self._identify(graph, run))
        for at, v in flow.order:
            call = graph.calls[at]
            module = self.modules[call.path]
            invocation = run.calls[module][call.index]
            self._learn(v, call, invocation, graph, flow, run)
            self._queue_deviations(v, self.nodes[v].inputs.index(invocation.signature()), run, overrides, module)
        self.outputs |= {u for value in graph.outputs for u in flow.data[value.id]}

    def _trace(self, run: _Run, reason: str) -> Graph:
        fixed = self.structure.fixed.values()
        hooks = [module.register_forward_hook(run.fixed, with_kwargs=True) for module in fixed]
        try:
            with active(run):
                return trace(self.supernet, self.inputs, watch=self.modules)
        except SpaceError:
            raise
        except Exception as error:  # the user's forward may raise anything
            with active(_Run(run.chosen)):
                where = locate_failure(self.supernet, self.inputs)
            raise SpaceError(f"{reason or 'the supernet cannot run'}; {where}: {first_line(error)}") from error
        finally:
            for hook in hooks:
                hook.remove()

    def _identify(self, graph: Graph, run: _Run) -> dict[int, int]:
        """Position of each watched call -> number of its node, the same in every run."""
        numbers: dict[int, int] = {}
        counts: Counter[tuple[str, Reach]] = Counter()
        for at, call in enumerate(graph.calls):
            reach = self._reach(graph, call, run)
            numbers[at] = self.numbers.setdefault((call.path, reach, counts[call.path, reach]), len(self.numbers))
            counts[call.path, reach] += 1
            if numbers[at] == len(self.nodes):
                self.nodes.append(self._blank(self.modules[call.path]))
        return numbers

    def _reach(self, graph: Graph, call: Call, run: _Run) -> Reach:
        reach: set[tuple[int, int]] = set()
        while call.parent is not None:
            call = graph.calls[call.parent]
            outer = self.modules[call.path]
            if isinstance(outer, LayerChoice):
                reach.add((self.structure.decision_of[outer], run.chosen[outer]))
        return tuple(sorted(reach))

    def _blank(self, module: nn.Module) -> _Learned:
        leaves: list[nn.Module | None] = [module]
        if isinstance(module, LayerChoice):
            choices = set(self.structure.decision_of)
            leaves = [None if choices & set(module[name].modules()) else module[name] for name in module.names]
        elif isinstance(module, InputChoice):
            leaves = [ChosenInputs(subset, module.reduction) for subset in module.subsets]
        every = range(len(leaves))
        return _Learned(
            decision=self.structure.decision_of.get(module),
            leaves=leaves,
            data=[set() for _ in every],
            shape=[set() for _ in every],
            transitions=[[] for _ in every],
            workloads=[{} for _ in every],
        )

    def _learn(self, v: int, call: Call, invocation: Invocation, graph: Graph, flow: Flow, run: _Run) -> None:
        node, module = self.nodes[v], self.modules[call.path]
        chosen = run.chosen.get(module, 0)
        state = _number(node.inputs, invocation.signature())
        if state not in node.traced:
            node.traced[state] = self._trace_leaves(node, module, invocation, call.path, state)
        for j, leaf in enumerate(node.leaves):
            if leaf is not None:
                out, positions = node.traced[state][j]
                node.data[j] |= {u for p in positions for u in flow.data[call.inputs[p]]}
                node.shape[j] |= {u for value in call.inputs for u in flow.shape[value]}
            elif j == chosen:
                node.data[j] |= {u for value in call.outputs for u in flow.inner_data[value]}
                node.shape[j] |= {u for value in call.outputs for u in flow.inner_shape[value]}
                out = _number(node.outputs, signature([graph.values[i] for i in call.outputs]))
            else:
                continue
            node.transitions[j].append((run.states, state, out))
            if j == chosen:
                run.states[v] = out

    def _trace_leaves(
        self, node: _Learned, module: nn.Module, invocation: Invocation, path: str, state: int
    ) -> list[tuple[int, tuple[int, ...]]]:
        """For each candidate without inner choices: output state, and the inputs that its output depends on."""
        results: list[tuple[int, tuple[int, ...]]] = []
        for j, leaf in enumerate(node.leaves):
            if leaf is None:
                results.append((-1, ()))
                continue
            graph = self._trace_leaf(leaf, invocation, module, j)
            if not isinstance(module, InputChoice):
                where = f"{path}.{module.names[j]}" if isinstance(module, LayerChoice) else path
                fixed = node.decision is None
                node.workloads[j][state] = self.workloads.add(leaf, graph, invocation, where, fixed=fixed)
            results.append((_number(node.outputs, signature(graph.outputs)), input_positions(graph)))
        return results

    def _trace_leaf(self, leaf: nn.Module, invocation: Invocation, module: nn.Module, j: int) -> Graph:
        try:
            return trace(invocation.bind(leaf), invocation.tensors()).simplified()
        except Exception as error:  # a foreign module may raise anything
            if not isinstance(module, LayerChoice | InputChoice):
                raise
            label = self.structure.decisions[self.structure.decision_of[module]].label
            raise SpaceError(
                f"choice {label!r}: candidate {module.names[j]!r} cannot take its input "
                f"({invocation.signature()}): {first_line(error)}"
            ) from error

    def _queue_deviations(self, v: int, state: int, run: _Run, overrides: Overrides, module: nn.Module) -> None:
        """Queue runs for output shapes, and insides of candidates, that no run has shown yet."""
        node = self.nodes[v]
        here = run.states[v]
        node.realised[here] = node.realised.get(here, overrides)
        if node.decision is None:
            return
        chosen = run.chosen[module]
        node.entered.add((state, chosen))
        for j, leaf in enumerate(node.leaves):
            deviation = {**overrides, node.decision: j}
            if leaf is None and (state, j) not in node.entered:
                node.entered.add((state, j))
                self.queue.append((deviation, ""))
            elif leaf is not None and node.traced[state][j][0] not in node.realised:
                out = node.traced[state][j][0]
                node.realised[out] = deviation
                decision = self.structure.decisions[node.decision]
                reason = (
                    f"choice {decision.label!r}: candidate {decision.candidates[j]!r} returns {node.outputs[out]} where "
                    f"{decision.candidates[chosen]!r} returns {node.outputs[here]}, and what follows cannot take it"
                )
                self.queue.append((deviation, reason))

    # -- joins of several shapes

    def _untried_combinations(self) -> list[Overrides]:
        """Runs for combinations of shapes that meet in one module and that no run has shown together."""
        found: dict[Reach, Overrides] = {}
        for node in self.nodes:
            for sources, transitions in zip(node.shape, node.transitions, strict=True):
                variable = self._variable(sources)
                if len(variable) < 2:
                    continue
                met = {tuple(states.get(u, -1) for u in variable) for states, _, _ in transitions}
                options = [list(self.nodes[u].realised.items()) for u in variable]
                if math.prod(map(len, options)) > MAX_RUNS:
                    raise SpaceError(
                        f"{len(variable)} choices whose shapes vary meet in one module, in more than {MAX_RUNS} "
                        "combinations; let candidates agree in their output shapes"
                    )
                for combination in itertools.product(*options):
                    merged = _merge([overrides for _, overrides in combination])
                    if merged is not None and tuple(state for state, _ in combination) not in met:
                        found[tuple(sorted(merged.items()))] = merged
        new = {key: overrides for key, overrides in found.items() if key not in self.combined}
        self.combined |= set(new)
        return list(new.values())

    def _variable(self, sources: set[int]) -> list[int]:
        return sorted(u for u in sources if u != INPUT and len(self.nodes[u].outputs) > 1)

    # -- the result

    def _describe(self) -> SpaceDescription:
        order = _topological([{u for s in (*n.data, *n.shape) for u in s if u != INPUT} for n in self.nodes])
        place = {v: new for new, v in enumerate(order)} | {INPUT: INPUT}
        identities = {number: identity for identity, number in self.numbers.items()}
        workloads, renumbered = self.workloads.ordered()
        nodes = tuple(self._node(self.nodes[v], identities[v], place, renumbered) for v in order)
        outputs = tuple(sorted(place[u] for u in self.outputs))
        batch = int(self.inputs[0].shape[0]) if self.inputs and self.inputs[0].ndim else 1
        return SpaceDescription(self.structure.decisions, workloads, nodes, outputs, batch)

    def _node(
        self,
        node: _Learned,
        identity: tuple[str, Reach, int],
        place: Mapping[int, int],
        renumbered: Mapping[int, int],
    ) -> Node:
        variable = [self._variable(sources) for sources in node.shape]
        states = (
            tuple(sorted({(tuple(run.get(u, -1) for u in sources), a, b) for run, a, b in transitions}))
            for sources, transitions in zip(variable, node.transitions, strict=True)
        )
        numbers = range(len(node.inputs))
        used = (
            tuple(None if (w := per_state.get(s)) is None else renumbered[w] for s in numbers)
            for per_state in node.workloads
        )
        path, reach, index = identity
        return Node(
            path=path,
            index=index,
            decision=node.decision,
            reach=reach,
            data=tuple(tuple(sorted(place[u] for u in sources)) for sources in node.data),
            shape=tuple(tuple(place[u] for u in sources) for sources in variable),
            states=tuple(states),
            workloads=tuple(used),
        )


def _number(known: list[str], item: str) -> int:
    if item not in known:
        known.append(item)
    return known.index(item)


def _merge(parts: Sequence[Overrides]) -> Overrides | None:
    merged: dict[int, int] = {}
    for part in parts:
        for decision, candidate in part.items():
            if merged.setdefault(decision, candidate) != candidate:
                return None
    return merged


def _topological(sources: Sequence[set[int]]) -> list[int]:
    """Node numbers, each after its sources, otherwise in the order met."""
    order: list[int] = []
    placed: set[int] = set()
    waiting = list(range(len(sources)))
    while waiting:
        ready = [v for v in waiting if sources[v] <= placed]
        if not ready:
            raise SpaceError("modules feed each other in a circle that depends on the architecture: not supported")
        order += ready
        placed.update(ready)
        waiting = [v for v in waiting if v not in placed]
    return order
