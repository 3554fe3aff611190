"""A found network as a file that a runtime loads: ONNX, TFLite or an exported program, compared with torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..profiler.calibration_data import CalibrationData
from ..profiler.lowering import randomise_batch_norms
from ..profiler.lowering.precision.run import Border
from ..profiler.table_export import write_new
from ..spaces.architecture import Architecture
from ..spaces.space import SearchSpace
from ..spaces.tracer import tensors_in
from .model_files import DTYPES, ExportError, ModelFile, Outputs, Run, model_file
from .weights import Source, Weighted, network_with_weights

__all__ = ["DTYPES", "FORMATS", "ExportError", "Exported", "check_request", "export"]

FORMATS = tuple(DTYPES)
DRAWS = 3
"""Random inputs on which an exported model is compared with torch."""
COMPARED = 32
"""Inputs on which it is compared instead, of data that it was calibrated by."""
RANDOM_SAMPLES = 16
"""Random inputs by which int8 is calibrated where there are no data."""

TOLERANCE = 2e-2
"""What half precision may differ from torch; float32 models differ by less than 1e-4, which lowering makes sure of."""
DOUBTFUL = 0.15
"""Relative RMS error from which an int8 model deserves a word; 8 bits through a MobileNet cost 0.02 to 0.1."""


@dataclass(frozen=True)
class Exported:
    """An exported network.

    Attributes:
        dtype: "fp32", "fp16" (weights) or "int8" (all of it).
        route: what made the file: "emitter" (the project's own), "torch.onnx", "litert-torch" or "torch.export".
        layout: of four-dimensional in- and outputs in the file: "NCHW" as in torch, "NHWC" in TFLite.
        inputs: shapes in the file, batch included.
        tensors: "inputs" and "outputs" of the file, with the parameters by which 8-bit ones are quantised:
            value = scale * (number - zero_point).
        max_relative_error: largest difference from torch, relative to the output's largest element.
        rms_error: root of the mean square of the differences, relative to that of the outputs.
        same_class: share of inputs for which the largest output is the same; None where the outputs are no classes.
        calibrated_by: the data that int8 was calibrated by; None: random numbers, or not needed.
        weights: where the weights are from: "fresh", "network" or "supernet".
        notes: what its user should know. doubts: what should worry them.
    """

    architecture: Architecture
    out: Path
    format: str
    dtype: str
    route: str
    layout: str
    inputs: tuple[tuple[int, ...], ...]
    tensors: dict[str, tuple[Border, ...]]
    bytes: int
    parameters: int
    max_relative_error: float
    rms_error: float
    same_class: float | None
    calibrated_by: str | None
    weights: Source
    notes: tuple[str, ...]
    doubts: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        data = {part.name: getattr(self, part.name) for part in fields(self)}
        tensors = {name: [_described(border) for border in borders] for name, borders in self.tensors.items()}
        return {**data, "architecture": self.architecture.as_dict(), "out": str(self.out), "tensors": tensors}


def _described(border: Border) -> dict[str, Any]:
    """A border in JSON; scale and zero point are null where numbers are the values."""
    return asdict(border) | ({} if border.scale else {"scale": None, "zero_point": None})


def export(
    space: SearchSpace,
    architecture: Architecture,
    out: Path,
    *,
    format: str = "onnx",
    dtype: str = "fp32",
    weights: Path | None = None,
    batch: int = 1,
    seed: int = 0,
    force: bool = False,
    calibration: CalibrationData | None = None,
) -> Exported:
    """Write the network of an architecture to `out`, for a fixed batch size, and compare it with torch.

    Args:
        format: "onnx", "tflite", or "pt2" (`torch.export`).
        dtype: one of the format's `DTYPES`.
        weights: as in `network_with_weights`; without it they are drawn from `seed`.
        force: overwrite an existing file.
        calibration: inputs by which int8 is calibrated, and on which it is compared; None: random numbers.

    Raises:
        ExportError: unknown format or precision, a file that exists, or a network that the format cannot express.
        LoweringError: an operator that the format or the precision has no form of.
        CalibrationDataError: data that are not inputs of the space.
        WeightsError: the weights are not those of this network.
    """
    check_request(out, format=format, dtype=dtype, batch=batch, force=force, calibrated=calibration is not None)
    if calibration is not None:
        calibration.check(space)
    weighted = network_with_weights(space, architecture, weights, seed=seed)
    network, inputs = weighted.network.eval(), space.inputs(batch)
    if weighted.source == "fresh":
        randomise_batch_norms(network, seed)
    samples = _samples(inputs, batch, calibration)
    given = samples[: max(1, COMPARED // batch)] if calibration is not None else _draws(inputs, range(1, DRAWS + 1))
    examples = _examples(network, given)
    arrays = [[tensor.numpy() for tensor in sample] for sample in samples] if dtype == "int8" else None
    made = model_file(format, dtype, network, inputs, arrays)
    errors = _compare(made.run, examples)
    if dtype != "int8" and not errors.largest <= TOLERANCE:
        largest = errors.largest
        raise ExportError(f"the exported model differs from torch by {largest:.2g} of its largest output: not written")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_new(out, made.data)
    return Exported(
        architecture=architecture,
        out=out,
        format=format,
        dtype=dtype,
        route=made.route,
        layout="NHWC" if format == "tflite" else "NCHW",
        inputs=tuple(border.shape for border in made.inputs),
        tensors={"inputs": made.inputs, "outputs": made.outputs},
        bytes=len(made.data),
        parameters=sum(p.numel() for p in network.parameters()),
        max_relative_error=errors.largest,
        rms_error=errors.rms,
        same_class=errors.same_class,
        calibrated_by=None if calibration is None else calibration.name,
        weights=weighted.source,
        notes=(*_notes(weighted, seed), *_format_notes(format, dtype, made, calibration)),
        doubts=_doubts(dtype, errors),
    )


def check_request(
    out: Path, *, format: str, batch: int, force: bool, dtype: str = "fp32", calibrated: bool = False
) -> None:
    """Raise ExportError for what can be refused before anything is built."""
    if format not in FORMATS:
        raise ExportError(f"there is no format {format!r}; there are {', '.join(FORMATS[:-1])} and {FORMATS[-1]}")
    if dtype not in DTYPES[format]:
        raise ExportError(f"format {format} is not written in {dtype!r}, only in {' and '.join(DTYPES[format])}")
    if calibrated and dtype != "int8":
        raise ExportError(f"--calibration-data is for --dtype int8; {dtype} needs none")
    if batch < 1:
        raise ExportError(f"batch {batch}: at least one input is needed")
    if out.is_dir():
        raise ExportError(f"{out} is a folder; give the name of a file")
    if out.exists() and not force:
        raise ExportError(f"{out} exists; --force overwrites it")


# -- inputs


def _samples(inputs: Sequence[Tensor], batch: int, calibration: CalibrationData | None) -> list[list[Tensor]]:
    """By which int8 is calibrated."""
    if calibration is None:
        return _draws(inputs, range(100, 100 + RANDOM_SAMPLES))
    return [[torch.from_numpy(array) for array in sample] for sample in calibration.batches(batch)]


def _draws(inputs: Sequence[Tensor], seeds: range) -> list[list[Tensor]]:
    """Normal random numbers in place of floats; integers (tokens) stay as the space gives them."""
    found = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        found.append(
            [torch.randn(t.shape, generator=generator).to(t.dtype) if t.is_floating_point() else t for t in inputs]
        )
    return found


def _examples(network: nn.Module, samples: Sequence[list[Tensor]]) -> list[tuple[list[Tensor], Outputs]]:
    """Inputs, with what torch computes from them."""
    examples = []
    for sample in samples:
        with torch.no_grad():
            outputs = list(tensors_in(network(*(tensor.clone() for tensor in sample))))
        if not all(torch.isfinite(output).all() for output in outputs):
            raise ExportError("the network's output is not finite on random inputs: its weights are unusable")
        examples.append((sample, outputs))
    return examples


# -- judging


@dataclass(frozen=True)
class _Errors:
    largest: float
    rms: float
    same_class: float | None


def _compare(run: Run, examples: Sequence[tuple[list[Tensor], Outputs]]) -> _Errors:
    """Over examples and outputs: |model - torch| relative to |torch|, the largest and by RMS, and agreement."""
    largest = squares = size = 0.0
    same: list[Tensor] = []
    for drawn, expected in examples:
        for want, got in zip(expected, run(drawn), strict=True):
            difference = want.double() - got.double()
            largest = max(largest, difference.abs().max().item() / max(want.double().abs().max().item(), 1e-12))
            squares += difference.square().sum().item()
            size += want.double().square().sum().item()
            if want.ndim == 2 and want.shape[1] > 1 and len(expected) == 1:
                same.append(want.argmax(1) == got.argmax(1))
    agreement = torch.cat(same).double().mean().item() if same else None
    return _Errors(largest, (squares / max(size, 1e-24)) ** 0.5, agreement)


def _doubts(dtype: str, errors: _Errors) -> tuple[str, ...]:
    if dtype != "int8" or errors.rms <= DOUBTFUL:
        return ()
    return (
        f"the int8 model's outputs are off by {100 * errors.rms:.0f} % (RMS): calibrate it by more and better data "
        "(--calibration-data), or use fp16 or fp32",
    )


def _notes(weighted: Weighted, seed: int) -> tuple[str, ...]:
    if weighted.source == "fresh":
        return (f"no weights were given: they are random (seed {seed}), good for timing alone",)
    if weighted.source == "supernet":
        return (
            "the weights are the supernet's, whose batch-norm statistics are not this network's: train it "
            "(`hwnas train --weights`) before use",
        )
    return ()


def _format_notes(format: str, dtype: str, made: ModelFile, calibration: CalibrationData | None) -> tuple[str, ...]:
    notes = []
    if format == "tflite" and any(len(border.shape) == 4 for border in (*made.inputs, *made.outputs)):
        notes.append("in this file images are NHWC: channels last")
    if dtype == "int8":
        notes.append("inputs and outputs are 8-bit numbers: value = scale * (number - zero point)")
        if calibration is None:
            notes.append(
                "calibrated by random numbers, which costs accuracy on real data: give --calibration-data, such as "
                "the training data"
            )
    return tuple(notes)
