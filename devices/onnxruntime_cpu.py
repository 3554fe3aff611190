"""The CPU of the machine at hand, or of the agent's, through ONNX Runtime."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from .base import Artifact, Device, DeviceError, Model, NodeTime, NodeTrace, Runtime, Settings, Unavailable
from .clocks import time_calls
from .onnx_wire import external_data, graph_nodes
from .reference import Reference

WARMUP = 2
PROVIDERS = ["CPUExecutionProvider"]
_NUMPY = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


class OnnxRuntimeCpu(Device):
    """Device "cpu". With one thread the thread's own CPU clock counts; it misses the workers of several threads."""

    name = "cpu"
    format = "onnx"
    dtypes = ("fp32", "int8")
    capabilities = frozenset({"trace"})

    @property
    def clock(self) -> str:
        return "cpu" if self.settings.threads == 1 else "wall"

    @classmethod
    def unavailable(cls) -> Unavailable | None:
        if importlib.util.find_spec("onnxruntime") is None:
            return Unavailable("onnxruntime is not installed", "pip install 'hwnas[cpu]'")
        return None

    def runtime(self) -> Runtime:
        return OnnxRuntime(self.settings)


class OnnxRuntime(Runtime):
    """Sessions of one process, all with the same options."""

    def __init__(self, settings: Settings) -> None:
        # Released builds upload usage from threads of their own (1.29 on); it must be said before the import.
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        import onnxruntime

        self._ort = onnxruntime
        self._settings = settings
        self._reference = Reference()

    def reference(self) -> int:
        return self._reference.nanoseconds()

    def describe(self) -> dict[str, Any]:
        return {
            "name": "onnxruntime",
            "version": self._ort.__version__,
            "providers": PROVIDERS,
            "build": self._ort.get_build_info(),
            "numpy": np.__version__,
        }

    def load(self, id: str, artifact: Artifact) -> Model:
        """A session with its inputs and outputs bound once.

        Raises:
            DeviceError: the model refers to files outside itself.
        """
        foreign = external_data(artifact.data)
        if foreign is not None:
            raise DeviceError(f"the model keeps tensor data in another file ({foreign!r}), which is not allowed")
        return OnnxModel(self._ort, artifact, self._settings)


class OnnxModel(Model):
    """One session. Inputs are random, the same for every load of a workload."""

    def __init__(self, ort: Any, artifact: Artifact, settings: Settings) -> None:
        self._ort = ort
        self._artifact = artifact
        self._settings = settings
        self._session = self._open(self._options())
        self._binding = self._bind(self._session)

    def run(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        run, binding = self._session.run_with_iobinding, self._binding
        return time_calls(lambda: run(binding), n)

    def trace(self, runs: int) -> NodeTrace:
        """Profile a second session of the same model; the first one stays as it is."""
        folder = Path(tempfile.mkdtemp(prefix="hwnas-trace-"))
        try:
            options = self._options()
            options.enable_profiling = True
            options.profile_file_prefix = str(folder / "profile")
            options.optimized_model_filepath = str(folder / "optimised.onnx")
            session = self._open(options)
            binding = self._bind(session)
            for _ in range(WARMUP + runs):
                session.run_with_iobinding(binding)
            events = json.loads(Path(session.end_profiling()).read_text())
            return _aggregate(events, (folder / "optimised.onnx").read_bytes(), runs)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        del self._binding, self._session

    def _options(self) -> Any:
        ort, settings = self._ort, self._settings
        levels = ort.GraphOptimizationLevel
        options = ort.SessionOptions()
        options.intra_op_num_threads = settings.threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = {
            "all": levels.ORT_ENABLE_ALL,
            "extended": levels.ORT_ENABLE_EXTENDED,
            "basic": levels.ORT_ENABLE_BASIC,
            "disable": levels.ORT_DISABLE_ALL,
        }[settings.optimization]
        options.log_severity_level = 3
        options.add_session_config_entry("session.load_model_format", "ONNX")
        # Workers may spin during a run, as in production, but not on into the next session's run.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        return options

    def _open(self, options: Any) -> Any:
        return self._ort.InferenceSession(self._artifact.data, options, providers=PROVIDERS)

    def _bind(self, session: Any) -> Any:
        rng = np.random.default_rng(0)
        value = self._ort.OrtValue
        binding = session.io_binding()
        specs = {spec.name: spec for spec in self._artifact.inputs}
        names = [item.name for item in session.get_inputs()]
        if set(names) != set(specs):
            raise DeviceError(f"the model's inputs are {', '.join(names)}; described were {', '.join(specs)}")
        for name, spec in specs.items():
            binding.bind_ortvalue_input(name, value.ortvalue_from_numpy(spec.draw(rng)))
        for item in session.get_outputs():
            dtype = _NUMPY.get(item.type)
            if dtype is not None and all(isinstance(size, int) for size in item.shape):
                binding.bind_ortvalue_output(item.name, value.ortvalue_from_shape_and_type(item.shape, dtype))
            else:  # known only after a run: the runtime allocates it each time
                binding.bind_output(item.name, "cpu")
        return binding


def _aggregate(events: list[dict[str, Any]], model: bytes, runs: int) -> NodeTrace:
    """Fold the profile of ``runs`` equal runs, preceded by warm-ups, into one time for each executed node."""
    totals = [event["dur"] for event in events if event.get("name") == "model_run"]
    kernels = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    each, rest = divmod(len(kernels), WARMUP + runs)
    if rest or not each:
        raise DeviceError(f"the runtime recorded {len(kernels)} node times in {WARMUP + runs} runs, an uneven number")
    durations = np.array([event["dur"] for event in kernels]).reshape(-1, each)[WARMUP:]
    labels = [(e["name"].removesuffix("_kernel_time"), e["args"].get("op_name", "")) for e in kernels[:each]]
    outputs = _outputs(labels, model)
    times = _low_mean(durations) / 1000
    nodes = tuple(
        NodeTime(name, op, output, float(ms)) for (name, op), output, ms in zip(labels, outputs, times, strict=True)
    )
    run_ms = float(_low_mean(np.array(totals[WARMUP:], dtype=float).reshape(-1, 1))[0]) / 1000
    return NodeTrace(nodes, model, run_ms, runs)


def _low_mean(durations: np.ndarray) -> np.ndarray:
    """Mean of the lower half of each column: whole microseconds average to finer ones, and bursts stay out."""
    half = np.sort(durations, axis=0)[: (len(durations) + 1) // 2]
    return np.asarray(half.mean(axis=0))


def _outputs(labels: list[tuple[str, str]], model: bytes) -> list[tuple[str, ...]]:
    """Output names of the executed nodes: their namesakes in the optimised model, in the model's order."""
    waiting: dict[tuple[str, str], list[tuple[str, ...]]] = {}
    for name, op, outputs in graph_nodes(model):
        waiting.setdefault((name, op), []).append(outputs)
    return [waiting[label].pop(0) if waiting.get(label) else () for label in labels]
