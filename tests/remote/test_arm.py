"""An agent on another architecture: Python and LiteRT for aarch64, by an emulator. None of its times means anything."""

from __future__ import annotations

from typing import Any

import torch
from hwnas.devices import create
from hwnas.profiler.lowering import lower
from hwnas.profiler.lowering.precision import quantise
from torch import nn


def test_models_of_both_precisions_run_by_xnnpack_on_arm(tool: Any) -> None:
    block = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU6(), nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Conv2d(8, 4, 1))
    plain = lower(block, [torch.rand(1, 3, 16, 16)], format="tflite")
    with create("mobile").open(agent=str(tool("arm") / "python"), timeout_s=120) as session:
        about = session.describe()
        assert about["architecture"] == "aarch64"
        assert about["runtime"]["delegate"] == "XNNPACK"
        for name, artifact in (("fp32", plain), ("int8", quantise(plain, "int8"))):
            report = session.load(name, artifact)
            assert report.operators
            assert report.delegated == report.operators, report.left
        result = session.round(["int8", "fp32"])
        assert result.failures == {}
        assert {id: len(samples.wall) for id, samples in result.samples.items()} == {"int8": 3, "fp32": 3}
