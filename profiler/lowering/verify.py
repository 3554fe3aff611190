"""Does a lowered model compute what the module does?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...devices.cuda.program import Program
from ...spaces.tracer import evaluating, tensors_in
from .exporting import without_native_output

TOLERANCE = {"float32": 1e-4, "float64": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
TOLERANCE_OF_FORMAT = {("tflite", "float32"): 1e-5}
RUNTIMES = {"onnx": "onnxruntime", "tflite": "LiteRT", "aten": "torch"}
NOISE = 1e-3  # an output whose largest element is below this may be rounding errors alone


def difference(module: nn.Module, inputs: Sequence[Tensor], model: bytes, format: str = "onnx") -> str | None:
    """What is wrong with the ``model`` of ``module``; None if it agrees on random inputs.

    Floats are drawn from a standard normal with a fixed seed, integers are those of the example. Agreement is within
    1e-4 of the largest element of each output (1e-5 in TFLite, more for half precision).
    """
    drawn = _drawn(inputs)
    with torch.no_grad(), evaluating(module):
        expected = list(tensors_in(module(*(tensor.clone() for tensor in drawn))))
    try:
        found = _RUN[format](model, drawn)
    except Exception as error:  # the runtimes raise a dozen types of their own for models that they do not take
        return f"{RUNTIMES[format]} refuses the model: {' '.join(str(error).split())[:300]}"
    if len(found) != len(expected):
        return f"the model has {len(found)} outputs, the module {len(expected)}"
    for i, (want, got) in enumerate(zip(expected, found, strict=True)):
        wrong = _compare(want, got, format)
        if wrong is not None:
            return f"output {i} differs from torch: {wrong}"
    return None


def _drawn(inputs: Sequence[Tensor]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(tensor.shape, generator=generator).to(tensor.dtype) if tensor.is_floating_point() else tensor
        for tensor in inputs
    ]


def _run_onnx(model: bytes, inputs: Sequence[Tensor]) -> list[Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    given = {f"input_{i}": tensor.numpy() for i, tensor in enumerate(inputs)}
    return session.run(None, {name: given[name] for name in names})


def _run_tflite(model: bytes, inputs: Sequence[Tensor]) -> list[Any]:
    from ai_edge_litert.interpreter import Interpreter

    with without_native_output():
        interpreter = Interpreter(model_content=model, num_threads=1)
        interpreter.allocate_tensors()
        runner = interpreter.get_signature_runner()
    given = {f"input_{i}": np.ascontiguousarray(_channels(tensor.numpy(), -1)) for i, tensor in enumerate(inputs)}
    found = runner(**given)
    return [_channels(found[f"output_{i}"], 1) for i in range(len(found))]


def _run_aten(model: bytes, inputs: Sequence[Tensor]) -> list[Any]:
    with torch.no_grad():
        return [tensor.numpy() for tensor in Program(model)(*inputs)]


_RUN = {"onnx": _run_onnx, "tflite": _run_tflite, "aten": _run_aten}


def _channels(array: np.ndarray, place: int) -> np.ndarray:
    """An array of four dimensions from torch's order to TFLite's (-1) or back (1)."""
    return np.moveaxis(array, 1 if place == -1 else -1, place) if array.ndim == 4 else array


def _compare(want: Tensor, got: np.ndarray, format: str) -> str | None:
    if tuple(want.shape) != got.shape:
        return f"shape {got.shape} in place of {tuple(want.shape)}"
    expected, found = want.detach().to(torch.float64).numpy(), got.astype(np.float64)
    if not np.array_equal(np.isfinite(expected), np.isfinite(found)):
        return "infinite or undefined elements elsewhere"
    finite = np.isfinite(expected)
    if not finite.any():
        return None
    error = float(np.abs(expected - found)[finite].max())
    scale = float(np.abs(expected)[finite].max())
    dtype = str(want.dtype)[6:]
    tolerance = TOLERANCE_OF_FORMAT.get((format, dtype), TOLERANCE.get(dtype, 0.0))
    return (
        None if error <= tolerance * max(scale, NOISE) else f"by {error:.3g}, where the largest element is {scale:.3g}"
    )
