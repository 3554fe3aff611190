"""Which workloads an architecture uses: evaluated for many architectures at once, and as small dense terms.

A latency that is a sum over workloads is a sum of *terms*: arrays over the candidates of a few decisions each. That
makes prediction a lookup and the expectation under independent choice probabilities an exact multilinear form, with
nesting, ties, changing shapes and dead operators all accounted for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .dependence import Dependence
from .description import SpaceDescription, SpaceError
from .evaluation import Evaluation, check_seen, liveness, product, usage
from .glue import GLUE, Join, joins, twins, without_repeats

__all__ = ["Term", "liveness", "terms", "usage"]

TERM_LIMIT = 2_000_000
"""Entries one term may have before it is too large to hold."""
MERGE_LIMIT = 50_000
"""Entries up to which a term takes in those that depend on no other decisions."""
EXPAND_LIMIT = 50_000
"""Entries up to which a term has one for each candidate in any case: looking up classes would take longer."""


@dataclass(frozen=True)
class Term:
    """The nodes whose workload depends on the same decisions.

    Attributes:
        decisions: which ones, ascending.
        sizes: the candidates of each; where `classes` is given, the classes of each.
        workloads: (nodes, product of sizes) number of the workload each node uses, -1 for none.
        classes: for each decision the class of every candidate; candidates of one class act alike in this term.
    """

    decisions: tuple[int, ...]
    sizes: tuple[int, ...]
    workloads: NDArray[np.int32]
    classes: tuple[tuple[int, ...], ...] | None = None

    def index(self, codes: np.ndarray) -> NDArray[np.intp]:
        """(N,) entry of each architecture (N, decisions)."""
        columns = [np.maximum(codes[:, d], 0) for d in self.decisions]
        if self.classes is not None:
            columns = [np.array(own)[column] for own, column in zip(self.classes, columns, strict=True)]
        return np.ravel_multi_index(tuple(columns), self.sizes) if columns else np.zeros(len(codes), np.intp)


def terms(description: SpaceDescription, *, live: bool, classes: bool = False, glue: bool = False) -> list[Term]:
    """The space's nodes grouped by the decisions that their workload depends on.

    Args:
        live: as for `usage`.
        classes: where a term has more than `EXPAND_LIMIT` entries with one for each candidate, let it have one for
            each class of candidates that act alike in it; smaller ones have one for each candidate all the same.
        glue: with `live`, also what lies between the operators (see `spaces.glue`), as far as terms can hold it.

    Raises:
        SpaceError: a node depends on more combinations than can be held.
    """
    dependence = Dependence(description)
    items = _items(description, dependence, glue=glue and live)
    found = [
        _term(description, dependence, decisions, group, live)
        for decisions, group in _grouped(description, dependence, items, live)
    ]
    return [term if classes and _candidates(term) > EXPAND_LIMIT else _expanded(term, description) for term in found]


def _candidates(term: Term) -> int:
    return math.prod(map(len, term.classes or ()))


@dataclass(frozen=True)
class _Item:
    """What has workloads: a node (with the earlier ones that may do the same), or a join of nodes.

    `passes`: the node's choice of an identity has a cost of its own kind.
    """

    nodes: tuple[int, ...]
    join: Join | None = None
    passes: bool = False

    def columns(self, description: SpaceDescription, evaluation: Evaluation, live: bool) -> list[NDArray[np.int32]]:
        """Workload numbers in each architecture, -1 for none."""
        if self.join is not None:
            return self.join.columns(description, evaluation)
        workloads, alive = evaluation.workloads(), evaluation.live() if live else {}
        own = {v: np.where(alive[v], workloads[v], -1) if live else workloads[v] for v in self.nodes}
        for v in self.nodes:
            check_seen(description.nodes[v], workloads[v])
        first, *earlier = self.nodes
        columns = [without_repeats(description, own, first, earlier) if earlier else own[first]]
        if self.passes:
            passed = alive[first] & (workloads[first] < 0)
            columns.append(np.where(passed, len(description.workloads) + GLUE.index("glue: pass"), -1).astype(np.int32))
        return columns


def _items(description: SpaceDescription, dependence: Dependence, *, glue: bool) -> list[_Item]:
    same = twins(description) if glue else {}
    items = [
        _Item((v, *same.get(v, ())), passes=glue and node.decision is not None)
        for v, node in enumerate(description.nodes)
        if any(w is not None for per_state in node.workloads for w in per_state)
    ]
    if glue:
        certain = dependence.surely_fed & dependence.surely_used
        items += [_Item(join.nodes, join) for join in joins(description, certain)]
    return [
        replace(item, nodes=item.nodes[:1]) if item.join is None and _too_large(dependence, item) else item
        for item in items
    ]


def _too_large(dependence: Dependence, item: _Item) -> bool:
    return math.prod(dependence.sizes[d] for d in _decisions(dependence, item, live=True)) > MERGE_LIMIT


def _decisions(dependence: Dependence, item: _Item, *, live: bool) -> tuple[int, ...]:
    return tuple(sorted({d for v in item.nodes for d in dependence.decisions(v, live=live)}))


def _grouped(
    description: SpaceDescription, dependence: Dependence, items: list[_Item], live: bool
) -> list[tuple[tuple[int, ...], list[_Item]]]:
    """Items by the decisions these depend on; small groups join those that have all their decisions.

    Large groups are of one decision's nodes each: to these, the candidates of the others mostly act alike. What is
    glue and large is left out.
    """
    groups: dict[tuple[tuple[int, ...], int | None], list[_Item]] = {}
    for item in items:
        if item.join is None or not _too_large(dependence, item):
            decision = description.nodes[item.nodes[0]].decision
            groups.setdefault((_decisions(dependence, item, live=live), decision), []).append(item)
    merged: dict[tuple[int, ...], list[_Item]] = {}
    large = []
    for (decisions, _), group in sorted(groups.items(), key=lambda entry: -len(entry[0][0])):
        if math.prod(dependence.sizes[d] for d in decisions) > MERGE_LIMIT:
            large.append((decisions, group))
            continue
        host = next((d for d in merged if decisions and set(decisions) <= set(d)), decisions)
        merged.setdefault(host, []).extend(group)
    return [*merged.items(), *large]


def _term(
    description: SpaceDescription, dependence: Dependence, decisions: tuple[int, ...], group: list[_Item], live: bool
) -> Term:
    nodes = sorted({v for item in group for v in item.nodes})
    scope = dependence.scope(nodes, live=live)
    classes = dependence.classes(nodes, decisions, scope)
    sizes = tuple(max(classes[d]) + 1 for d in decisions)
    _check_size(description, decisions, sizes)
    options = {d: [classes[d].index(c) for c in range(max(classes[d]) + 1)] for d in decisions}
    blocks = []
    for codes in product(description, options):
        evaluation = Evaluation(description, codes, scope)
        blocks.append(np.stack([c for item in group for c in item.columns(description, evaluation, live)]))
    return Term(decisions, sizes, np.concatenate(blocks, axis=1), tuple(classes[d] for d in decisions))


def count(found: list[Term], codes: np.ndarray, kinds: int) -> NDArray[np.float64]:
    """(N, kinds) how often each workload (and, after those, each kind of glue) occurs in each architecture.

    Args:
        codes: (N, decisions) integer rows.
    """
    result = np.zeros((len(codes), kinds + 1))
    every = np.arange(len(codes))
    for term in found:
        index = term.index(codes)
        for workloads in term.workloads:
            np.add.at(result, (every, workloads[index]), 1)
    return result[:, :kinds]


def _expanded(term: Term, description: SpaceDescription) -> Term:
    """The same with an entry for each candidate."""
    assert term.classes is not None
    sizes = tuple(map(len, term.classes))
    _check_size(description, term.decisions, sizes)
    shaped = term.workloads.reshape(len(term.workloads), *term.sizes)
    for axis, classes in enumerate(term.classes, 1):
        shaped = np.take(shaped, classes, axis=axis)
    return Term(term.decisions, sizes, np.ascontiguousarray(shaped.reshape(len(shaped), -1)))


def _check_size(description: SpaceDescription, decisions: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    if math.prod(sizes) > TERM_LIMIT:
        labels = ", ".join(repr(description.decisions[d].label) for d in decisions[:6])
        raise SpaceError(
            f"{math.prod(sizes):.3g} combinations of {len(decisions)} choices ({labels}"
            f"{', ...' if len(decisions) > 6 else ''}) act on one operator's cost: too many to hold"
        )
