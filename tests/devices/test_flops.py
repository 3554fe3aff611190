"""Exact counts against published ones and hand-made ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hwnas.devices import Artifact, DeviceError, create
from hwnas.devices.flops import Count, count
from torch import nn


def conv_bn(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, act: bool = True
) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), *([nn.ReLU6()] if act else []))


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = inputs * expand
        self.shortcut = stride == 1 and inputs == outputs
        self.body = nn.Sequential(
            *([conv_bn(inputs, hidden, 1)] if expand > 1 else []),
            conv_bn(hidden, hidden, 3, stride, hidden),
            conv_bn(hidden, outputs, 1, act=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.shortcut else self.body(x)


def mobilenet_v2() -> nn.Module:
    """Table 2 of Sandler et al. 2018 (https://arxiv.org/abs/1801.04381)."""
    layers: list[nn.Module] = [conv_bn(3, 32, 3, 2)]
    width = 32
    for expand, outputs, repeats, stride in [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ]:
        for i in range(repeats):
            layers.append(InvertedResidual(width, outputs, stride if i == 0 else 1, expand))
            width = outputs
    head = [conv_bn(320, 1280, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(1280, 1000)]
    return nn.Sequential(*layers, *head)


def test_mobilenet_v2_has_its_published_count() -> None:
    counted = count(mobilenet_v2(), [torch.empty(1, 3, 224, 224)])
    assert counted.macs == 300_774_272
    assert counted.params == 3_504_872


def test_the_module_is_left_as_it_was() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
    module[2].eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    count(module, [torch.randn(2, 3, 8, 8)])
    assert [child.training for child in module.modules()] == [True, True, True, False]
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert not any(child._forward_hooks for child in module.modules())
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_counts_by_hand() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    expected = Count(
        macs=2 * (6 * 6 * 4 * 3 * 9 + 144 * 10),
        params=4 * 3 * 9 + 144 * 10 + 10,
        activation_bytes=2 * 4 * (144 + 144 + 144 + 10),
    )
    assert count(module, [torch.empty(2, 3, 8, 8)]) == expected
    assert count(module, [torch.empty(2, 3, 8, 8, device="meta")]) == expected


def test_shared_parameters_count_once_and_their_macs_twice() -> None:
    layer = nn.Linear(5, 5, bias=False)
    assert count(nn.Sequential(layer, layer), [torch.empty(1, 5)]) == Count(50, 25, 40)


def test_attention_counts_its_products() -> None:
    """Projections 4 L d^2, scores and weighting 2 L^2 d; feed-forward 2 L d f (Vaswani et al. 2017)."""
    layer = nn.TransformerEncoderLayer(16, 4, dim_feedforward=32, batch_first=True)
    assert count(layer, [torch.empty(1, 10, 16)]).macs == 4 * 10 * 16**2 + 2 * 10**2 * 16 + 2 * 10 * 16 * 32


def test_recurrent_layers_count_their_products() -> None:
    """Four gates, each with the input and the state: 4 L (i h + h^2) (Hochreiter and Schmidhuber 1997)."""
    lstm = nn.LSTM(8, 16, batch_first=True)
    assert count(lstm, [torch.empty(1, 10, 8)]).macs == 4 * 10 * (8 * 16 + 16**2)


class ReadsValues(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4, bias=False)
        self.scale = torch.ones(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x) * self.scale
        return y if y.sum().item() > 1e30 else self.linear(y)


def test_a_forward_that_reads_values_is_run_on_real_tensors() -> None:
    assert count(ReadsValues(), [torch.randn(1, 4)]).macs == 32
    assert count(ReadsValues(), [torch.empty(1, 4, device="meta")]).macs == 32


def test_a_module_that_cannot_run_is_named() -> None:
    with pytest.raises(DeviceError, match="FLOPs of Linear cannot be counted"):
        count(nn.Linear(3, 3), [torch.empty(1, 4)])


def test_the_device_reads_what_the_artifact_states(ops_artifact: Callable[..., Artifact]) -> None:
    device = create("flops")
    assert device.exact
    assert device.unit == "MMACs"
    assert device.value(ops_artifact(300_774_272)) == pytest.approx(300.774272, abs=0)
    with pytest.raises(DeviceError, match="times nothing"):
        device.open()


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"macs": "many"}', b'{"macs": -1}', b'{"macs": NaN}', b"[" * 99999]
)
def test_an_artifact_without_macs_is_refused(data: bytes) -> None:
    with pytest.raises(DeviceError, match="MACs"):
        create("flops").value(Artifact("ops", data, (), "d", "ops"))
