"""Whose a node's time is: on graphs made by hand, optimised as onnxruntime does it, and on a real trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import pytest
import torch
from hwnas.devices.data import Artifact, NodeTime, NodeTrace
from hwnas.devices.registry import create
from hwnas.profiler.in_context import attribute
from hwnas.profiler.lowering import lower, randomise_batch_norms
from onnx import TensorProto, helper
from torch import Tensor, nn

Op = tuple[str, Sequence[str], Sequence[str]]
"""Operator, inputs, outputs."""


def model(nodes: Sequence[Op], names: Sequence[str] = ()) -> bytes:
    made = [
        helper.make_node(op, list(inputs), list(outputs), name=name)
        for (op, inputs, outputs), name in zip(nodes, names or [""] * len(nodes), strict=True)
    ]
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph(made, "graph", [value], [])
    data = helper.make_model(graph).SerializeToString()
    assert isinstance(data, bytes)
    return data


def owned(
    original: Sequence[Op], owners: Mapping[str, str], executed: Sequence[tuple[str, Op, float]]
) -> tuple[dict[str, float], float]:
    """Attribution of executed nodes (name, operator, ms) of a graph; checks that no time is lost."""
    artifact = Artifact("onnx", model(original), (), "", "emitter", owners)
    times = tuple(NodeTime(name, op[0], tuple(op[2]), ms) for name, op, ms in executed)
    optimised = model([op for _, op, _ in executed], [name for name, _, _ in executed])
    found = attribute(artifact, NodeTrace(times, optimised, sum(ms for _, _, ms in executed), 1))
    assert sum(found.owned.values()) + found.unowned == pytest.approx(sum(ms for _, _, ms in executed))
    return dict(found.owned), found.unowned


CELL: list[Op] = [
    ("Conv", ["x", "w"], ["c"]),
    ("Relu", ["c"], ["r"]),
    ("Conv", ["r", "w2"], ["d"]),
    ("Add", ["d", "x"], ["s"]),
    ("Sigmoid", ["s"], ["y"]),
]
OWNERS = {"c": "conv#0", "r": "act#0", "d": "edge#0", "s": "", "y": "last#0"}


def test_nodes_as_they_were_written() -> None:
    executed = [(op[2][0], op, float(i + 1)) for i, op in enumerate(CELL)]
    assert owned(CELL, OWNERS, executed) == ({"conv#0": 1, "act#0": 2, "edge#0": 3, "last#0": 5}, 4)


def test_a_fused_node_belongs_to_the_heaviest_in_it() -> None:
    executed = [
        ("fused c", ("FusedConv", ["x", "w"], ["r"]), 1.0),  # with the activation
        ("fused d", ("FusedConv", ["r", "w2", "x"], ["s"]), 2.0),  # with the sum, whose name it bears
        ("y", ("Sigmoid", ["s"], ["y"]), 4.0),
    ]
    assert owned(CELL, OWNERS, executed) == ({"conv#0": 1, "edge#0": 2, "last#0": 4}, 0)


def test_a_sum_between_modules_is_nobody_s() -> None:
    original: list[Op] = [*CELL[:4], ("Relu", ["s"], ["t"])]
    fused = [(op[2][0], op, 1.0) for op in CELL[:3]]
    owners = {**OWNERS, "t": ""}
    assert owned(original, owners, [*fused, ("t", ("FusedAdd", ["d", "x"], ["t"]), 7.0)])[1] == 7
    # A module's own activation in the same node makes it that module's.
    assert owned(original, {**owners, "t": "act#1"}, [*fused, ("t", ("FusedAdd", ["d", "x"], ["t"]), 7.0)])[0] == {
        "conv#0": 1,
        "act#0": 1,
        "edge#0": 1,
        "act#1": 7,
    }


def test_blocked_layouts_keep_names_only_and_reorders_belong_to_a_neighbour() -> None:
    executed = [
        ("ReorderInput", ("ReorderInput", ["x"], ["token_0"]), 1.0),  # to what reads it
        ("r_nchwc", ("Conv", ["token_0", "w"], ["token_1"]), 2.0),
        ("s_nchwc", ("Conv", ["token_1", "w2", "token_0"], ["token_2"]), 4.0),
        ("ReorderOutput", ("ReorderOutput", ["token_2"], ["s"]), 8.0),  # to what made its input
        ("y", ("Sigmoid", ["s"], ["y"]), 16.0),
    ]
    assert owned(CELL, OWNERS, executed) == ({"conv#0": 3, "edge#0": 12, "last#0": 16}, 0)


def test_inserted_nodes_in_a_row_find_their_neighbour_and_lonely_ones_none() -> None:
    original: list[Op] = [("Conv", ["x", "w"], ["c"])]
    row = [
        ("a", ("Transpose", ["x"], ["t0"]), 1.0),
        ("b", ("Cast", ["t0"], ["t1"]), 1.0),
        ("c", ("Conv", ["t1", "w"], ["c"]), 1.0),
        ("lonely", ("Cast", ["z"], ["t2"]), 5.0),
    ]
    assert owned(original, {"c": "conv#0"}, row) == ({"conv#0": 3}, 5)


def test_calls_of_one_module_are_kept_apart() -> None:
    original: list[Op] = [("Conv", ["x", "w"], ["a"]), ("Conv", ["a", "w"], ["b"])]
    executed = [(op[2][0], op, 1.0 + i) for i, op in enumerate(original)]
    assert owned(original, {"a": "conv#0", "b": "conv#1"}, executed) == ({"conv#0": 1, "conv#1": 2}, 0)


class Cell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.left = nn.Sequential(nn.ReLU(), nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16))
        self.right = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return torch.as_tensor(self.head(self.left(x) + self.right(x)))


def test_a_real_trace_is_attributed_to_the_modules() -> None:
    net = Cell().eval()
    randomise_batch_norms(net)
    watch: dict[str, nn.Module] = dict(net.named_children())
    artifact = lower(net, [torch.randn(1, 3, 32, 32)], route="emitter", watch=watch)
    with create("cpu").open() as session:
        session.load("net", artifact)
        trace = session.trace("net", runs=3)
    found = attribute(artifact, trace)
    assert set(found.owned) == {f"{name}#0" for name in watch}
    total = sum(node.ms for node in trace.nodes)
    assert sum(found.owned.values()) + found.unowned == pytest.approx(total)
    assert all(np.isfinite(ms) and ms >= 0 for ms in found.owned.values())
    assert len(onnx.load_from_string(trace.model).graph.node) == len(trace.nodes)
