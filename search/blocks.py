"""What is drawn of a network: its blocks in order, read from the description of its space."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..spaces.architecture import Architecture
from ..spaces.description import Decision, Node, SpaceDescription, Workload
from ..spaces.space import SearchSpace

MOST_PLACES = 60
"""Above so many choices in a network, or where choices are tied, its decisions are drawn instead."""


@dataclass(frozen=True)
class Block:
    """One block.

    Attributes:
        place: where it is, a choice's label or a module's path.
        stage: the places before and after it that share this name belong together.
        text: what it is.
        kind: what has the same colour: the candidate's name; "" for what no choice is about.
        kernel, expand: of a convolution, where they are known.
        shape: of its output, without batch.
        empty: nothing is computed here.
    """

    place: str
    stage: str
    text: str
    kind: str
    kernel: int | None = None
    expand: int | None = None
    shape: tuple[int, ...] | None = None
    empty: bool = False


def blocks_of(space: SearchSpace, architecture: Architecture) -> list[Block]:
    """The blocks of a network, from input to output.

    Where choices are tied, or there are very many, one block for each decision.
    """
    description = space.description
    around = _holders(description)
    row = space.encode([architecture])[0].tolist()
    chosen = [node.decision for node in description.nodes if node.decision is not None and _reached(node, row)]
    if len(chosen) != len(set(chosen)) or len(chosen) > MOST_PLACES:
        return [_of_decision(description, d, c) for d, c in enumerate(row) if c >= 0 and (d, c) not in around]
    blocks: list[Block] = []
    shape: tuple[int, ...] | None = None
    for node in description.nodes:
        if _reached(node, row) and (node.decision, row[node.decision or 0]) not in around:
            block = _of_node(description, node, row, shape)
            shape = block.shape
            blocks.append(block)
    return blocks


def candidates_of(space: SearchSpace) -> list[Block]:
    """One block for each kind of candidate in the space, in order of first appearance."""
    description = space.description
    found: dict[str, Block] = {}
    around = _holders(description)
    for d, candidate in ((d, c) for d, decision in enumerate(description.decisions) for c in range(len(decision))):
        if (d, candidate) not in around:
            block = _of_decision(description, d, candidate)
            if block.kind not in found or (found[block.kind].kernel is None and block.kernel is not None):
                found[block.kind] = block
    return list(found.values())


def kind_of(decision: Decision, candidate: str) -> str:
    """What a candidate has its colour by."""
    return candidate if decision.kind == "layer" else f"inputs {candidate}"


def _holders(description: SpaceDescription) -> set[tuple[int, int]]:
    """(decision, candidate) of candidates that consist of further choices, which are drawn in their place."""
    return {pair for decision in description.decisions for condition in decision.reach for pair in condition}


def _reached(node: Node, row: Sequence[int]) -> bool:
    return all(row[decision] == candidate for decision, candidate in node.reach)


def _of_node(description: SpaceDescription, node: Node, row: Sequence[int], before: tuple[int, ...] | None) -> Block:
    candidate = 0 if node.decision is None else row[node.decision]
    workload = _workload(description, node, candidate)
    shape = tuple(workload.info.get("out", ())) if workload is not None else before
    if node.decision is None:
        text = node.path if workload is None else _text(workload.op, workload)
        return Block(node.path, node.path, text, "", shape=shape or None)
    return _chosen(description, node.decision, candidate, node.path, workload, shape)


def _of_decision(description: SpaceDescription, decision: int, candidate: int) -> Block:
    """A decision's block, as at the first place where it is made."""
    nodes = (description.nodes[v] for v in description.nodes_of[decision])
    found = (_workload(description, node, candidate) for node in nodes)
    workload = next((each for each in found if each is not None), None)
    return _chosen(description, decision, candidate, description.decisions[decision].label, workload, None)


def _chosen(
    description: SpaceDescription,
    decision: int,
    candidate: int,
    place: str,
    workload: Workload | None,
    shape: tuple[int, ...] | None,
) -> Block:
    about = description.decisions[decision]
    name = about.candidates[candidate]
    if about.kind == "input":
        return Block(place, _stage(place), kind_of(about, name), kind_of(about, name), shape=shape)
    kernel, expand = _sizes(name, workload)
    return Block(
        place, _stage(place), _text(name, workload), name, kernel, expand, shape or None, empty=workload is None
    )


def _workload(description: SpaceDescription, node: Node, candidate: int) -> Workload | None:
    """Of a candidate, at the first shape it can see."""
    number = next((w for w in node.workloads[candidate] if w is not None), None)
    return None if number is None else description.workloads[number]


def _text(name: str, workload: Workload | None) -> str:
    """A block's name; mobile blocks are called as in the paper."""
    info = {} if workload is None else workload.info
    if info.get("op") != "mbconv":
        return name
    return f"MB{info.get('expand')} {info.get('kernel')}×{info.get('kernel')}"


def _sizes(name: str, workload: Workload | None) -> tuple[int | None, int | None]:
    """Kernel and expansion: as the block says, else as the candidate's name does (`k5e3`, `nor_conv_3x3`)."""
    info = {} if workload is None else workload.info
    kernel, expand = info.get("kernel"), info.get("expand")
    if kernel is None and (found := re.search(r"k(\d+)|(\d+)x\d+", name)):
        kernel = int(found[1] or found[2])
    if expand is None and (found := re.search(r"e(\d+)$", name)):
        expand = int(found[1])
    return kernel, expand


def _stage(place: str) -> str:
    """`stages.3` of `stages.3.0`."""
    return re.sub(r"\.\d+$", "", place)
