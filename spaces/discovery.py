"""Discovery: run a supernet on tensors without data and learn what every candidate sees and who feeds whom.

Each run fixes one candidate per choice; every candidate of a choice that is reached is traced on the inputs it really
sees. Where a candidate's output differs in shape, a further run follows it downstream, so that each reachable shape is
met; then the architectures are searched for combinations of shapes that no run has shown.
"""

from __future__ import annotations

import copy
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from .coverage import undiscovered
from .description import SpaceDescription, SpaceError
from .failures import first_line, locate_failure
from .flow import Flow
from .learned import Learned, Run, as_nodes
from .observation import Observation, Reach, called_modules, observe
from .structure import Structure, read_structure
from .visit import Overrides, Visit
from .workloads import WorkloadRegistry

MAX_RUNS = 512
"""Runs of the supernet after which its shapes are declared too entangled."""


def discover(make: Callable[[], nn.Module], inputs: Sequence[Tensor]) -> SpaceDescription:
    """Describe the search space of a supernet.

    Args:
        make: builds the supernet.
        inputs: example inputs with batch, on the CPU.

    Raises:
        SpaceError: it holds no choice, cannot run, or its candidates' shapes do not fit what follows.
    """
    try:
        with torch.device("meta"):  # also for what a forward makes
            return Discovery(_without_data(make), [t.to("meta") for t in inputs]).run()
    except Exception:
        # Constructors with numpy buffers and forwards that look at values need real tensors. Foreign code may raise
        # anything here, and the real run tells best what is wrong.
        return Discovery(make(), inputs).run()


def _without_data(make: Callable[[], nn.Module]) -> nn.Module:
    supernet = make()
    if all(t.is_meta for t in (*supernet.parameters(), *supernet.buffers())):
        return supernet
    # what was not made just now may be somebody's: a copy leaves its weights alone
    return copy.deepcopy(supernet).to("meta")


class Discovery:
    """The worklist over runs of one supernet."""

    def __init__(self, supernet: nn.Module, inputs: Sequence[Tensor]) -> None:
        self.supernet = supernet
        self.inputs = list(inputs)
        self.structure = read_structure(supernet)
        self.numbers: dict[tuple[str, Reach, int], int] = {}
        self.nodes: list[Learned] = []
        self.outputs: set[int] = set()
        self.workloads = WorkloadRegistry()
        self.queue: deque[tuple[Overrides, str]] = deque()
        self.queued: set[tuple[tuple[int, int], ...]] = set()
        self.runs: list[Run] = []

    def run(self, structure: Structure | None = None) -> SpaceDescription:
        """Make all the runs it takes; `structure` where it is known already."""
        self.structure = structure or self._read()
        self._plan({}, "")
        while True:
            while self.queue:
                self._explore(*self.queue.popleft())
            unstable = self._unstable()
            if unstable:
                return self._without(unstable)
            description = self._describe()
            for row in undiscovered(description):
                self._plan(dict(enumerate(row.tolist())), "")
            if not self.queue:
                return description

    def _unstable(self) -> set[str]:
        """Fixed modules that are called more often in some runs than in others: which call is which, nobody knows."""
        several = {node.path for node in self.nodes if node.decision is None and node.index}
        return {
            node.path
            for v, node in enumerate(self.nodes)
            if node.path in several
            and any(v not in states and node.candidate(chosen) is not None for chosen, states in self.runs)
        }

    def _without(self, unstable: set[str]) -> SpaceDescription:
        """Start again, seeing through these modules: what they cost counts as part of the rest of the network."""
        again = Discovery(self.supernet, self.inputs)
        kept = {path: module for path, module in self.structure.fixed.items() if path not in unstable}
        return again.run(replace(self.structure, fixed=kept))

    def _read(self) -> Structure:
        chosen = self.structure.selection({})
        with self._explained("", chosen):
            called = called_modules(self.supernet, self.inputs, chosen)
        return read_structure(self.supernet, called)

    def _plan(self, overrides: Overrides, reason: str) -> None:
        """Plan a run, unless it was planned before."""
        changed = {d: c for d, c in sorted(overrides.items()) if c}
        key = tuple(changed.items())
        if key in self.queued:
            return
        if len(self.queued) >= MAX_RUNS:
            raise SpaceError(
                f"the shapes in this space depend on each other in more than {MAX_RUNS} combinations of choices; "
                "let candidates agree in their output shapes, or split the space"
            )
        self.queued.add(key)
        self.queue.append((changed, reason))

    def _explore(self, overrides: Overrides, reason: str) -> None:
        reason = reason or self._named(overrides)
        chosen = self.structure.selection(overrides)
        with self._explained(reason, chosen):
            seen = observe(self.supernet, self.structure, self.inputs, chosen)
        flow = Flow(seen.graph, self._identify(seen))
        visit = Visit(seen, flow, self.nodes, self.workloads, self._plan, overrides, reason)
        for at, v in flow.order:
            visit.learn(v, seen.graph.calls[at])
        self.runs.append(({d: overrides.get(d, 0) for d in range(len(self.structure.decisions))}, visit.states))
        self.outputs |= {u for value in seen.graph.outputs for u in flow.data[value.id]}

    def _named(self, overrides: Overrides) -> str:
        decisions = self.structure.decisions
        changed = [f"{decisions[d].label!r} = {decisions[d].candidates[c]!r}" for d, c in overrides.items()]
        return f"with choice {', '.join(changed)}" if changed else ""

    @contextmanager
    def _explained(self, reason: str, chosen: Mapping[nn.Module, int]) -> Iterator[None]:
        """Turn what a run raises into a SpaceError that says which module failed."""
        try:
            yield
        except Exception as error:  # the user's forward may raise anything
            where = locate_failure(self.supernet, self.inputs, chosen)
            raise SpaceError(f"{reason or 'the supernet cannot run'}; {where}: {first_line(error)}") from error

    def _identify(self, seen: Observation) -> dict[int, int]:
        """Position of each watched call -> number of its node, the same in every run; parts of a leaf are none."""
        numbers: dict[int, int] = {}
        counts: Counter[tuple[str, Reach]] = Counter()
        for at, call in enumerate(seen.graph.calls):
            if seen.is_inside_leaf(call):
                continue
            reach = seen.reach(call)
            index = counts[call.path, reach]
            counts[call.path, reach] += 1
            numbers[at] = self.numbers.setdefault((call.path, reach, index), len(self.numbers))
            if numbers[at] == len(self.nodes):
                self.nodes.append(Learned.blank(call.path, reach, index, self.structure))
        return numbers

    def _describe(self) -> SpaceDescription:
        workloads, renumbered = self.workloads.ordered()
        nodes, outputs = as_nodes(self.nodes, self.runs, self.outputs, renumbered)
        batch = int(self.inputs[0].shape[0]) if self.inputs and self.inputs[0].ndim else 1
        return SpaceDescription(self.structure.decisions, workloads, nodes, outputs, batch)
