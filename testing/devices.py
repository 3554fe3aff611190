"""Conformance suite of the Device contract.

Subclass :class:`DeviceConformance` in a test module, give it the two fixtures, and pytest runs it over your device::

    class TestMyDevice(DeviceConformance):
        @pytest.fixture
        def device(self):
            return create("mine")

        @pytest.fixture
        def artifacts(self):
            return {"small": ..., "large": ...}
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping

import numpy as np
import pytest

from ..devices.base import Artifact, Device, DeviceError, WorkloadFailed
from ..devices.registry import create
from ..devices.session import Session

HEAVY_IMPORTS = ("torch", "onnx", "onnxruntime", "ai_edge_litert", "pandas", "sklearn")


class DeviceConformance:
    """What every device that times its workloads must do."""

    @pytest.fixture
    def device(self) -> Device:
        """The device under test."""
        raise NotImplementedError("give a `device` fixture")

    @pytest.fixture
    def artifacts(self) -> Mapping[str, Artifact]:
        """At least two artifacts that the device can run in a few milliseconds, by workload id."""
        raise NotImplementedError("give an `artifacts` fixture")

    @pytest.fixture
    def session(self, device: Device) -> Iterator[Session]:
        """A session of the device, closed afterwards."""
        with device.open() as session:
            yield session

    @pytest.fixture
    def loaded(self, session: Session, artifacts: Mapping[str, Artifact]) -> Session:
        """The session with all artifacts loaded."""
        for id, artifact in artifacts.items():
            session.load(id, artifact)
        return session

    def test_it_names_what_it_is(self, device: Device) -> None:
        assert device.name
        assert device.name.isidentifier()
        assert device.unit in ("ms", "MMACs")
        assert device.clock in ("cpu", "wall", "none")
        assert device.settings.dtype in device.dtypes
        assert device.format

    def test_settings_survive_json(self, device: Device) -> None:
        data = json.loads(json.dumps(device.settings.as_dict()))
        assert type(device.settings)(**data) == device.settings

    @pytest.mark.parametrize("wrong", [{"batch": 0}, {"threads": 0}, {"dtype": "fp7"}, {"batch": 65537}])
    def test_settings_out_of_range_are_refused(self, device: Device, wrong: dict[str, object]) -> None:
        with pytest.raises(DeviceError, match=next(iter(wrong))):
            type(device.settings)(**wrong)  # type: ignore[arg-type]

    def test_a_dtype_that_it_lacks_is_refused_by_name(self, device: Device) -> None:
        for dtype in {"fp32", "fp16", "bf16", "tf32", "int8"} - set(device.dtypes):
            with pytest.raises(DeviceError, match=dtype):
                type(device)(type(device.settings)(dtype=dtype))

    def test_looking_for_it_imports_no_runtime(self, device: Device) -> None:
        code = (
            "import sys; from hwnas.devices.registry import create, status; status()\n"
            f"print([m for m in {HEAVY_IMPORTS!r} if m in sys.modules])"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
        assert result.stdout.strip() == "[]"

    def test_it_describes_what_times_depend_on(self, session: Session, device: Device) -> None:
        about = session.describe()
        json.dumps(about)
        for key in ("device", "unit", "clock", "settings", "runtime", "hwnas", "protocol", "python", "cpu", "host"):
            assert about[key], key
        assert about["device"] == device.name
        assert about["settings"] == json.loads(json.dumps(device.settings.as_dict()))
        assert about["runtime"]["name"]
        assert about["runtime"]["version"]

    def test_loading_reports_positive_times(self, session: Session, artifacts: Mapping[str, Artifact]) -> None:
        for id, artifact in artifacts.items():
            report = session.load(id, artifact)
            assert report.load_ms > 0
            assert report.first_run_ms > 0
            assert report.warm_run_ms > 0
            assert not report.peak_mb < 0
        assert session.loaded == tuple(artifacts)

    def test_a_round_gives_integer_nanoseconds_in_the_given_order(
        self, loaded: Session, artifacts: Mapping[str, Artifact]
    ) -> None:
        order = list(artifacts)[::-1]
        result = loaded.round(order, warmup=1, runs=4)
        assert list(result.samples) == order
        assert result.failures == {}
        assert result.preemptions >= 0
        for samples in result.samples.values():
            for clock in (samples.wall, samples.cpu):
                assert clock.dtype == np.int64
            assert samples.wall.shape in ((4,), (1,))  # (1,): a mean
            assert samples.cpu.shape in (samples.wall.shape, (0,))
            assert (samples.wall > 0).all()
            assert (samples.cpu >= 0).all()
            assert samples.reference.shape in ((0,), (2,))
            assert (samples.reference > 0).all()
        starts = [result.samples[id].started for id in order]
        assert starts == sorted(starts)

    def test_a_round_without_warmup_works(self, loaded: Session, artifacts: Mapping[str, Artifact]) -> None:
        first = next(iter(artifacts))
        assert loaded.round([first], warmup=0, runs=1).samples[first].wall.shape == (1,)

    def test_rounds_that_make_no_sense_are_refused(self, loaded: Session, artifacts: Mapping[str, Artifact]) -> None:
        first = next(iter(artifacts))
        for ids, counts in (([first, first], {}), (["never loaded"], {}), ([first], {"runs": 0})):
            with pytest.raises(DeviceError):
                loaded.round(ids, **counts)
        assert loaded.round([first]).samples

    def test_an_unreadable_artifact_costs_only_itself(
        self, loaded: Session, artifacts: Mapping[str, Artifact], device: Device
    ) -> None:
        with pytest.raises(WorkloadFailed, match="garbage") as caught:
            loaded.load("garbage", Artifact(device.format, b"\x00 no model \xff", (), "0", "test"))
        assert caught.value.reason
        assert set(loaded.round(list(artifacts)).samples) == set(artifacts)

    def test_an_artifact_of_another_format_is_refused(self, session: Session) -> None:
        with pytest.raises(DeviceError, match="papyrus"):
            session.load("x", Artifact("papyrus", b"", (), "0", "test"))

    def test_an_id_is_loaded_once_and_unloaded_freely(self, loaded: Session, artifacts: Mapping[str, Artifact]) -> None:
        first = next(iter(artifacts))
        with pytest.raises(DeviceError, match="already"):
            loaded.load(first, artifacts[first])
        loaded.unload(first)
        loaded.unload(first)
        with pytest.raises(DeviceError, match="never loaded"):
            loaded.round([first])
        loaded.load(first, artifacts[first])
        assert loaded.round([first]).samples

    def test_it_survives_the_death_of_its_agent(self, loaded: Session, artifacts: Mapping[str, Artifact]) -> None:
        os.kill(loaded.agent_pid, signal.SIGKILL)
        result = loaded.round(list(artifacts))
        assert set(result.samples) == set(artifacts)
        assert result.failures == {}

    def test_tracing_sums_to_a_run(self, loaded: Session, artifacts: Mapping[str, Artifact], device: Device) -> None:
        first = next(iter(artifacts))
        if "trace" not in device.capabilities:
            with pytest.raises(DeviceError, match="single nodes"):
                loaded.trace(first)
            return
        trace = loaded.trace(first, runs=20)
        assert trace.nodes
        assert trace.model
        assert all(node.op_type and node.ms >= 0 for node in trace.nodes)
        assert 0 < sum(node.ms for node in trace.nodes) <= 1.5 * trace.run_ms

    def test_closing_ends_the_agent(self, device: Device) -> None:
        with device.open() as session:
            pid = session.agent_pid
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        with pytest.raises(DeviceError, match="closed"):
            session.describe()

    def test_it_is_found_by_its_name(self, device: Device) -> None:
        assert type(create(device.name)) is type(device)
