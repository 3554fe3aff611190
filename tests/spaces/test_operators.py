"""What workloads consist of."""

import json

import pytest
from hwnas.devices.flops import count
from hwnas.spaces.calls import bind, example_tensors
from hwnas.spaces.operators import operators
from hwnas.spaces.registry import load_space
from hwnas.spaces.tracer import trace
from hwnas.testing.zoo import ZOO
from torch import Tensor, nn, zeros


def of(module: nn.Module, *inputs: Tensor) -> list[dict]:
    return operators(trace(module, inputs).simplified())


@pytest.mark.parametrize("name", ["residual", "transformer", "audio", "shared"])
def test_macs_are_those_that_torch_counts(name: str) -> None:
    space = ZOO[name]()
    supernet = space.supernet().eval()
    for workload in space.workloads():
        module = bind(supernet.get_submodule(workload.path), workload.call)
        counted = count(module, example_tensors(workload.inputs))
        assert sum(operator["macs"] for operator in workload.info["operators"]) == counted.macs, workload.op


def test_a_depthwise_convolution() -> None:
    (found,) = of(nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=6), zeros(2, 6, 8, 8))
    assert found == {
        "op": "depthwise",
        "macs": 2 * 6 * 16 * 9,
        "read": 2 * 6 * 64,
        "written": 2 * 6 * 16,
        "params": 6 * 9 + 6,
        "channels": [6, 6],
        "kernel": [3, 3],
        "stride": [2, 2],
        "groups": 6,
    }


@pytest.mark.parametrize(
    ("module", "family"),
    [
        (nn.Conv2d(4, 8, 1), "pointwise"),
        (nn.Conv2d(4, 8, 3), "conv"),
        (nn.Conv2d(4, 8, 3, groups=2), "grouped"),
        (nn.ConvTranspose2d(4, 8, 3), "transposed"),
        (nn.MaxPool2d(2), "pool"),
        (nn.Hardswish(), "activation"),
    ],
)
def test_families(module: nn.Module, family: str) -> None:
    assert [operator["op"] for operator in of(module, zeros(1, 4, 8, 8))] in (
        [family],
        ["reshape", "layout", "reshape"],
    )


def test_a_transposed_convolution_counts_as_torch_does() -> None:
    module, image = nn.ConvTranspose2d(4, 8, 3, stride=2), zeros(1, 4, 5, 5)
    (found,) = of(module, image)
    assert found["macs"] == count(module, [image]).macs == 5 * 5 * 4 * 8 * 9


def test_a_product_of_two_tensors_is_no_layer() -> None:
    class Product(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ x.transpose(1, 2)

    found = [operator for operator in of(Product(), zeros(2, 3, 4)) if operator["macs"]]
    assert [(operator["op"], operator["macs"]) for operator in found] == [("matmul", 2 * 3 * 4 * 3)]


def test_it_is_plain_data_and_the_cache_keeps_it() -> None:
    workload = load_space("proxyless-small", {}).workloads()[0]
    assert json.loads(json.dumps(workload.info["operators"])) == workload.info["operators"]
    assert [operator["op"] for operator in workload.info["operators"]][:3] == ["pointwise", "activation", "depthwise"]
