"""Runs lowered models on the host, whatever their precision: floats in, floats out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....devices.data import DeviceError
from ..exporting import without_native_output


@dataclass(frozen=True)
class Border:
    """An input or output of a model.

    Attributes:
        shape: in the model's own layout. dtype: numpy's name.
        scale, zero_point: real value = scale * (number - zero_point); scale 0 where the numbers are the values.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float = 0.0
    zero_point: int = 0

    def quantised(self, array: np.ndarray) -> np.ndarray:
        """Values in the numbers that the model takes."""
        if not self.scale:
            return array.astype(self.dtype, copy=False)
        limits = np.iinfo(self.dtype)
        return np.clip(np.rint(array / self.scale) + self.zero_point, limits.min, limits.max).astype(self.dtype)

    def real(self, array: np.ndarray) -> np.ndarray:
        """The inverse of `quantised`, but for rounding."""
        if not self.scale:
            return array
        return ((array.astype(np.float32) - self.zero_point) * np.float32(self.scale)).astype(np.float32)


class Runner:
    """A model, loaded once.

    Attributes:
        inputs, outputs: of the model.

    Raises:
        DeviceError: the runtime does not take the model.
    """

    def __init__(self, format: str, data: bytes) -> None:
        self._model = _Onnx(data) if format == "onnx" else _TFLite(data)
        self.inputs: tuple[Border, ...] = self._model.inputs
        self.outputs: tuple[Border, ...] = self._model.outputs

    @property
    def steps(self) -> list[float]:
        """By how much neighbouring numbers of each output differ."""
        return [border.scale for border in self.outputs]

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Outputs as real values; inputs are real values, too, in the model's layout and order."""
        given = [border.quantised(array) for border, array in zip(self.inputs, arrays, strict=True)]
        return [border.real(array) for border, array in zip(self.outputs, self._model.run(given), strict=True)]


class _Onnx:
    def __init__(self, data: bytes) -> None:
        import onnxruntime

        from .onnx_borders import read_borders

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # a dozen types of its own
            raise DeviceError(f"onnxruntime refuses the model: {' '.join(str(error).split())[:300]}") from error
        self.inputs, self.outputs = read_borders(data)

    def run(self, arrays: Sequence[np.ndarray]) -> list[Any]:
        return list(self._session.run(None, {b.name: array for b, array in zip(self.inputs, arrays, strict=True)}))


class _TFLite:
    def __init__(self, data: bytes) -> None:
        from ai_edge_litert.interpreter import Interpreter

        try:
            with without_native_output():
                interpreter = Interpreter(model_content=data, num_threads=1)
                interpreter.allocate_tensors()
                self._runner = interpreter.get_signature_runner()
        except (RuntimeError, ValueError) as error:
            raise DeviceError(f"LiteRT refuses the model: {' '.join(str(error).split())[:300]}") from error
        self.inputs = _borders(self._runner.get_input_details())
        self.outputs = _borders(self._runner.get_output_details())

    def run(self, arrays: Sequence[np.ndarray]) -> list[Any]:
        found = self._runner(**{b.name: array for b, array in zip(self.inputs, arrays, strict=True)})
        return [found[border.name] for border in self.outputs]


def _borders(details: Mapping[str, Any]) -> tuple[Border, ...]:
    """In the order of the numbers at the names' ends: input_0, input_1, ..."""
    ordered = sorted(details.items(), key=lambda item: int("".join(filter(str.isdigit, item[0])) or 0))
    return tuple(
        Border(
            name,
            tuple(d["shape"].tolist()),
            np.dtype(d["dtype"]).name,
            float(d["quantization"][0]),
            int(d["quantization"][1]),
        )
        for name, d in ordered
    )
