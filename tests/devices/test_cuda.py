"""Device "gpu": everything that runs without one here, by PyTorch on the CPU; the rest where there is a GPU."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hwnas.devices import Artifact, Device, DeviceError, create
from hwnas.devices.cuda.device import Gpu, GpuSettings, TorchRuntime
from hwnas.devices.cuda.facts import Facts
from hwnas.devices.cuda.program import Program
from hwnas.devices.cuda.timing import EagerTimer
from hwnas.profiler.lowering import lower
from hwnas.profiler.profile import ProfileRequest, profile
from hwnas.profiler.protocol import MeasuringProtocol
from hwnas.spaces.registry import load_space
from hwnas.testing.devices import DeviceConformance
from torch import nn

needs_gpu = pytest.mark.skipif(Gpu.unavailable() is not None, reason=f"no GPU here: {Gpu.unavailable()}")


def net(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU6(),
        nn.Conv2d(width, width, 3, stride=2, padding=1, groups=width),
        nn.Hardswish(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(width * 16, 5),
        nn.Softmax(-1),
    )


def lowered(width: int = 8, batch: int = 2) -> Artifact:
    torch.manual_seed(0)
    return lower(net(width), [torch.zeros(batch, 3, 16, 16)], format="aten")


@pytest.fixture
def artifacts() -> Mapping[str, Artifact]:
    return {"narrow": lowered(8), "wide": lowered(32)}


class TestWithoutGpu(DeviceConformance):
    @pytest.fixture
    def device(self) -> Device:
        return create("torch_cpu")

    @pytest.fixture
    def artifacts(self, artifacts: Mapping[str, Artifact]) -> Mapping[str, Artifact]:
        return artifacts


@needs_gpu
@pytest.mark.parametrize("eager", [False, True])
class TestGpu(DeviceConformance):
    @pytest.fixture
    def device(self, eager: bool) -> Device:
        return create("gpu", eager=eager)

    @pytest.fixture
    def artifacts(self, artifacts: Mapping[str, Artifact]) -> Mapping[str, Artifact]:
        return artifacts


# -- programs


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)], ids=["fp32", "bf16"])
def test_a_program_computes_what_the_module_does(dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    module, x = net(8).eval(), torch.randn(2, 3, 16, 16)
    program = Program(lower(module, [x], format="aten").data, "cpu", dtype)
    with torch.no_grad():
        (found,) = program(program.placed(x.numpy()))
        expected = module(x)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, rtol=tolerance, atol=tolerance)


def test_batch_norms_are_folded_and_tensors_are_let_go() -> None:
    program = Program(lowered().data)
    assert len(program.steps) <= 10
    assert any("convolution" in str(step.call) for step in program.steps)
    assert not any("batch_norm" in str(step.call) for step in program.steps)
    released = [i for done in program._last_use for i in done]
    made = {i for step in program.steps for i in step.outputs}
    assert len(released) == len(set(released))
    assert set(released) >= made - set(program.outputs)


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    line, _, blob = lowered().data.partition(b"\n")
    head = json.loads(line)
    change(head)
    return json.dumps(head).encode() + b"\n" + blob


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no program of aten operators"),
        (b"\x80\x04cos\nsystem\n", "no program of aten operators"),
        (b"[1, 2]\n", "no program of aten operators"),
        (lowered().data[:-10], "cut off"),
        (changed(lambda head: head.update(version=2)), "of version 2; this hwnas reads 1"),
        (changed(lambda head: head["nodes"][0].__setitem__(0, "no_such_operator")), "no_such_operator"),
        (changed(lambda head: head["nodes"][0].__setitem__(0, "from_file")), "reaches beyond tensors"),
        (changed(lambda head: head["nodes"][0].__setitem__(0, "__class__")), "no operator '__class__'"),
        (changed(lambda head: head["nodes"][0].__setitem__(0, "add.__class__")), "no operator 'add.__class__'"),
        (changed(lambda head: head["constants"][0].__setitem__(1, "Tensor")), "no type 'Tensor'"),
        (changed(lambda head: head["constants"][0].__setitem__(2, [-1, 3])), "cut off"),
    ],
    ids=range(11),
)
def test_a_program_from_a_stranger_is_refused_in_one_line(data: bytes, message: str) -> None:
    with pytest.raises(DeviceError, match=message) as caught:
        Program(data)
    assert "\n" not in str(caught.value)


# -- the device


def test_a_table_by_the_same_code_on_the_cpu(tmp_path: Any) -> None:
    space = load_space("proxyless-small", {"resolution": 8})
    hasty = MeasuringProtocol(max_visits=3, tolerance=0.5, span_s=0, pause_s=0, network_visits=2)
    request = ProfileRequest(create("torch_cpu", batch=8), space, tmp_path / "t.db", protocol=hasty)
    result = profile(request)
    assert result.failed == {}
    assert result.calibration is not None
    assert result.calibration.factor > 0


def test_eager_runs_take_their_inputs_in_turn_and_wait_for_the_end() -> None:
    seen: list[int] = []
    waits: list[int] = []
    timer = EagerTimer(lambda x: seen.append(x) or [], [[1], [2]], lambda: waits.append(len(seen)))  # type: ignore[list-item, func-returns-value, arg-type]
    del seen[:], waits[:]
    times = timer.run(4)
    assert (times.shape, times.dtype, bool((times > 0).all())) == ((4,), np.int64, True)
    assert seen == [1, 2, 1, 2]
    assert waits == [0, 1, 1, 2, 2, 3, 3, 4]


@pytest.mark.parametrize("index", [-1, "0", True, 1.0])
def test_an_index_that_is_none_is_refused(index: Any) -> None:
    with pytest.raises(DeviceError, match="the index of a GPU is a number from 0"):
        create("gpu", connection={"gpu_index": index})


@pytest.mark.skipif(torch.version.cuda is not None, reason="this PyTorch has CUDA")
def test_a_pytorch_without_cuda_is_named() -> None:
    with pytest.raises(DeviceError, match="this PyTorch is built without CUDA; install one with it"):
        TorchRuntime(GpuSettings(), "cuda", 0)


class FakeCuda:
    """What `TorchRuntime` asks of torch.cuda before it uses a GPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, old: bool = False, capability: tuple[int, int] = (7, 0)):
        monkeypatch.setattr(torch.version, "cuda", "12.4")
        monkeypatch.setattr(torch.cuda, "init", self.refuse if old else lambda: None)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Tesla V100")

    @staticmethod
    def refuse() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old\n(found version 9000).")


@pytest.mark.parametrize(
    ("fake", "dtype", "index", "message"),
    [
        ({"old": True}, "fp32", 0, "CUDA cannot be used: The NVIDIA driver on your system is too old .found"),
        ({}, "fp32", 1, "there is no GPU 1; there are 1, counted from 0"),
        ({}, "bf16", 0, r"Tesla V100 has no bf16, which takes compute capability 8.0; it has \(7, 0\)"),
        ({}, "tf32", 0, "Tesla V100 has no tf32"),
    ],
)
def test_a_gpu_that_will_not_do_is_refused_before_it_is_used(
    monkeypatch: pytest.MonkeyPatch, fake: dict[str, Any], dtype: str, index: int, message: str
) -> None:
    FakeCuda(monkeypatch, **fake)
    with pytest.raises(DeviceError, match=message) as caught:
        TorchRuntime(GpuSettings(dtype=dtype), "cuda", index)
    assert "\n" not in str(caught.value)


def test_memory_that_runs_out_fails_the_workload_with_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = TorchRuntime(GpuSettings(batch=8), "cpu", 0)

    def exhausted(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(runtime, "_timer", exhausted)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (100 << 20, 8000 << 20))
    with pytest.raises(DeviceError, match=r"100 of 8000 MB are free.: inputs of 2x3x16x16"):
        runtime.load("w", lowered())


# -- what NVML says


class FakeNvml(SimpleNamespace):
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self, **answers: Any) -> None:
        super().__init__()
        self.answers = answers

    def __getattr__(self, name: str) -> Any:
        answers = self.__dict__["answers"]
        if name == "nvmlInit":
            return lambda: None
        if name == "nvmlDeviceGetHandleByUUID":
            return lambda uuid: uuid
        if name not in answers:
            raise AttributeError(name)
        return lambda *_: answers[name]


@pytest.mark.parametrize(
    ("answers", "doubts"),
    [
        ({}, []),
        ({"nvmlDeviceGetCurrentClocksThrottleReasons": 0x1}, []),  # idle
        ({"nvmlDeviceGetCurrentClocksThrottleReasons": 0x4}, ["the GPU's clock is held down by its power limit"]),
        ({"nvmlDeviceGetCurrentClocksThrottleReasons": 0x60}, ["the GPU's clock is held down by its temperature"]),
        ({"nvmlDeviceGetTemperature": 90}, ["the GPU has 90 degrees Celsius"]),
        ({"nvmlDeviceGetComputeRunningProcesses": [object()]}, ["other processes compute on this GPU"]),
    ],
)
def test_what_casts_doubt_on_times_is_said(
    monkeypatch: pytest.MonkeyPatch, answers: dict[str, Any], doubts: list[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(**answers))
    facts = Facts("GPU-1")
    assert facts.now()["doubts"] == doubts
    json.dumps([facts.fixed(), facts.now()])


def test_without_nvml_nothing_is_said_and_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    facts = Facts("GPU-1")
    assert facts.now()["doubts"] == []
    assert facts.now()["power_w"] is None
    assert facts.fixed()["driver"] is None
