"""Device "gpu": an NVIDIA GPU through PyTorch, by default as CUDA graphs, channels last."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..base import Artifact, Device, DeviceError, Model, Runtime, Settings, Unavailable
from .facts import Facts
from .program import Program
from .timing import EagerTimer, GraphTimer, Timer

DRIVER = "libcuda.so.1"
SETS = 3
"""Sets of inputs that take turns, so that no operator finds its input in the caches because it has just read it."""
NEWER = {"tf32": (8, 0), "bf16": (8, 0)}
"""Compute capability from which a precision is there."""
_REFERENCE_SIZE, _REFERENCE_PRODUCTS = 1024, 8


@dataclass(frozen=True)
class GpuSettings(Settings):
    """``eager``: operators are launched one by one, as PyTorch runs a module, instead of as one CUDA graph."""

    eager: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.eager, bool):
            raise DeviceError(f"eager must be true or false, not {self.eager!r}")
        if self.threads != 1:
            raise DeviceError(f"device 'gpu' takes no threads, {self.threads} were asked for")


class Gpu(Device):
    """``gpu8`` is this device at batch 8. ``index`` says which of several GPUs, as CUDA numbers them."""

    name = "gpu"
    format = "aten"
    dtypes = ("fp32", "tf32", "fp16", "bf16")
    settings_type = GpuSettings
    connections = ("gpu_index",)
    place: ClassVar[str] = "cuda"

    def __init__(self, settings: Settings | None = None, connection: Mapping[str, Any] | None = None) -> None:
        super().__init__(settings, connection)
        index = self.connection.get("gpu_index", 0)
        if isinstance(index, bool) or not isinstance(index, int) or index < 0:
            raise DeviceError(f"the index of a GPU is a number from 0, not {index!r}")
        self.index = index

    @classmethod
    def unavailable(cls) -> Unavailable | None:
        if importlib.util.find_spec("torch") is None:
            return Unavailable("torch is not installed", "install PyTorch with CUDA, and pip install 'hwnas[gpu]'")
        try:
            ctypes.CDLL(DRIVER)
        except OSError:
            return Unavailable(f"there is no NVIDIA driver ({DRIVER})", "use a machine with an NVIDIA GPU (--agent)")
        return None

    def runtime(self) -> Runtime:
        assert isinstance(self.settings, GpuSettings)
        return TorchRuntime(self.settings, self.place, self.index)


class TorchRuntime(Runtime):
    """PyTorch on one processor.

    Args:
        place: "cuda"; "cpu" runs the same without graphs and events, for tests on machines without a GPU.
        index: which GPU.

    Raises:
        DeviceError: torch has no CUDA, the driver is too old, there is no such GPU, or it lacks the precision.
    """

    def __init__(self, settings: GpuSettings, place: str, index: int) -> None:
        import torch

        self.torch = torch
        self.settings = settings
        self.on_gpu = place == "cuda"
        self.place = f"cuda:{index}" if self.on_gpu else place
        self.dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(settings.dtype, torch.float32)
        self.facts: Facts | None = None
        if self.on_gpu:
            self._check_gpu(index)
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = settings.dtype == "tf32"
            torch.backends.cudnn.benchmark = True  # as whoever wants speed has it
            torch.cuda.set_device(index)
            self.facts = Facts(f"GPU-{torch.cuda.get_device_properties(index).uuid}")
            self._reference = self._reference_timer()

    def describe(self) -> dict[str, Any]:
        torch = self.torch
        about: dict[str, Any] = {"name": "torch", "version": torch.__version__, "place": self.place.partition(":")[0]}
        if self.on_gpu:
            graphs = "launched one by one" if self.settings.eager else "CUDA graphs"
            about |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "operators": graphs}
        return about

    def environment(self) -> dict[str, Any]:
        if not self.on_gpu:
            return super().environment()
        about = self.torch.cuda.get_device_properties(self.place)
        gpu = {
            "name": about.name,
            "capability": [about.major, about.minor],
            "memory_mb": about.total_memory >> 20,
            "multiprocessors": about.multi_processor_count,
        }
        return {**super().environment(), "gpu": {**gpu, **(self.facts.fixed() if self.facts else {})}}

    def conditions(self) -> dict[str, Any]:
        return {} if self.facts is None else self.facts.now()

    def reference(self) -> int | None:
        """Of `_REFERENCE_PRODUCTS` matrix products."""
        return int(self._reference.run(1)[0]) if self.on_gpu else None

    def load(self, id: str, artifact: Artifact) -> Model:
        """A program, captured; raises DeviceError where it cannot be read or does not fit into memory."""
        try:
            program = Program(artifact.data, self.place, self.dtype)
            return TorchModel(self._timer(program, artifact))
        except self.torch.OutOfMemoryError as error:
            self.torch.cuda.empty_cache()
            raise DeviceError(self._no_memory(artifact)) from error

    def _timer(self, program: Program, artifact: Artifact) -> Timer:
        rng = np.random.default_rng(0)
        inputs = [[program.placed(spec.draw(rng)) for spec in artifact.inputs] for _ in range(SETS)]
        if self.on_gpu and not self.settings.eager:
            return GraphTimer(program, inputs)
        return EagerTimer(program, inputs, self.torch.cuda.synchronize if self.on_gpu else _nothing)

    def _reference_timer(self) -> Timer:
        matrix = self.torch.ones(_REFERENCE_SIZE, _REFERENCE_SIZE, device=self.place)
        return GraphTimer(lambda x: [x @ x for _ in range(_REFERENCE_PRODUCTS)], [[matrix]])

    def _no_memory(self, artifact: Artifact) -> str:
        free, total = (size >> 20 for size in self.torch.cuda.mem_get_info())
        shapes = ", ".join("x".join(map(str, spec.shape)) for spec in artifact.inputs)
        weights = len(artifact.data) >> 20
        return (
            f"it does not fit into the GPU's memory ({free} of {total} MB are free): inputs of {shapes}, {weights} MB "
            "of weights; a smaller --batch may do"
        )

    def _check_gpu(self, index: int) -> None:
        torch, dtype = self.torch, self.settings.dtype
        if torch.version.cuda is None:
            raise DeviceError("this PyTorch is built without CUDA; install one with it (pytorch.org says how)")
        try:
            torch.cuda.init()
        except Exception as error:  # whatever the driver has against it, such as being too old
            raise DeviceError(f"CUDA cannot be used: {' '.join(str(error).split())[:300]}") from error
        n = torch.cuda.device_count()
        if index >= n:
            raise DeviceError(f"there is no GPU {index}; there are {n}, counted from 0")
        capability = torch.cuda.get_device_capability(index)
        if capability < NEWER.get(dtype, (0, 0)):
            name = torch.cuda.get_device_name(index)
            raise DeviceError(f"{name} has no {dtype}, which takes compute capability 8.0; it has {capability}")


class TorchModel(Model):
    """One program with its inputs in place."""

    def __init__(self, timer: Timer) -> None:
        self._timer: Timer | None = timer

    def run(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        assert self._timer is not None
        return self._timer.run(n), np.empty(0, np.int64)

    def close(self) -> None:
        self._timer = None


def _nothing() -> None:
    return
