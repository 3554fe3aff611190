"""The space `proxyless` against the original's figures, and its published networks."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hwnas.spaces.architecture import Architecture
from hwnas.spaces.builtin.blocks import MBConv
from hwnas.spaces.builtin.proxyless import proxyless
from hwnas.spaces.builtin.published import from_config
from hwnas.spaces.description import SpaceError
from hwnas.spaces.space import SearchSpace
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

MBCONVS = ("k3e3", "k3e6", "k5e3", "k5e6", "k7e3", "k7e6")


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return proxyless()


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def mmacs(module: nn.Module, resolution: int = 224) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.eval()(torch.zeros(1, 3, resolution, resolution))
    return counter.get_total_flops() / 2e6


def test_choices_and_candidates(space: SearchSpace) -> None:
    expected = {f"stages.{i}.{j}": (*MBCONVS, "skip") if j else MBCONVS for i in range(5) for j in range(4)}
    expected["stages.5.0"] = MBCONVS
    assert {d.label: d.candidates for d in space.decisions} == expected
    assert [d.label for d in space.decisions] == list(expected)


def test_size(space: SearchSpace) -> None:
    assert space.size == 6**6 * 7**15
    assert math.log10(space.size) == pytest.approx(17.35, abs=0.01)


def test_supernet_has_the_originals_parameters(space: SearchSpace) -> None:
    assert parameters(space.supernet()) == 16_034_168


def test_workloads(space: SearchSpace) -> None:
    workloads = space.workloads()
    candidates = [w for w in workloads if not w.fixed]
    fixed = {w.path: w for w in workloads if w.fixed}
    assert len({w.key() for w in candidates}) == len(candidates) == 66
    assert set(fixed) == {"stem", "first", "head", "classifier"}
    assert {path: w.info["role"] for path, w in fixed.items()} == {
        "stem": "first_conv",
        "first": None,
        "head": "feature_mix",
        "classifier": "classifier",
    }


def test_batch_norm_and_bias(space: SearchSpace) -> None:
    modules = list(space.supernet().modules())
    norms = [m for m in modules if isinstance(m, nn.BatchNorm2d)]
    assert {(m.momentum, m.eps) for m in norms} == {(0.1, 1e-3)}
    assert all(m.bias is None for m in modules if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize(("stride", "out", "shortcut"), [(1, 8, True), (2, 8, False), (1, 16, False)])
def test_shortcut_only_where_shapes_agree(stride: int, out: int, shortcut: bool) -> None:
    block = MBConv(8, out, kernel=5, expand=3, stride=stride).eval()
    x = torch.randn(2, 8, 9, 9)
    for parameter in block.project.parameters():
        nn.init.zeros_(parameter)
    y = block(x)
    assert y.shape == (2, out, math.ceil(9 / stride), math.ceil(9 / stride))
    assert torch.equal(y, x if shortcut else torch.zeros_like(y))
    assert block.workload_info() == {
        "op": "mbconv",
        "kernel": 5,
        "expand": 3,
        "stride": stride,
        "skip": shortcut,
        "role": None,
    }
    assert block.workload_label == "mbconv5x5_e3"


def test_built_network_is_plain_and_runs() -> None:
    space = proxyless(classes=7, resolution=64, width=0.5)
    architecture = space.sample(1, np.random.default_rng(0))[0]
    with torch.no_grad():
        assert space.build(architecture).eval()(torch.zeros(2, 3, 64, 64)).shape == (2, 7)


def test_width_multiplier_rounds_to_eight_and_spares_the_head() -> None:
    narrow, wide = proxyless(width=0.5).supernet(), proxyless(width=1.4).supernet()
    assert {m.out_channels % 8 for net in (narrow, wide) for m in net.modules() if isinstance(m, nn.Conv2d)} == {0}
    assert narrow.get_submodule("classifier").in_features == 1280
    assert wide.get_submodule("classifier").in_features == 1792


def test_kernels_expansions_and_cells_are_parameters() -> None:
    space = proxyless(kernels=(3,), expansions=(2, 4), widths=(24, 40), cells=(2, 1), strides=(2, 2), resolution=32)
    assert {d.label: d.candidates for d in space.decisions} == {
        "stages.0.0": ("k3e2", "k3e4"),
        "stages.0.1": ("k3e2", "k3e4", "skip"),
        "stages.1.0": ("k3e2", "k3e4"),
    }


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"classes": 0}, "classes"),
        ({"resolution": 4}, "resolution"),
        ({"resolution": 2000}, "resolution"),
        ({"width": 0.0}, "width"),
        ({"width": float("nan")}, "width"),
        ({"widths": (24, -40)}, "widths"),
        ({"widths": "abc"}, "widths"),
        ({"widths": (24, 40)}, "widths, cells and strides"),
        ({"kernels": (3, 4)}, "kernels"),
        ({"kernels": (3, 3)}, "kernels"),
        ({"kernels": ()}, "kernels"),
        ({"expansions": (3, 0)}, "expansions"),
        ({"strides": (3, 2, 2, 1, 2, 1)}, "strides"),
        ({"stem": 1.5}, "stem"),
        ({"first": None}, "first"),
    ],
)
def test_arguments_out_of_range_are_named(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(SpaceError, match=named):
        proxyless(**arguments)


def test_identity_follows_the_arguments() -> None:
    assert proxyless(width=1).cache_id == proxyless().cache_id
    assert proxyless(widths=[24, 40, 80, 96, 192, 320]).cache_id == proxyless().cache_id
    assert proxyless(width=0.5).cache_id != proxyless().cache_id
    assert proxyless(width=0.5).arguments == {"width": 0.5}


# parameters in millions and MMACs as published
PUBLISHED = {"mobile": (4.08, 320), "mobile_14": (6.86, 581), "cpu": (4.36, 439), "gpu": (7.12, 465)}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_network_has_its_published_size(shared: Path, name: str) -> None:
    space, architecture = from_config(shared / "luts" / "proxyless_configs" / f"proxyless_{name}.config")
    network = space.build(architecture)
    millions, expected_mmacs = PUBLISHED[name]
    assert parameters(network) / 1e6 == pytest.approx(millions, abs=0.005)
    assert mmacs(network) == pytest.approx(expected_mmacs, abs=0.6)


def test_published_mobile_network(shared: Path) -> None:
    space, architecture = from_config(shared / "luts" / "proxyless_configs" / "proxyless_mobile.config")
    assert space.arguments == {"widths": (32, 40, 80, 96, 192, 320)}
    assert architecture == Architecture.from_json(architecture.to_json())
    assert [architecture.choices[f"stages.0.{j}"] for j in range(4)] == ["k5e3", "k3e3", "skip", "skip"]
    assert architecture.choices["stages.5.0"] == "k7e6"
    assert space.decode(space.encode([architecture])) == [architecture]


def conv(name: str = "ConvLayer", **settings: object) -> dict[str, object]:
    return {"name": name, **settings}


def config() -> dict[str, Any]:
    """A small network of the published form: one stage of a block and a skip."""

    def block(conv: dict[str, object], shortcut: bool) -> dict[str, Any]:
        identity = {"name": "IdentityLayer"} if shortcut else None
        return {"name": "MobileInvertedResidualBlock", "mobile_inverted_conv": conv, "shortcut": identity}

    def mbconv(i: int, o: int, kernel: int, stride: int, expand: int) -> dict[str, object]:
        sizes = {"in_channels": i, "out_channels": o, "kernel_size": kernel, "stride": stride}
        return {"name": "MBInvertedConvLayer", **sizes, "expand_ratio": expand}

    return {
        "name": "ProxylessNASNets",
        "bn": {"momentum": 0.1, "eps": 0.001},
        "first_conv": conv(in_channels=3, out_channels=16, kernel_size=3, stride=2),
        "feature_mix_layer": conv(in_channels=24, out_channels=64, kernel_size=1, stride=1),
        "classifier": conv("LinearLayer", in_features=64, out_features=5),
        "blocks": [
            block(mbconv(16, 8, 3, 1, 1), False),
            block(mbconv(8, 24, 5, 2, 6), False),
            block({"name": "ZeroLayer", "stride": 1}, True),
        ],
    }


def write(folder: Path, data: object) -> Path:
    path = folder / "net.config"
    path.write_text(json.dumps(data))
    return path


def test_config_file_by_hand(tmp_path: Path) -> None:
    space, architecture = from_config(write(tmp_path, config()), resolution=32)
    assert architecture.choices == {"stages.0.0": "k5e6", "stages.0.1": "skip"}
    with torch.no_grad():
        assert space.build(architecture).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 5)


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        ("blocks.1.mobile_inverted_conv.name", "ShuffleLayer", "blocks.1.*ShuffleLayer"),
        ("blocks.1.mobile_inverted_conv.kernel_size", 4, "blocks.1: kernel 4"),
        ("blocks.1.mobile_inverted_conv.kernel_size", "x", "blocks.1.*kernel_size"),
        ("blocks.1.mobile_inverted_conv.in_channels", 9, "blocks.1: takes 9 channels, but gets 8"),
        ("blocks.1.mobile_inverted_conv.stride", 3, "blocks.1"),
        ("blocks.1.shortcut", {"name": "IdentityLayer"}, "blocks.1: has a shortcut"),
        ("blocks.2.shortcut", None, "blocks.2: a zero layer needs a shortcut"),
        ("blocks.0.mobile_inverted_conv.expand_ratio", 6, "blocks.0"),
        ("first_conv.stride", 1, "first_conv"),
        ("first_conv.act_func", "swish", "first_conv.act_func"),
        ("feature_mix_layer.in_channels", 32, "feature_mix_layer"),
        ("classifier.in_features", 32, "classifier: takes 32"),
        ("classifier.out_features", -5, "classifier.out_features"),
        ("bn.eps", 1e-5, "bn.eps"),
        ("blocks", [], "blocks"),
        ("name", "OtherNet", "name"),
    ],
)
def test_config_with_something_else_is_refused(tmp_path: Path, place: str, value: object, named: str) -> None:
    data = config()
    *parents, last = place.split(".")
    target: Any = data
    for step in parents:
        target = target[int(step) if step.isdigit() else step]
    target[last] = value
    with pytest.raises(SpaceError, match=f"net.config.*{named}") as caught:
        from_config(write(tmp_path, data))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not json", b"\xff\xfe", b"[1, 2]", b"[" * 100_000])
def test_file_that_is_no_config_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "net.config"
    path.write_bytes(content)
    with pytest.raises(SpaceError, match="is not a ProxylessNAS config"):
        from_config(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"absent\.config cannot be read"):
        from_config(tmp_path / "absent.config")
