"""`quantise`: a lowered fp32 model -> the same model in another precision, checked against the first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ....devices.data import Artifact, TensorSpec
from ....errors import HwnasError
from ..lower import LoweringError


class PrecisionError(LoweringError):
    """A lowered model that cannot be brought to another precision; the message names the operator or the reason."""


Samples = Sequence[Sequence[np.ndarray]]
"""Inputs of a model, one sequence of arrays each; in torch's layout, (N, C, H, W)."""

PRECISIONS: Mapping[str, tuple[str, ...]] = {"onnx": ("int8",), "tflite": ("fp16", "int8")}
"""Which dtypes besides fp32 a format can be brought to."""

TOO_WRONG = 0.5
"""Relative RMS error from which a quantised model is not merely rounded but wrong."""

_HIGH = {"uint8": 256, "int8": 128}


@dataclass(frozen=True)
class Quantised:
    """A quantised model: its bytes, the dtypes of its inputs, and the owners of its tensors."""

    data: bytes
    inputs: tuple[str, ...]
    owners: Mapping[str, str]


def quantise(artifact: Artifact, dtype: str, samples: Samples | None = None, *, verify: bool = True) -> Artifact:
    """A lowered model in `dtype`; its digest stays that of the operators.

    int8 is full-integer: weights int8 by channel, activations 8 bits, and so are float inputs and outputs of the model
    (uint8 in ONNX, int8 in TFLite): between operators of a network there are 8 bits, too. fp16 rounds the weights;
    inputs, outputs and arithmetic remain float32.

    Args:
        artifact: lowered to fp32.
        dtype: "fp32" gives the artifact back.
        samples: inputs by which the ranges of activations are found; None: one of normal random numbers, which is good
            for timing.
        verify: compare with the fp32 model on the first sample; what is merely rounded passes.

    Raises:
        PrecisionError: the format has no such precision, or an operator cannot be brought to it.
    """
    if dtype == "fp32" or artifact.format not in PRECISIONS:
        return artifact
    if dtype not in PRECISIONS[artifact.format]:
        raise PrecisionError(f"{artifact.format} models cannot be brought to {dtype}, only to fp32 and "
                            f"{' and '.join(PRECISIONS[artifact.format])}")  # fmt: skip
    given = drawn(artifact.inputs, 1) if samples is None else [placed(s, artifact.format) for s in samples]
    _check(given, artifact.inputs)
    made = _quantiser(artifact.format, dtype)(artifact, given)
    if verify:
        _verify(artifact, made.data, given[0])
    inputs = tuple(
        replace(spec, dtype=kind, high=_HIGH[kind]) if kind in _HIGH and spec.dtype != kind else spec
        for spec, kind in zip(artifact.inputs, made.inputs, strict=True)
    )
    return replace(artifact, data=made.data, inputs=inputs, owners=made.owners)


def drawn(specs: Sequence[TensorSpec], n: int, seed: int = 0) -> list[list[np.ndarray]]:
    """Random samples of a model's inputs, in its own layout."""
    rng = np.random.default_rng(seed)
    return [[spec.draw(rng) for spec in specs] for _ in range(n)]


def placed(arrays: Sequence[np.ndarray], format: str) -> list[np.ndarray]:
    """Inputs or outputs in a format's layout: TFLite has channels last."""
    if format != "tflite":
        return list(arrays)
    return [np.ascontiguousarray(np.moveaxis(a, 1, -1)) if a.ndim == 4 else a for a in arrays]


def _check(samples: Samples, specs: Sequence[TensorSpec]) -> None:
    if not samples:
        raise PrecisionError("int8 needs at least one sample to be calibrated by")
    for sample in samples:
        found, wanted = [a.shape for a in sample], [spec.shape for spec in specs]
        if found != wanted:
            raise PrecisionError(f"calibration samples have the shapes {found}, the model takes {wanted}")


def _quantiser(format: str, dtype: str) -> Callable[[Artifact, Samples], Quantised]:
    if format == "onnx":
        from .onnx_int8 import quantise_onnx

        return quantise_onnx
    from .tflite import quantise_tflite, round_tflite

    return quantise_tflite if dtype == "int8" else round_tflite


def _verify(artifact: Artifact, data: bytes, sample: Sequence[np.ndarray]) -> None:
    """Raises PrecisionError where the two models' outputs have little to do with each other."""
    from .run import Runner

    try:
        whole, rounded = Runner(artifact.format, artifact.data), Runner(artifact.format, data)
        expected, found = whole.run(sample), rounded.run(sample)
    except HwnasError as error:
        raise PrecisionError(f"the quantised model cannot be run: {error}") from error
    for i, (want, got, step) in enumerate(zip(expected, found, rounded.steps, strict=True)):
        off, size = rms(got.astype(np.float64) - want), rms(want)
        if not off <= TOO_WRONG * size + 2 * step:
            raise PrecisionError(f"quantised, output {i} differs by {off:.3g} (RMS) where it is {size:.3g} in size")


def rms(array: np.ndarray) -> float:
    """Root of the mean square; 0 for no elements."""
    return float(np.sqrt(np.mean(np.square(array, dtype=np.float64)))) if array.size else 0.0
