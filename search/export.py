"""A found network as a file that a runtime loads: ONNX or an exported program, compared with torch."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import HwnasError
from ..profiler.lowering import lower, randomise_batch_norms
from ..profiler.table_export import write_new
from ..spaces.architecture import Architecture
from ..spaces.space import SearchSpace
from ..spaces.tracer import tensors_in
from .weights import Source, Weighted, network_with_weights

FORMATS = ("onnx", "pt2")
DRAWS = 3
"""Random inputs on which an exported model is compared with torch."""

TOLERANCE = 2e-2
"""What half precision may differ from torch; float32 models differ by less than 1e-4, which lowering makes sure of."""

Outputs = list[Tensor]
Run = Callable[[Sequence[Tensor]], Outputs]


class ExportError(HwnasError):
    """A network that cannot be written in the asked format."""


@dataclass(frozen=True)
class Exported:
    """An exported network.

    Attributes:
        route: what made the file: "emitter" (the project's own), "torch.onnx" or "torch.export".
        inputs: shapes, batch included.
        max_relative_error: largest difference from torch on random inputs, relative to the output's largest element.
        weights: where the weights are from: "fresh", "network" or "supernet".
        notes: what its user should know.
    """

    architecture: Architecture
    out: Path
    format: str
    route: str
    inputs: tuple[tuple[int, ...], ...]
    bytes: int
    parameters: int
    max_relative_error: float
    weights: Source
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        data = {part.name: getattr(self, part.name) for part in fields(self)}
        return {**data, "architecture": self.architecture.as_dict(), "out": str(self.out)}


def export(
    space: SearchSpace,
    architecture: Architecture,
    out: Path,
    *,
    format: str = "onnx",
    weights: Path | None = None,
    batch: int = 1,
    seed: int = 0,
    force: bool = False,
) -> Exported:
    """Write the network of an architecture to `out`, for a fixed batch size, and compare it with torch.

    Args:
        format: "onnx", or "pt2" (`torch.export`).
        weights: as in `network_with_weights`; without it they are drawn from `seed`.
        force: overwrite an existing file.

    Raises:
        ExportError: unknown format, a file that exists, or a network that the format cannot express.
        WeightsError: the weights are not those of this network.
    """
    check_request(out, format=format, batch=batch, force=force)
    weighted = network_with_weights(space, architecture, weights, seed=seed)
    network, inputs = weighted.network.eval(), space.inputs(batch)
    if weighted.source == "fresh":
        randomise_batch_norms(network, seed)
    examples = _examples(network, inputs)
    data, route, run = _FORMATS[format](network, inputs)
    error = _largest_error(run, examples)
    if not error <= TOLERANCE:
        raise ExportError(f"the exported model differs from torch by {error:.2g} of its largest output: not written")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_new(out, data)
    return Exported(
        architecture=architecture,
        out=out,
        format=format,
        route=route,
        inputs=tuple(tuple(tensor.shape) for tensor in inputs),
        bytes=len(data),
        parameters=sum(p.numel() for p in network.parameters()),
        max_relative_error=error,
        weights=weighted.source,
        notes=_notes(weighted, seed),
    )


def check_request(out: Path, *, format: str, batch: int, force: bool) -> None:
    """Raise ExportError for what can be refused before anything is built."""
    if format == "tflite":
        raise ExportError(
            "format tflite is not in this version; --format onnx (for onnxruntime, TensorRT, OpenVINO and others) and "
            "--format pt2 (torch.export, which litert-torch converts) are"
        )
    if format not in FORMATS:
        raise ExportError(f"there is no format {format!r}; there are {' and '.join(FORMATS)}")
    if batch < 1:
        raise ExportError(f"batch {batch}: at least one input is needed")
    if out.is_dir():
        raise ExportError(f"{out} is a folder; give the name of a file")
    if out.exists() and not force:
        raise ExportError(f"{out} exists; --force overwrites it")


def _onnx(network: nn.Module, inputs: Sequence[Tensor]) -> tuple[bytes, str, Run]:
    import onnxruntime

    artifact = lower(network, inputs, format="onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(artifact.data, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(tensors: Sequence[Tensor]) -> Outputs:
        given = {f"input_{i}": tensor.numpy() for i, tensor in enumerate(tensors)}
        return [torch.from_numpy(output) for output in session.run(None, {name: given[name] for name in names})]

    return artifact.data, artifact.route, run


def _pt2(network: nn.Module, inputs: Sequence[Tensor]) -> tuple[bytes, str, Run]:
    stream = io.BytesIO()
    with _quiet():
        try:
            program = torch.export.export(network, tuple(inputs))
        except Exception as error:  # the exporter raises whatever the user's code below it does
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise ExportError(f"torch.export cannot express {type(network).__name__}: {reason[:300]}") from error
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # holds paths of this machine
        torch.export.save(program, stream)
        stream.seek(0)
        loaded = torch.export.load(stream).module()

    def run(tensors: Sequence[Tensor]) -> Outputs:
        with torch.no_grad():
            return list(tensors_in(loaded(*tensors)))

    return stream.getvalue(), "torch.export", run


_FORMATS: dict[str, Callable[[nn.Module, Sequence[Tensor]], tuple[bytes, str, Run]]] = {"onnx": _onnx, "pt2": _pt2}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    disabled = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(disabled)


def _examples(network: nn.Module, inputs: Sequence[Tensor]) -> list[tuple[list[Tensor], Outputs]]:
    """Random inputs, with what torch computes from them."""
    examples = []
    for seed in range(DRAWS):
        drawn = _drawn(inputs, seed)
        with torch.no_grad():
            outputs = list(tensors_in(network(*(tensor.clone() for tensor in drawn))))
        if not all(torch.isfinite(output).all() for output in outputs):
            raise ExportError("the network's output is not finite on random inputs: its weights are unusable")
        examples.append((drawn, outputs))
    return examples


def _largest_error(run: Run, examples: Sequence[tuple[list[Tensor], Outputs]]) -> float:
    """Largest |model - torch| over the largest |torch|, over examples and outputs."""
    largest = 0.0
    for drawn, expected in examples:
        for want, got in zip(expected, run(drawn), strict=True):
            difference = (want.double() - got.double()).abs().max().item()
            largest = max(largest, difference / max(want.double().abs().max().item(), 1e-12))
    return largest


def _drawn(inputs: Sequence[Tensor], seed: int) -> list[Tensor]:
    """Normal random numbers in place of floats; integers (tokens) stay as the space gives them."""
    generator = torch.Generator().manual_seed(seed + 1)
    return [
        torch.randn(tensor.shape, generator=generator).to(tensor.dtype) if tensor.is_floating_point() else tensor
        for tensor in inputs
    ]


def _notes(weighted: Weighted, seed: int) -> tuple[str, ...]:
    if weighted.source == "fresh":
        return (f"no weights were given: they are random (seed {seed}), good for timing alone",)
    if weighted.source == "supernet":
        return (
            "the weights are the supernet's, whose batch-norm statistics are not this network's: train it "
            "(`hwnas train --weights`) before use",
        )
    return ()
