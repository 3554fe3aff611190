"""Does a lowered model compute what the module does?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...spaces.tracer import evaluating, tensors_in

TOLERANCE = {"float32": 1e-4, "float64": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
NOISE = 1e-3  # an output whose largest element is below this may be rounding errors alone


def difference(module: nn.Module, inputs: Sequence[Tensor], model: bytes) -> str | None:
    """What is wrong with the ONNX ``model`` of ``module``; None if it agrees on random inputs.

    Floats are drawn from a standard normal with a fixed seed, integers are those of the example. Agreement is within
    1e-4 of the largest element of each output (more for half precision).
    """
    drawn = _drawn(inputs)
    with torch.no_grad(), evaluating(module):
        expected = list(tensors_in(module(*(tensor.clone() for tensor in drawn))))
    try:
        found = _run(model, drawn)
    except Exception as error:  # onnxruntime raises a dozen types of its own for models that it does not take
        return f"onnxruntime refuses the model: {' '.join(str(error).split())[:300]}"
    if len(found) != len(expected):
        return f"the model has {len(found)} outputs, the module {len(expected)}"
    for i, (want, got) in enumerate(zip(expected, found, strict=True)):
        wrong = _compare(want, got)
        if wrong is not None:
            return f"output {i} differs from torch: {wrong}"
    return None


def _drawn(inputs: Sequence[Tensor]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(tensor.shape, generator=generator).to(tensor.dtype) if tensor.is_floating_point() else tensor
        for tensor in inputs
    ]


def _run(model: bytes, inputs: Sequence[Tensor]) -> list[Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    given = {f"input_{i}": tensor.numpy() for i, tensor in enumerate(inputs)}
    return session.run(None, {name: given[name] for name in names})


def _compare(want: Tensor, got: np.ndarray) -> str | None:
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
    tolerance = TOLERANCE.get(str(want.dtype)[6:], 0.0)
    return (
        None if error <= tolerance * max(scale, NOISE) else f"by {error:.3g}, where the largest element is {scale:.3g}"
    )
