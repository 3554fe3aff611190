"""Device "mobile": what it runs and refuses, what XNNPACK takes over, and models that are none."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as tflite
from hwnas.devices import Artifact, DeviceError, Session, WorkloadFailed, create, status
from hwnas.devices.litert import delegation
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with create("mobile").open() as session:
        yield session


@pytest.fixture(autouse=True)
def _empty(session: Session) -> Iterator[None]:
    yield
    for id in session.loaded:
        session.unload(id)


def test_it_can_be_used_where_the_package_is() -> None:
    line = next(line for line in status() if line.name == "mobile")
    assert (line.available, line.unit, line.format) == (True, "ms", "tflite")


def test_where_no_package_is_the_mend_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    line = next(line for line in status() if line.name == "mobile")
    assert (line.available, line.reason) == (False, "ai-edge-litert is not installed")
    assert "hwnas[mobile]" in line.mend


@pytest.mark.parametrize(("package", "said"), [("tflite_runtime", "needs numpy < 2"), ("ai_edge_litert", "anew")])
def test_a_package_that_does_not_import_is_named(package: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == package or None)
    monkeypatch.setitem(sys.modules, f"{package}.interpreter", None)
    monkeypatch.setitem(sys.modules, package, ModuleType(package))
    with pytest.raises(DeviceError, match=f"{package.replace('_', '-')} cannot be imported.*{said}"):
        create("mobile").runtime()


def test_the_clock_follows_the_threads() -> None:
    assert create("mobile").clock == "cpu"
    assert create("mobile", threads=2).clock == "wall"


@pytest.mark.parametrize("level", ["extended", "basic"])
def test_an_optimisation_level_that_it_lacks_is_refused(level: str) -> None:
    with pytest.raises(DeviceError, match=f"all, disable where TFLite runs, not '{level}'"):
        create("mobile", optimization=level)


def test_the_provenance_names_package_version_and_delegate(session: Session) -> None:
    runtime = session.describe()["runtime"]
    assert (runtime["name"], runtime["delegate"]) == ("ai-edge-litert", "XNNPACK")
    assert runtime["version"][0].isdigit()


def test_two_threads_run(tflite_model: Make) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two CPUs")
    with create("mobile", threads=2).open() as session:
        session.load("conv", tflite_model().conv(8).artifact())
        assert session.round(["conv"]).samples


# -- inputs


def test_whole_numbers_are_drawn_below_their_bound(session: Session, tflite_model: Make) -> None:
    """A lookup beyond the table fails."""
    model = tflite_model((1, 64), "INT32").table(7)
    session.load("in", model.artifact(dtype="int32", high=7))
    assert session.round(["in"]).failures == {}
    with pytest.raises(WorkloadFailed, match="bounds"):
        session.load("beyond", model.artifact(dtype="int32", high=1000))


@pytest.mark.parametrize(("stored", "dtype"), [("INT8", "int8"), ("UINT8", "uint8"), ("BOOL", "bool")])
def test_inputs_of_other_types(stored: str, dtype: str, session: Session, tflite_model: Make) -> None:
    model = tflite_model((1, 8), stored).same("RESHAPE", of="ReshapeOptions", newShape=[1, 8])
    session.load("x", model.artifact(dtype=dtype))
    assert session.round(["x"]).failures == {}


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ({"name": "y"}, "inputs are x; described were y"),
        ({"shape": (1, 3, 16, 16)}, r"'x' is float32 \[1, 16, 16, 3\]; described was float32 \[1, 3, 16, 16\]"),
        ({"dtype": "int8"}, r"'x' is float32 \[1, 16, 16, 3\]; described was int8 "),
    ],
)
def test_inputs_must_be_those_of_the_model(
    described: dict[str, Any], message: str, session: Session, tflite_model: Make
) -> None:
    with pytest.raises(WorkloadFailed, match=message):
        session.load("x", tflite_model().conv(4).artifact(**described))


def test_inputs_go_by_the_names_of_the_signature(session: Session, tflite_model: Make) -> None:
    """Converters rename tensors; what callers know is in the signature."""
    model = tflite_model(name="serving_default_input_0:0").conv(4)
    model.signature = "input_0"
    session.load("x", model.artifact(name="input_0"))
    assert session.round(["x"]).failures == {}
    with pytest.raises(WorkloadFailed, match="inputs are input_0; described were"):
        session.load("y", model.artifact(name="serving_default_input_0:0"))


# -- XNNPACK


def test_what_xnnpack_runs_is_reported(session: Session, tflite_model: Make) -> None:
    report = session.load("all", tflite_model().conv(4).conv(4).artifact())
    assert (report.delegate, report.operators, report.delegated, report.left) == ("XNNPACK", 2, 2, [])
    assert report.as_dict()["delegated"] == 2


def test_what_xnnpack_leaves_is_reported(session: Session, tflite_model: Make) -> None:
    model = tflite_model().conv(4).same("RSQRT").conv(4, activation="SIGN_BIT").same("CEIL").conv(4)
    report = session.load("some", model.artifact())
    assert (report.operators, report.delegated, report.left) == (5, 4, ["CONV_2D"])


def test_without_optimisation_nothing_is_delegated(tflite_model: Make) -> None:
    with create("mobile", optimization="disable").open() as session:
        report = session.load("conv", tflite_model().conv(4).artifact())
        assert (report.delegate, report.delegated) == ("", None)
        assert "delegate" not in report.as_dict()
        assert session.describe()["runtime"]["delegate"] is None


def test_an_operator_beside_a_delegated_part_is_not_counted_as_part_of_it() -> None:
    """a -> b -> c and a -> d; the part a, b is delegated, d reads what the part gives."""

    def op(name: str, inputs: list[int], outputs: list[int]) -> dict[str, Any]:
        return {"op_name": name, "inputs": np.array(inputs, int), "outputs": np.array(outputs, int)}

    operators = [op("A", [0], [1]), op("B", [1], [2]), op("C", [2], [3]), op("D", [1, -1], [4])]
    found = delegation([*operators, op("DELEGATE", [0], [1, 2])])
    assert found == {"delegate": "XNNPACK", "operators": 4, "delegated": 2, "left": ["C", "D"]}
    assert delegation(operators)["left"] == ["A", "B", "C", "D"]


# -- tflite-runtime, in an environment of its own


def test_an_agent_with_tflite_runtime(tflite_runtime: Path, tflite_model: Make) -> None:
    with create("mobile").open(agent_python=str(tflite_runtime)) as session:
        runtime = session.describe()["runtime"]
        assert (runtime["name"], runtime["version"], runtime["delegate"]) == ("tflite-runtime", "2.14.0", "XNNPACK")
        assert runtime["numpy"].startswith("1.")
        model = tflite_model().conv(4).conv(4, activation="SIGN_BIT")
        report = session.load("some", model.artifact())
        assert (report.operators, report.delegated, report.left) == (2, 1, ["CONV_2D"])
        with pytest.raises(WorkloadFailed):  # it reads models unchecked: this may end the agent
            session.load("cut", Artifact("tflite", model.data()[:300], model.artifact().inputs, "d", "emitter"))
        assert session.round(["some"]).samples


# -- what is no model


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no TFLite model"),
        (b"\x08\x00\x00\x00ONNX and more", "no TFLite model: it begins with"),
        (b"\x1c\x00\x00\x00TFL3", "not a valid Flatbuffer"),
    ],
)
def test_foreign_bytes(data: bytes, message: str, session: Session) -> None:
    with pytest.raises(WorkloadFailed, match=message):
        session.load("x", Artifact("tflite", data, (), "d", "emitter"))


@pytest.mark.parametrize(("custom", "said"), [("FlexErf", "Flex"), ("Mine", "unresolved custom op: Mine")])
def test_an_operator_that_the_runtime_lacks_is_named(
    custom: str, said: str, session: Session, tflite_model: Make
) -> None:
    with pytest.raises(WorkloadFailed, match=said) as caught:
        session.load("x", tflite_model().conv(4).same("CUSTOM", custom).artifact())
    assert custom in caught.value.reason


def test_a_model_cannot_read_other_files(tflite_model: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file exists where the runtime would look, and is long enough."""
    import flatbuffers

    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.bin").write_bytes(bytes(1 << 16))
    artifact = tflite_model().conv(4).artifact()
    model = tflite.ModelT.InitFromObj(tflite.Model.GetRootAs(artifact.data))
    group, buffer = tflite.ExternalBufferGroupT(), tflite.ExternalBufferT()
    group.name, buffer.id, buffer.length = "secret.bin", 1, 432
    model.externalBufferGroups, model.externalBuffers = [group], [buffer]
    weights = model.subgraphs[0].tensors[1]
    weights.externalBuffer, weights.buffer = 1, 0
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    with create("mobile").open() as session, pytest.raises(WorkloadFailed, match="lacks data"):
        session.load("thief", Artifact("tflite", bytes(builder.Output()), artifact.inputs, "d", "emitter"))


@pytest.fixture(scope="module")
def impatient() -> Iterator[Session]:
    with create("mobile").open(timeout_s=3, memory_mb=500) as session:
        yield session


@given(data=st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_model_runs_or_fails_and_costs_no_other(
    data: st.DataObject, tflite_model: Make, impatient: Session
) -> None:
    """Flipped bits, cut ends: what crashes or hangs is the agent, which the session starts anew."""
    artifact = tflite_model((1, 8, 8, 3)).conv(4).conv(4).artifact()
    damaged = bytearray(artifact.data)
    for place in data.draw(st.lists(st.integers(8, len(damaged) - 1), max_size=4), "places"):
        damaged[place] ^= 1 << data.draw(st.integers(0, 7), "bit")
    del damaged[data.draw(st.none() | st.integers(8, len(damaged))) :]
    if "good" not in impatient.loaded:
        impatient.load("good", artifact)
    with contextlib.suppress(WorkloadFailed):
        impatient.load("damaged", Artifact("tflite", bytes(damaged), artifact.inputs, "d", "emitter"))
    loaded = impatient.loaded
    result = impatient.round(loaded, warmup=0, runs=1)
    assert "good" in result.samples
    assert {*result.samples, *result.failures} == set(loaded)
    impatient.unload("damaged")
