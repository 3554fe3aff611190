"""What the description says lies between operators, against what is between them in the networks themselves."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import onnx
import pytest
import torch
from hwnas.devices import create
from hwnas.profiler.lowering import lower
from hwnas.spaces.architecture import Architecture
from hwnas.spaces.choices import LayerChoice
from hwnas.spaces.glue import GLUE
from hwnas.spaces.graph import Graph
from hwnas.spaces.space import SearchSpace
from hwnas.spaces.tracer import trace
from hwnas.spaces.usage import count, terms, usage
from hwnas.testing.zoo_graphs import Head, operators
from torch import Tensor, nn

EDGES = ("0-1", "0-2", "1-2", "0-3", "1-3", "2-3")
SUM, CONSTANT, PASS = (GLUE.index(f"glue: {kind}") - len(GLUE) for kind in ("sum", "constant", "pass"))
"""Places in a row of counts, from its end."""


class Cell(nn.Module):
    """Four nodes, each the sum of what comes over the edges from all earlier ones."""

    def __init__(self) -> None:
        super().__init__()
        self.edges = nn.ModuleDict({edge: LayerChoice(operators(4), label=edge) for edge in EDGES})

    def forward(self, x: Tensor) -> Tensor:
        nodes = [x]
        for n in (1, 2, 3):
            nodes.append(sum(self.edges[f"{i}-{n}"](nodes[i]) for i in range(n)))  # type: ignore[arg-type]
        return nodes[-1]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.cells = nn.Sequential(Cell(), nn.ReLU(), Cell())
        self.head = Head(4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.head(self.cells(self.stem(x))))


@pytest.fixture(scope="module")
def cells() -> SearchSpace:
    return SearchSpace(Net, (3, 8, 8), name="cells")


def counted(space: SearchSpace, codes: np.ndarray) -> np.ndarray:
    """(N, workloads and kinds of glue)."""
    kinds = len(space.workloads()) + len(GLUE)
    return count(terms(space.description, live=True, glue=True), codes, kinds)


def traced(space: SearchSpace, architecture: Architecture) -> Graph:
    """The network on its own, without what a compiler drops."""
    network = space.build(architecture).eval().to("meta")
    with torch.device("meta"):
        return trace(network, [tensor.to("meta") for tensor in space.inputs()]).simplified()


def architecture(space: SearchSpace, edges: Mapping[str, str]) -> Architecture:
    return Architecture(space.name, {edge: edges.get(edge, "none") for edge in EDGES})


def glue(space: SearchSpace, **edges: str) -> list[float]:
    """Sums and constants in both cells, given `e01="conv"` and so on."""
    chosen = {f"{name[1]}-{name[2]}": operator for name, operator in edges.items()}
    found: list[float] = counted(space, space.encode([architecture(space, chosen)]))[0, [SUM, CONSTANT]].tolist()
    return found


def test_sums_and_constants_are_those_of_the_networks(cells: SearchSpace) -> None:
    """Except where several constants meet in one sum, of which one is counted."""
    several = {"0-1": "none", "0-2": "none", "1-2": "conv"}
    drawn = cells.sample(150, np.random.default_rng(0))
    networks = [a for a in drawn if any(a.choices[edge] != operator for edge, operator in several.items())]
    said = counted(cells, cells.encode(networks))[:, [SUM, CONSTANT]]
    there = [sum(node.op == "add.Tensor" for node in traced(cells, a).nodes) for a in networks]
    assert said.sum(axis=1).tolist() == there
    assert len(set(there)) > 3
    assert said.any(axis=0).all()


def test_operators_without_weights_are_done_once_on_the_same_input(cells: SearchSpace) -> None:
    """Where edges 0-1, 0-2 and 0-3 all pool the cell's input; operators with weights are each their own."""
    pool = next(i for i, w in enumerate(cells.workloads()) if w.weightless)
    chosen = [dict(zip(EDGES, own, strict=True)) for own in itertools.product(("conv", "pool"), repeat=6)][::3]
    networks = [architecture(cells, edges) for edges in chosen]
    found = counted(cells, cells.encode(networks))
    for own, network in zip(found, networks, strict=True):
        nodes = traced(cells, network).nodes
        pools = [node for node in nodes if node.op == "avg_pool2d"]
        assert own[pool] == len({node.input_ids for node in pools})
    plain = (usage(cells.description, cells.encode(networks), live=True) == pool).sum(axis=1)
    assert (found[:, pool] <= plain).all()
    assert (found[:, pool] < plain).any()


def test_the_runtime_pools_once_too(cells: SearchSpace) -> None:
    pytest.importorskip("onnxruntime")
    network = architecture(cells, dict.fromkeys(EDGES, "pool"))
    with create("cpu").open() as session:
        session.load("net", lower(cells.build(network), cells.inputs()))
        model = onnx.load_from_string(session.trace("net", runs=2).model)
    pool = next(i for i, w in enumerate(cells.workloads()) if w.weightless)
    said = counted(cells, cells.encode([network]))[0, pool]
    assert said == sum(node.op_type == "AveragePool" for node in model.graph.node) == 6


@pytest.mark.parametrize("live", [1, 2, 3])
def test_a_join_of_n_costs_n_minus_1_sums(cells: SearchSpace, live: int) -> None:
    conv = dict.fromkeys(["e03", "e13", "e23"][3 - live :], "conv")
    assert glue(cells, e01="conv", e02="conv", **conv)[0] == 2 * (live - 1)


def test_constants_cost_something_where_no_convolution_takes_them_up(cells: SearchSpace) -> None:
    """Edge 1-3 sees nothing, so its convolution's result is a constant."""
    assert glue(cells, e13="conv", e03="conv") == [0, 0]
    # Added to what is pooled nothing takes it up; the second cell's, after a ReLU, neither.
    assert glue(cells, e13="conv", e03="pool") == [0, 2]
    assert glue(cells, e13="pool", e03="pool") == [0, 0]  # pooled zeros are zeros
    # Passed on unchanged: the stem takes up the first cell's, nothing that of the second.
    assert glue(cells, e13="conv", e03="skip") == [0, 1]
    assert glue(cells, e13="conv", e03="pool", e23="conv", e02="skip") == [2, 0]


def test_live_identities_are_counted(cells: SearchSpace) -> None:
    networks = [architecture(cells, e) for e in ({"0-3": "skip"}, {"0-1": "skip", "0-3": "conv", "0-2": "skip"})]
    networks.append(architecture(cells, {"0-1": "skip", "1-2": "skip", "2-3": "skip", "0-3": "pool"}))
    assert counted(cells, cells.encode(networks))[:, PASS].tolist() == [2, 0, 6]


def test_what_depends_on_too_much_is_left_out(cells: SearchSpace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwnas.spaces.usage.MERGE_LIMIT", 10)
    codes = cells.encoding.sample(50, np.random.default_rng(1))
    found = counted(cells, codes)
    assert (found[:, [SUM, CONSTANT]] == 0).all()
    numbers = usage(cells.description, codes, live=True)
    plain = np.stack([(numbers == i).sum(axis=1) for i in range(len(cells.workloads()))], axis=1)
    assert (found[:, : -len(GLUE)] == plain).all()


def test_without_liveness_there_is_no_glue(cells: SearchSpace) -> None:
    codes = cells.encoding.sample(50, np.random.default_rng(2))
    found = terms(cells.description, live=False, glue=True)
    assert (count(found, codes, len(cells.workloads()) + len(GLUE))[:, -len(GLUE) :] == 0).all()
