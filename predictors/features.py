"""What is known of a space's architectures before any of them is measured: rows for the regressors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..profiler.additive import AdditiveModel, CostTerm
from ..spaces.description import INPUT, Node, SpaceDescription
from ..spaces.evaluation import liveness, occurrences, usage
from ..spaces.space import SearchSpace
from .graph_features import GraphFeatures
from .graphs import GraphLayout, SpaceGraphs
from .operators import OperatorLayout, OperatorRows
from .regressors.base import TABLE, Arrays, Meta, Rows, nested, part
from .threads import shared_out
from .transfer_sources import SourceCodes, SourceRows, Sources, pruned
from .workload_costs import WorkloadCosts

CHUNK = 8192
LISTED = 50_000
"""Combinations of candidates up to which equal rows are worked out once."""
SAMPLE = 512
"""Architectures on which it is tried whether operators can be dead."""
STAGES = 8
"""Resolutions that are told apart at most."""


class SpaceFeatures:
    """Architectures of one space as rows.

    Categorical columns are the decisions, and, where a choice can make other operators dead, the decisions once more
    with none where the operator is dead: which of these a runtime drops, the data decide. Numbers (`raw:` of all
    operators, `live:` of those that act on the output): how many operators of each kind; MACs, parameters and
    activation bytes; the longest path; the same for each resolution ("stage"); what is left under each hypothesis of
    what a runtime does (see `hypotheses`), as a block each; what other devices take; and what a table predicts.

    Args:
        space: whose architectures. costs: of its workloads. table: a latency table's sums for it.

    Attributes:
        sources: what other devices take; None: no column says so (see `learn`).
    """

    def __init__(self, space: SearchSpace, costs: WorkloadCosts, table: AdditiveModel | None = None) -> None:
        self.space = space
        self.costs = costs
        self.table = table
        self.sources: Sources | None = None

    @classmethod
    def of(cls, space: SearchSpace, table: AdditiveModel | None = None) -> SpaceFeatures:
        """With costs counted now."""
        return cls(space, WorkloadCosts.of(space), table)

    def rows(self, codes: np.ndarray) -> Rows:
        """Rows of (N, decisions) canonical codes.

        Raises:
            SpaceError: an architecture combines shapes that discovery did not meet.
        """
        codes = np.asarray(codes)
        graphs, operators = SpaceGraphs(self._graph_layout, codes), OperatorRows(self._operators, codes)
        rows = replace(self._bare(codes), graphs=graphs, operators=operators)
        if self.sources is not None:
            rows = self.sources.added(rows, self._pruned(codes))
        return rows if self.table is None else rows.with_numeric(TABLE, self.table.predict(codes))

    def learn(self, sources: Sequence[SourceCodes]) -> None:
        """What other devices take; from now on it is in the rows, if there are any.

        Raises:
            PredictorError: a source cannot be learned from.
        """
        found = []
        for own in sources:
            alive = self.alive(own.codes)
            found.append(SourceRows(own.name, self._bare(own.codes[alive]), own.latency[alive]))
        self.sources = Sources.learned(found) if found else None

    def alive(self, codes: np.ndarray) -> NDArray[np.bool_]:
        """(N,) whether a network's output depends on its input at all."""
        description = self.space.description
        outputs = [v for v in description.outputs if v != INPUT]
        if not outputs or not self._deadly:
            return np.ones(len(codes), bool)
        return np.asarray(self._live_nodes(np.asarray(codes))[:, outputs].any(axis=1))

    @cached_property
    def graphs(self) -> GraphFeatures:
        """What different runtimes may make of the networks."""
        return GraphFeatures(self.space)

    def state(self) -> tuple[Meta, Arrays]:
        """What `from_state` needs besides the space."""
        arrays: Arrays = {"macs": self.costs.macs, "params": self.costs.params, "bytes": self.costs.bytes}
        own, learned = nested({} if self.sources is None else {"sources": self.sources.state()})
        meta: Meta = {"table": None, "sources": None, **own}
        arrays |= learned
        if self.table is None:
            return meta, arrays
        terms = []
        for i, term in enumerate(self.table.cost_terms):
            arrays[f"term {i}"] = term.costs
            terms.append({"decisions": list(term.decisions), "classes": term.classes})
        return {**meta, "table": {"constant": self.table.constant, "terms": terms}}, arrays

    @classmethod
    def from_state(cls, space: SearchSpace, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> SpaceFeatures:
        """The inverse of `state`; raises KeyError, TypeError or ValueError for damaged data."""
        costs = WorkloadCosts(*(arrays[name].astype(float) for name in ("macs", "params", "bytes")))
        if {len(costs.macs), len(costs.params), len(costs.bytes)} not in ({0}, {len(space.workloads())}):
            raise ValueError("the costs do not fit the space's workloads")
        self = cls(space, costs, _read_table(space, meta["table"], arrays))
        if meta.get("sources") is not None:  # files of before lack it
            self.sources = Sources.from_state(*part("sources", meta, arrays))
        return self

    # -- inside

    @cached_property
    def _graph_layout(self) -> GraphLayout:
        return GraphLayout(self.space.description)

    @cached_property
    def _operators(self) -> OperatorLayout:
        return OperatorLayout(self.space)

    def _bare(self, codes: np.ndarray) -> Rows:
        """Rows without what sources and the table say."""
        blocks, back = self._distinct(codes)
        parts = shared_out(self._block, [blocks[i : i + CHUNK] for i in range(0, max(len(blocks), 1), CHUNK)])
        choices, numeric = (np.concatenate(own) for own in zip(*parts, strict=True))
        if back is not None:
            choices, numeric = choices[back], numeric[back]
        decisions = self.space.decisions
        labels = tuple(d.label for d in decisions)
        sizes = tuple(len(d) for d in decisions)
        if self._deadly:
            labels, sizes = (*labels, *(f"live {label}" for label in labels)), 2 * sizes
        hypotheses = self.graphs.blocks(len(self._names) - len(self.graphs.names), live=self._deadly)
        return Rows(choices, sizes, numeric, self._names, labels, blocks=hypotheses)

    def _pruned(self, codes: np.ndarray) -> Rows | None:
        """Bare rows of what is left of the architectures; None where nothing can be taken out."""
        if not self._deadly:
            return None
        left = pruned(self.space.description, codes, self._live_nodes(codes))
        return None if left is None else self._bare(self.space.encoding.canonical(left))

    def _distinct(self, codes: np.ndarray) -> tuple[np.ndarray, NDArray[np.intp] | None]:
        """Different rows, and which of them each row is; None where it is not worth looking."""
        sizes = [len(d) + 1 for d in self.space.decisions]
        if not sizes or np.prod(sizes, dtype=float) > LISTED or len(codes) < 2:
            return codes, None
        _, first, back = np.unique(
            np.ravel_multi_index(tuple(codes.T + 1), sizes), return_index=True, return_inverse=True
        )
        return codes[first], back

    def _block(self, codes: np.ndarray) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
        """Choices and numbers of some rows, the table's column left out."""
        description = self.space.description
        raw = usage(description, codes, live=False)
        counts = [occurrences(raw, len(description.workloads))]
        choices, path = codes.astype(np.int16), raw
        if self._deadly:
            live = self._live_nodes(codes)
            path = np.where(live, raw, -1)
            counts.append(occurrences(path, len(description.workloads)))
            choices = np.concatenate([choices, self._live_choices(codes, live)], axis=1)
        sums = [own @ self._weights for own in counts]
        depth = _longest(description, codes, path >= 0)
        return choices, np.concatenate([*sums, depth[:, None], self.graphs.matrix(codes)], axis=1)

    def _live_nodes(self, codes: np.ndarray) -> NDArray[np.bool_]:
        description = self.space.description
        return np.concatenate(
            [liveness(description, codes[i : i + CHUNK]) for i in range(0, max(len(codes), 1), CHUNK)]
        )

    def _live_choices(self, codes: np.ndarray, live: NDArray[np.bool_]) -> NDArray[np.int16]:
        """Codes with -1 where no operator of the decision is live."""
        found = np.full(codes.shape, -1, np.int16)
        for d, own in enumerate(self.space.description.nodes_of):
            at = live[:, own].any(axis=1)
            found[at, d] = codes[at, d]
        return found

    @cached_property
    def _deadly(self) -> bool:
        """Whether some architectures have operators that do not act on their output."""
        space = self.space
        codes = space.encoding.sample(SAMPLE, np.random.default_rng(0))
        called = usage(space.description, codes, live=False) >= 0
        return bool((called & ~liveness(space.description, codes)).any())

    @cached_property
    def _groups(self) -> dict[str, NDArray[np.bool_]]:
        """Workloads by the resolution of what they give: none where all have the same or where there are too many."""
        workloads = self.space.workloads()
        shapes = [tuple(w.info.get("out", ()))[1:] for w in workloads]
        distinct = list(dict.fromkeys(shapes))
        if not 1 < len(distinct) <= STAGES:
            return {}
        return {"x".join(map(str, s)) or "1": np.array([own == s for own in shapes]) for s in distinct}

    @cached_property
    def _columns(self) -> dict[str, NDArray[np.float64]]:
        """Name of each sum over operators -> what each workload adds to it."""
        workloads = self.space.workloads()
        ops = dict.fromkeys(w.op for w in workloads if not w.fixed)
        columns = {f"{op}": np.array([float(w.op == op) for w in workloads]) for op in ops}
        whole = {"operators": np.ones(len(workloads))}
        if len(self.costs.macs):
            whole |= {"macs": self.costs.macs, "params": self.costs.params, "bytes": self.costs.bytes}
        columns |= whole
        for stage, mask in self._groups.items():
            columns |= {f"{name} at {stage}": values * mask for name, values in whole.items()}
        return columns

    @cached_property
    def _weights(self) -> NDArray[np.float64]:
        """(workloads, sums)"""
        return np.column_stack(list(self._columns.values()))

    @cached_property
    def _names(self) -> tuple[str, ...]:
        kinds = ("raw", "live") if self._deadly else ("raw",)
        return (*(f"{kind}: {name}" for kind in kinds for name in self._columns), "depth", *self.graphs.names)


def _longest(description: SpaceDescription, codes: np.ndarray, works: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(N,) operators on the longest path to an output.

    Args:
        works: (N, nodes) where a node has an operator that counts.
    """
    depth = np.zeros((len(description.nodes) + 1, len(codes)))  # the last one is the input
    for v, node in enumerate(description.nodes):
        depth[v] = works[:, v]
        for sources, at in _by_sources(node, codes):
            if sources:
                longest = depth[list(sources)].max(axis=0)
                depth[v] += longest if at is None else np.where(at, longest, 0)
    return np.asarray(depth[list(description.outputs)].max(axis=0))


def _by_sources(node: Node, codes: np.ndarray) -> list[tuple[tuple[int, ...], NDArray[np.bool_] | None]]:
    """Each set of nodes that a node may read, and in which rows it does; None for all of them."""
    distinct = list(dict.fromkeys(node.data))
    if node.decision is None or len(distinct) == 1:
        return [(distinct[0], None)]
    own = codes[:, node.decision]
    return [(s, np.isin(own, [j for j, data in enumerate(node.data) if data == s])) for s in distinct]


def _read_table(space: SearchSpace, meta: Any, arrays: Mapping[str, np.ndarray]) -> AdditiveModel | None:
    if meta is None:
        return None
    terms = []
    for i, term in enumerate(meta["terms"]):
        decisions, classes = tuple(int(d) for d in term["decisions"]), term["classes"]
        costs = arrays[f"term {i}"].astype(float)
        sizes = [len(space.decisions[d]) for d in decisions]
        if classes is not None:
            classes = tuple(tuple(int(c) for c in own) for own in classes)
            if [len(own) for own in classes] != sizes or any(min(own) < 0 for own in classes):
                raise ValueError("the table's classes do not fit the space")
            sizes = [max(own) + 1 for own in classes]
        if costs.shape != tuple(sizes) or not np.isfinite(costs).all() or min(decisions) < 0:
            raise ValueError("the table's costs do not fit the space")
        terms.append(CostTerm(decisions, costs, classes))
    return AdditiveModel(space.encoding, terms, float(meta["constant"]))
