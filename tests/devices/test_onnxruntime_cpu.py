"""The CPU through ONNX Runtime: what it runs, what it refuses, what its node times mean."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hwnas.devices import Artifact, WorkloadFailed, create
from hwnas.devices.onnx_wire import external_data, graph_nodes
from onnx import TensorProto, helper, numpy_helper

Make = Callable[..., Artifact]


def test_the_clock_follows_the_threads() -> None:
    assert create("cpu").clock == "cpu"
    assert create("cpu", threads=2).clock == "wall"


def test_whole_numbers_are_drawn_below_their_bound(onnx_model: Callable[..., bytes], onnx_artifact: Make) -> None:
    """A lookup beyond the table would fail."""
    table = numpy_helper.from_array(np.ones((7, 4), np.float32), "table")
    nodes = [helper.make_node("Gather", ["table", "x"], ["y"])]
    data = onnx_model(nodes, ("x", [1, 64]), ("y", [1, 64, 4]), [table], TensorProto.INT64)
    with create("cpu").open() as session:
        session.load("in", onnx_artifact(data, (1, 64), "int64", 7))
        assert session.round(["in"]).failures == {}
        with pytest.raises(WorkloadFailed, match=r"(?i)bounds"):
            session.load("beyond", onnx_artifact(data, (1, 64), "int64", 1000))


def test_an_output_of_unknown_shape_is_fine(onnx_model: Callable[..., bytes], onnx_artifact: Make) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    data = onnx_model(nodes, ("x", ["n", 4]), ("y", ["n", 4]), [])
    with create("cpu").open() as session:
        session.load("dynamic", onnx_artifact(data, (3, 4)))
        assert session.round(["dynamic"], runs=3).samples["dynamic"].wall.shape == (3,)


def test_inputs_must_be_those_of_the_model(conv_net: Callable[..., bytes]) -> None:
    with create("cpu").open() as session, pytest.raises(WorkloadFailed, match="inputs are x; described were"):
        session.load("none", Artifact("onnx", conv_net(), (), "d", "emitter"))


@pytest.mark.parametrize(("level", "separate_relus"), [("all", 0), ("extended", 0), ("basic", 1), ("disable", 1)])
def test_every_optimisation_level_does_what_it_says(level: str, separate_relus: int, conv: Artifact) -> None:
    with create("cpu", optimization=level).open() as session:
        session.load("conv", conv)
        ops = [node.op_type for node in session.trace("conv", runs=3).nodes]
    assert ops.count("Relu") == separate_relus


def test_two_threads_run(conv: Artifact) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two CPUs")
    with create("cpu", threads=2).open() as session:
        session.load("conv", conv)
        assert session.round(["conv"]).samples


def test_a_trace_names_the_nodes_that_ran(conv: Artifact) -> None:
    with create("cpu").open() as session:
        session.load("conv", conv)
        trace = session.trace("conv", runs=10)
    model = onnx.load_from_string(trace.model)
    assert trace.runs == 10
    assert sum(node.op_type == "Conv" for node in trace.nodes) == 2
    assert {node.outputs for node in trace.nodes} == {tuple(node.output) for node in model.graph.node}
    assert trace.nodes[-1].outputs == ("y",)


def test_the_agent_leaves_no_files(conv: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with create("cpu").open() as session:
        session.load("conv", conv)
        assert session.trace("conv", runs=2).nodes
    assert list(tmp_path.iterdir()) == []


def refer_outside(tensor: TensorProto) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "secret.bin"


def in_initializer(model: onnx.ModelProto) -> None:
    refer_outside(model.graph.initializer[0])


def in_constant(model: onnx.ModelProto) -> None:
    node = model.graph.node.add()
    node.CopyFrom(helper.make_node("Constant", [], ["c"], value=model.graph.initializer[0]))
    refer_outside(node.attribute[0].t)


def in_branch(model: onnx.ModelProto) -> None:
    branch = helper.make_graph([], "branch", [], [], [model.graph.initializer[0]])
    node = model.graph.node.add()
    node.CopyFrom(helper.make_node("If", ["c"], ["d"], then_branch=branch, else_branch=branch))
    refer_outside(node.attribute[0].g.initializer[0])


@pytest.mark.parametrize("place", [in_initializer, in_constant, in_branch])
def test_a_model_cannot_read_other_files(
    place: Callable[[onnx.ModelProto], None],
    conv_net: Callable[..., bytes],
    onnx_artifact: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The file exists where the runtime would look, so that it is the check that refuses."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.bin").write_bytes(bytes(1 << 16))
    model = onnx.load_from_string(conv_net())
    place(model)
    data = model.SerializeToString()
    assert "secret.bin" in (external_data(data) or "")
    with (
        create("cpu").open() as session,
        pytest.raises(WorkloadFailed, match=r"another file \('location secret.bin'\)"),
    ):
        session.load("thief", onnx_artifact(data))


def test_a_name_that_only_looks_like_a_reference_is_no_reason_to_refuse(conv_net: Callable[..., bytes]) -> None:
    model = onnx.load_from_string(conv_net())
    model.graph.node[0].name = "location"
    model.doc_string = "location: nowhere.bin"
    assert external_data(model.SerializeToString()) is None


def test_the_nodes_are_read_as_onnx_reads_them(conv_net: Callable[..., bytes]) -> None:
    data = conv_net()
    nodes = onnx.load_from_string(data).graph.node
    assert graph_nodes(data) == [(node.name, node.op_type, tuple(node.output)) for node in nodes]
