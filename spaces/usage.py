"""Which workloads an architecture uses: evaluated for many architectures at once, and as small dense terms.

A latency that is a sum over workloads is a sum of *terms*: arrays over the candidates of a few decisions each. That
makes prediction a lookup and the expectation under independent choice probabilities an exact multilinear form, with
nesting, ties, changing shapes and dead operators all accounted for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .dependence import Dependence
from .description import SpaceDescription, SpaceError
from .evaluation import Evaluation, check_seen, liveness, product, usage

__all__ = ["Term", "liveness", "terms", "usage"]

TERM_LIMIT = 2_000_000
"""Entries one term may have before it is too large to hold."""
MERGE_LIMIT = 50_000
"""Entries up to which a term takes in those that depend on no other decisions."""

EXPAND_LIMIT = 50_000
"""Entries up to which a term has one for each candidate in any case."""


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


def terms(description: SpaceDescription, *, live: bool, classes: bool = False) -> list[Term]:
    """The space's nodes grouped by the decisions that their workload depends on.

    Args:
        live: as for `usage`.
        classes: let a large term have an entry for each class of candidates that act alike in it, instead of each
            candidate.

    Raises:
        SpaceError: a node depends on more combinations than can be held.
    """
    dependence = Dependence(description)
    groups = _grouped(description, dependence, live)
    found = [_term(description, dependence, decisions, nodes, live) for decisions, nodes in groups]
    return [term if classes and _candidates(term) > EXPAND_LIMIT else _expanded(term, description) for term in found]


def _candidates(term: Term) -> int:
    return math.prod(map(len, term.classes or ()))


def _grouped(
    description: SpaceDescription, dependence: Dependence, live: bool
) -> list[tuple[tuple[int, ...], list[int]]]:
    """Nodes with workloads, by the decisions these depend on; small groups join those that have all their decisions.

    Large groups are of one decision's nodes each: to these, the candidates of the others mostly act alike.
    """
    groups: dict[tuple[tuple[int, ...], int | None], list[int]] = {}
    for v, node in enumerate(description.nodes):
        if any(w is not None for per_state in node.workloads for w in per_state):
            groups.setdefault((dependence.decisions(v, live=live), node.decision), []).append(v)
    merged: dict[tuple[int, ...], list[int]] = {}
    large = []
    for (decisions, _), nodes in sorted(groups.items(), key=lambda item: -len(item[0][0])):
        if math.prod(dependence.sizes[d] for d in decisions) > MERGE_LIMIT:
            large.append((decisions, nodes))
            continue
        host = next((d for d in merged if decisions and set(decisions) <= set(d)), decisions)
        merged.setdefault(host, []).extend(nodes)
    return [*merged.items(), *large]


def _term(
    description: SpaceDescription, dependence: Dependence, decisions: tuple[int, ...], nodes: list[int], live: bool
) -> Term:
    scope = dependence.scope(nodes, live=live)
    classes = dependence.classes(nodes, decisions, scope)
    sizes = tuple(max(classes[d]) + 1 for d in decisions)
    _check_size(description, decisions, sizes)
    found = np.empty((len(nodes), math.prod(sizes)), np.int32)
    start = 0
    for codes in product(
        description, {d: [classes[d].index(c) for c in range(max(classes[d]) + 1)] for d in decisions}
    ):
        evaluation = Evaluation(description, codes, scope)
        workloads, alive = evaluation.workloads(), evaluation.live() if live else {}
        for row, v in enumerate(nodes):
            check_seen(description.nodes[v], workloads[v])
            own = np.where(alive[v], workloads[v], -1) if live else workloads[v]
            found[row, start : start + len(codes)] = own
        start += len(codes)
    return Term(decisions, sizes, found, tuple(classes[d] for d in decisions))


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
