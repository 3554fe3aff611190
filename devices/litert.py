"""The CPU through the runtime that phones run: TensorFlow Lite, by LiteRT or the older tflite-runtime.

What XNNPACK does not take over runs in TFLite's own kernels, often ten times slower, and nothing says so: therefore
every model tells how many of its operators are delegated.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import numpy as np

from .base import Artifact, Device, DeviceError, Model, Runtime, Settings, TensorSpec, Unavailable
from .clocks import time_calls
from .reference import Reference
from .tflite import DTYPES, FORMAT, TfliteSettings, check_model

PACKAGES = {"ai-edge-litert": "ai_edge_litert", "tflite-runtime": "tflite_runtime"}
"""Distributions that bring the interpreter -> their module; the first that is installed is used."""
XNNPACK = "XNNPACK"
_DELEGATE = "DELEGATE"


class Litert(Device):
    """Device "mobile". With one thread the thread's own CPU clock counts; it misses the workers of several threads."""

    name = "mobile"
    format = FORMAT
    dtypes = DTYPES
    settings_type = TfliteSettings

    @property
    def clock(self) -> str:
        return "cpu" if self.settings.threads == 1 else "wall"

    @classmethod
    def unavailable(cls) -> Unavailable | None:
        if _installed() is None:
            return Unavailable("ai-edge-litert is not installed", "pip install 'hwnas[mobile]'")
        return None

    def runtime(self) -> Runtime:
        return LitertRuntime(self.settings)


class LitertRuntime(Runtime):
    """Interpreters of one process, all with the same options.

    Raises:
        DeviceError: the installed package cannot be imported.
    """

    def __init__(self, settings: Settings) -> None:
        self._package = _installed() or next(iter(PACKAGES))
        try:
            self._module = importlib.import_module(f"{PACKAGES[self._package]}.interpreter")
        except Exception as error:  # numpy 2 beside tflite-runtime: whatever compiled modules raise then
            mend = "it needs numpy < 2" if self._package == "tflite-runtime" else "install it anew"
            raise DeviceError(f"{self._package} cannot be imported ({error}); {mend}") from error
        self._settings = settings
        self._reference = Reference()

    def reference(self) -> int:
        return self._reference.nanoseconds()

    def describe(self) -> dict[str, Any]:
        return {
            "name": self._package,
            "version": metadata.version(self._package),
            "delegate": XNNPACK if self._settings.optimization == "all" else None,
            "numpy": np.__version__,
        }

    def load(self, id: str, artifact: Artifact) -> Model:
        """An interpreter with its inputs set once.

        Raises:
            DeviceError: the data is no TFLite model, or its inputs are not those described.
        """
        check_model(artifact)
        return LitertModel(self._module, artifact, self._settings)


class LitertModel(Model):
    """One interpreter. Inputs are random, the same for every load of a workload."""

    def __init__(self, module: Any, artifact: Artifact, settings: Settings) -> None:
        kernels = module.OpResolverType
        delegates = settings.optimization == "all"
        self._interpreter = module.Interpreter(
            model_content=artifact.data,
            num_threads=settings.threads,
            experimental_op_resolver_type=kernels.AUTO if delegates else kernels.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        self._interpreter.allocate_tensors()
        self._delegation = delegation(self._interpreter._get_ops_details()) if delegates else {}
        self._set_inputs(artifact.inputs)

    def run(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        return time_calls(self._interpreter.invoke, n)

    def report(self) -> dict[str, Any]:
        return self._delegation

    def close(self) -> None:
        del self._interpreter

    def _set_inputs(self, specs: Sequence[TensorSpec]) -> None:
        rng = np.random.default_rng(0)
        found = self._inputs([spec.name for spec in specs])
        for spec, tensor in zip(specs, found, strict=True):
            shape, dtype = tuple(tensor["shape"].tolist()), np.dtype(tensor["dtype"]).name
            if (shape, dtype) != (spec.shape, spec.dtype):
                model, told = f"{dtype} {list(shape)}", f"{spec.dtype} {list(spec.shape)}"
                raise DeviceError(f"the model's input {spec.name!r} is {model}; described was {told}")
            self._interpreter.set_tensor(tensor["index"], spec.draw(rng))

    def _inputs(self, names: Sequence[str]) -> list[Mapping[str, Any]]:
        """Details of the inputs of these names, which are those of the model's signature or of its tensors."""
        tensors = self._interpreter.get_input_details()
        found = {tensor["name"]: tensor for tensor in tensors}
        for key in self._interpreter.get_signature_list():
            named = self._interpreter.get_signature_runner(key).get_input_details()
            if {tensor["index"] for tensor in named.values()} == {tensor["index"] for tensor in tensors}:
                found = named
        if set(found) != set(names) or len(found) != len(tensors):
            raise DeviceError(f"the model's inputs are {', '.join(found)}; described were {', '.join(names)}")
        return [found[name] for name in names]


def delegation(operators: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Which of a model's operators XNNPACK runs, as fields of a `LoadReport`, from the interpreter's list of them.

    The list has the model's own operators, and behind them one for each part that is delegated, which reads and writes
    that part's tensors. What leads from its outputs back to its inputs is delegated.
    """
    own = [(i, op) for i, op in enumerate(operators) if op["op_name"] != _DELEGATE]
    made_by = {int(tensor): (i, op) for i, op in own for tensor in op["outputs"]}
    delegated: set[int] = set()
    for part in operators:
        if part["op_name"] != _DELEGATE:
            continue
        known = {int(tensor) for tensor in part["inputs"]}
        wanted = [int(tensor) for tensor in part["outputs"]]
        while wanted:
            tensor = wanted.pop()
            if tensor in known or tensor not in made_by:
                continue
            known.add(tensor)
            i, op = made_by[tensor]
            delegated.add(i)
            wanted += map(int, op["inputs"])
    left = dict.fromkeys(str(op["op_name"]) for i, op in own if i not in delegated)
    return {"delegate": XNNPACK, "operators": len(own), "delegated": len(delegated), "left": list(left)}


def _installed() -> str | None:
    return next((name for name, module in PACKAGES.items() if importlib.util.find_spec(module)), None)
