"""The devices of this package against their contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hwnas.devices import Artifact, Device, create
from hwnas.testing.devices import DeviceConformance


class TestCpu(DeviceConformance):
    @pytest.fixture
    def device(self) -> Device:
        return create("cpu")

    @pytest.fixture
    def artifacts(
        self, conv_net: Callable[..., bytes], onnx_artifact: Callable[..., Artifact]
    ) -> Mapping[str, Artifact]:
        return {"narrow": onnx_artifact(conv_net(8)), "wide": onnx_artifact(conv_net(32))}


class TestMobile(DeviceConformance):
    @pytest.fixture
    def device(self) -> Device:
        return create("mobile")

    @pytest.fixture
    def artifacts(self, tflite_model: Callable[..., Any]) -> Mapping[str, Artifact]:
        return {"narrow": tflite_model().conv(8).artifact(), "wide": tflite_model().conv(32).conv(32).artifact()}


class TestSimulated(DeviceConformance):
    @pytest.fixture
    def device(self) -> Device:
        return create("simulated", table={"slow": 3.5}, noise=0.01)

    @pytest.fixture
    def artifacts(self, ops_artifact: Callable[..., Artifact]) -> Mapping[str, Artifact]:
        return {"fast": ops_artifact(1_000_000), "slow": ops_artifact(2_000_000)}
