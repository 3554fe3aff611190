"""A network in the formats that it can be exported to, each with what runs it."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import HwnasError
from ..profiler.lowering import lower
from ..profiler.lowering.exporting import quiet, reason
from ..profiler.lowering.precision import Samples, quantise
from ..profiler.lowering.precision.run import Border, Runner
from ..spaces.tracer import tensors_in

DTYPES: Mapping[str, tuple[str, ...]] = {
    "onnx": ("fp32", "int8"),
    "tflite": ("fp32", "fp16", "int8"),
    "pt2": ("fp32",),
}
"""Formats, and the precisions of each."""

Outputs = list[Tensor]
Run = Callable[[Sequence[Tensor]], Outputs]


class ExportError(HwnasError):
    """A network that cannot be written in the asked format."""


@dataclass(frozen=True)
class ModelFile:
    """A network in one format.

    Attributes:
        route: what made it: "emitter" (the project's own), "torch.onnx", "litert-torch" or "torch.export".
        inputs, outputs: as the file has them.
        run: gives the outputs for inputs, both as torch has them, in float32 and in torch's layout.
    """

    data: bytes
    route: str
    inputs: tuple[Border, ...]
    outputs: tuple[Border, ...]
    run: Run


def model_file(
    format: str, dtype: str, network: nn.Module, inputs: Sequence[Tensor], samples: Samples | None
) -> ModelFile:
    """Bring a network to a format and precision.

    Args:
        network: in eval mode. inputs: examples, batch included.
        samples: by which int8 is calibrated, in torch's layout.

    Raises:
        LoweringError, ExportError: the format or the precision cannot express it.
    """
    if format == "pt2":
        return _program(network, inputs)
    artifact = quantise(lower(network, inputs, format=format), dtype, samples)
    runner = Runner(format, artifact.data)

    def run(tensors: Sequence[Tensor]) -> Outputs:
        given = [_moved(tensor.numpy(), 1, -1) if format == "tflite" else tensor.numpy() for tensor in tensors]
        found = runner.run(given)
        return [torch.from_numpy(_moved(array, -1, 1) if format == "tflite" else array) for array in found]

    return ModelFile(artifact.data, artifact.route, runner.inputs, runner.outputs, run)


def _moved(array: np.ndarray, source: int, target: int) -> np.ndarray:
    """Channels to or from the end, where there are channels and places."""
    return np.ascontiguousarray(np.moveaxis(array, source, target)) if array.ndim == 4 else array


def _program(network: nn.Module, inputs: Sequence[Tensor]) -> ModelFile:
    stream = io.BytesIO()
    with quiet():
        try:
            program = torch.export.export(network, tuple(inputs))
        except Exception as error:  # the exporter raises whatever the user's code below it does
            raise ExportError(f"torch.export cannot express {type(network).__name__}: {reason(error)}") from error
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # holds paths of this machine
        torch.export.save(program, stream)
        stream.seek(0)
        loaded = torch.export.load(stream).module()

    def run(tensors: Sequence[Tensor]) -> Outputs:
        with torch.no_grad():
            return list(tensors_in(loaded(*tensors)))

    results = run([tensor.clone() for tensor in inputs])
    return ModelFile(stream.getvalue(), "torch.export", _borders("input", inputs), _borders("output", results), run)


def _borders(name: str, tensors: Sequence[Tensor]) -> tuple[Border, ...]:
    return tuple(Border(f"{name}_{i}", tuple(t.shape), str(t.dtype)[6:]) for i, t in enumerate(tensors))
