"""int8 for ONNX: QuantizeLinear and DequantizeLinear around operators, which onnxruntime turns into integer kernels.

Activations are uint8: the dot-product instructions of x86 multiply unsigned by signed bytes, and with signed
activations onnxruntime keeps depthwise convolutions and sums in float (a MobileNet-like network takes longer than in
fp32 then). Weights are int8 by output channel.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto

from ....devices.data import Artifact
from ..exporting import quiet
from . import onnx_borders
from .quantising import PrecisionError, Quantised

QUANTISING = frozenset({"QuantizeLinear", "DequantizeLinear"})
PASSING = frozenset({"Identity", "Cast", "Constant"})


def quantise_onnx(artifact: Artifact, samples: Sequence[Sequence[np.ndarray]]) -> Quantised:
    """Bring an ONNX artifact to int8, with uint8 in place of its float inputs and outputs.

    Raises:
        PrecisionError: it has no operator that onnxruntime has an integer form of.
    """
    names = [spec.name for spec in artifact.inputs]
    feeds = [dict(zip(names, sample, strict=True)) for sample in samples]
    original = onnx.load_from_string(artifact.data)
    model = _quantised(original, feeds)
    _check_quantised(model)
    onnx_borders.close(model, artifact.data, feeds)
    inputs = tuple(border.dtype for border in onnx_borders.read(model)[0])
    return Quantised(model.SerializeToString(), inputs, _owners(model, artifact.owners))


def _owners(model: ModelProto, known: Mapping[str, str]) -> dict[str, str]:
    """A number is made for who made the value; a value is made for who uses it."""
    owners = dict(known)
    for node in model.graph.node:
        made = owners.get(node.output[0], "")
        for name in node.input if node.op_type not in QUANTISING else ():
            owners.setdefault(name, made)
        if node.op_type == "QuantizeLinear":
            owners.setdefault(node.output[0], owners.get(node.input[0], ""))
    return {name: owner for name, owner in owners.items() if owner or name in known}


class _Reader:
    """What onnxruntime draws calibration samples from."""

    def __init__(self, feeds: Sequence[Mapping[str, np.ndarray]]) -> None:
        self._feeds: Iterator[Mapping[str, np.ndarray]] = iter(feeds)

    def get_next(self) -> Mapping[str, np.ndarray] | None:
        return next(self._feeds, None)


def _quantised(model: ModelProto, feeds: Sequence[Mapping[str, np.ndarray]]) -> ModelProto:
    with quiet(), tempfile.TemporaryDirectory(prefix="hwnas-int8-") as folder:
        import onnxruntime
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

        onnxruntime.set_default_logger_severity(4)  # of the quantiser's own sessions; ours say theirs
        out = Path(folder) / "model.onnx"
        reader: Any = _Reader(feeds)
        try:
            quantize_static(
                model,
                out,
                reader,
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                extra_options={"ForceQuantizeNoInputCheck": True},  # also pooling that is a model of its own
            )
        except Exception as error:  # whatever the quantizer stumbles over
            text = " ".join(str(error).split())[:300] or type(error).__name__
            raise PrecisionError(f"onnxruntime cannot quantise {_operators(model)}: {text}") from error
        return onnx.load(out)


def _check_quantised(model: ModelProto) -> None:
    """A model without one integer operator is not int8, whatever its borders are; one without any operator may be."""
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    kinds = {node.op_type for node in model.graph.node} - QUANTISING - PASSING
    types = {v.type.tensor_type.elem_type for v in model.graph.output}
    if TensorProto.FLOAT not in types or (kinds and not kinds & {*QDQRegistry, *QLinearOpsRegistry}):
        raise PrecisionError(f"onnxruntime has no int8 form of {_operators(model)}")


def _operators(model: ModelProto) -> str:
    kinds = sorted({node.op_type for node in model.graph.node} - QUANTISING - PASSING)
    types = {v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)}
    others = sorted(TensorProto.DataType.Name(t).lower() for t in types - {TensorProto.FLOAT})
    return (", ".join(kinds) or "a model without operators") + (f" ({', '.join(others)})" if others else "")
