"""Supernets of a few milliseconds an inference, written as a user of the project would write them.

Each function returns a space and can be given as `--space benchmarks/nets.py:residual`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from hwnas.spaces.choices import InputChoice, LayerChoice
from hwnas.spaces.space import SearchSpace
from torch import Tensor, nn


def conv(width: int, out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    padding = kernel // 2
    plain = nn.Conv2d(width, out, kernel, stride, padding, groups=groups, bias=False)
    return nn.Sequential(plain, nn.BatchNorm2d(out), nn.ReLU())


def separable(width: int, kernel: int) -> nn.Sequential:
    """Depthwise, then pointwise."""
    return nn.Sequential(conv(width, width, kernel, groups=width), nn.Conv2d(width, width, 1), nn.BatchNorm2d(width))


class Residual(nn.Module):
    """Three stages of residual blocks whose branch is a convolution, a pooling or nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 32, 3, 2)
        self.downs, self.blocks = nn.ModuleList(), nn.ModuleList()
        for before, width in ((32, 32), (32, 64), (64, 128)):
            self.downs.append(nn.Identity() if before == width else conv(before, width, 3, 2))
            self.blocks.append(nn.ModuleList(self._choice(width) for _ in range(3)))
        self.head = nn.Linear(128, 10)

    @staticmethod
    def _choice(width: int) -> LayerChoice:
        narrow = width // 4
        bottleneck = nn.Sequential(conv(width, narrow, 1), conv(narrow, narrow), nn.Conv2d(narrow, width, 1))
        return LayerChoice(
            {
                "conv3": nn.Sequential(conv(width, width), nn.Conv2d(width, width, 3, padding=1)),
                "conv5": conv(width, width, 5),
                "bottleneck": bottleneck,
                "separable": separable(width, 5),
                "max": nn.MaxPool2d(3, 1, 1),
                "avg": nn.AvgPool2d(3, 1, 1),
                "skip": nn.Identity(),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for down, blocks in zip(self.downs, self.blocks, strict=True):
            x = down(x)
            for block in blocks:  # type: ignore[attr-defined]  # a ModuleList
                x = torch.relu(block(x) + x)
        return self.head(x.mean((2, 3)))


class Attention(nn.MultiheadAttention):
    """Self-attention, its result alone."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, x, x, need_weights=False)[0]


class Layer(nn.Module):
    """Pre-norm transformer layer: heads and the width of the MLP chosen, either left out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        heads = {f"h{h}": Attention(width, h) for h in (2, 4, 8)}
        self.attention = LayerChoice({**heads, "skip": nn.Identity()})
        self.mlp = LayerChoice({**{f"r{r}": self._mlp(width, r) for r in (1, 2, 4)}, "skip": nn.Identity()})

    @staticmethod
    def _mlp(width: int, ratio: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(width, ratio * width), nn.GELU(), nn.Linear(ratio * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norms[0](x))
        return x + self.mlp(self.norms[1](x))


class Transformer(nn.Module):
    """Reads 128 token ids."""

    def __init__(self, width: int = 128, layers: int = 4) -> None:
        super().__init__()
        self.tokens = nn.Embedding(1000, width)
        self.positions = nn.Parameter(torch.zeros(128, width))
        self.layers = nn.Sequential(*(Layer(width) for _ in range(layers)))
        self.norm, self.classifier = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.layers(self.tokens(ids) + self.positions)
        return self.classifier(self.norm(x).mean(1))


class Audio(nn.Module):
    """One second at 16 kHz; the stride of the stem decides on the length of all that follows."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.stem = LayerChoice({f"s{s}": nn.Conv1d(1, width, 40, stride=s) for s in (8, 16)})
        self.blocks = nn.ModuleList(self._choice(width) for _ in range(6))
        self.pools = nn.ModuleList(
            LayerChoice({"max": nn.MaxPool1d(2), "avg": nn.AvgPool1d(2)}, label="pool") for _ in range(3)
        )
        self.head = nn.Linear(width, 12)

    @staticmethod
    def _choice(width: int) -> LayerChoice:
        def plain(kernel: int, dilation: int = 1) -> nn.Module:
            padding = dilation * (kernel // 2)
            return nn.Sequential(
                nn.Conv1d(width, width, kernel, padding=padding, dilation=dilation), nn.BatchNorm1d(width), nn.SiLU()
            )

        narrow = nn.Sequential(nn.Conv1d(width, width, 9, padding=4, groups=width), nn.Conv1d(width, width, 1))
        return LayerChoice(
            {"k3": plain(3), "k9": plain(9), "k3d4": plain(3, 4), "separable": narrow, "skip": nn.Identity()}
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for i, block in enumerate(self.blocks):
            x = block(x) + x
            if i % 2:
                x = self.pools[i // 2](x)
        return self.head(x.mean(-1))


class Graph(nn.Module):
    """Five nodes, each with an operator of its own over one or two earlier ones; unused ones end dead."""

    def __init__(self, width: int = 48, nodes: int = 5) -> None:
        super().__init__()
        self.stem = conv(3, width, 3, 2)
        self.inputs = nn.ModuleList(InputChoice(n, min(n, 2)) for n in range(1, nodes + 1))
        self.operators = nn.ModuleList(
            LayerChoice(
                {
                    "conv3": conv(width, width),
                    "conv1": conv(width, width, 1),
                    "separable": separable(width, 5),
                    "max": nn.MaxPool2d(3, 1, 1),
                    "skip": nn.Identity(),
                }
            )
            for _ in range(nodes)
        )
        self.last = InputChoice(nodes, 2, "concat")
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        found = [self.stem(x)]
        for choose, operator in zip(self.inputs, self.operators, strict=True):
            found.append(operator(choose(found)))
        return self.head(self.last(found[1:]).mean((2, 3)))


class Nested(nn.Module):
    """Blocks inside blocks: depth first, then kernels that are tied over a stage, and one activation for all."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 32, 3, 2)
        self.stages = nn.ModuleList(nn.ModuleList(self._block(s) for _ in range(2)) for s in range(3))
        self.head = nn.Linear(32, 10)

    @staticmethod
    def _block(stage: int) -> LayerChoice:
        def step() -> nn.Sequential:
            kernels = {f"k{k}": nn.Conv2d(32, 32, k, padding=k // 2) for k in (3, 5, 7)}
            acts = {"relu": nn.ReLU(), "swish": nn.Hardswish()}
            return nn.Sequential(LayerChoice(kernels, label=f"kernel{stage}"), LayerChoice(acts, label="act"))

        inner = LayerChoice({"wide": conv(32, 32, 3), "pool": nn.AvgPool2d(3, 1, 1)})
        return LayerChoice(
            {
                "one": step(),
                "two": nn.Sequential(step(), step()),
                "mixed": nn.Sequential(step(), inner),
                "skip": nn.Identity(),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for blocks in self.stages:
            for block in blocks:  # type: ignore[attr-defined]  # a ModuleList
                x = block(x)
        return self.head(x.mean((2, 3)))


def residual(resolution: int = 80) -> SearchSpace:
    """At 64 to 96 pixels."""
    return SearchSpace(Residual, (3, resolution, resolution), name="residual", arguments={"resolution": resolution})


def transformer() -> SearchSpace:
    """128 tokens."""
    return SearchSpace(Transformer, example_inputs=torch.arange(128)[None] * 7, name="transformer")


def audio() -> SearchSpace:
    """16,000 samples."""
    return SearchSpace(Audio, (1, 16_000), name="audio")


def graph() -> SearchSpace:
    """64 pixels."""
    return SearchSpace(Graph, (3, 64, 64), name="graph")


def nested() -> SearchSpace:
    """64 pixels."""
    return SearchSpace(Nested, (3, 64, 64), name="nested")


NETS: dict[str, Callable[[], SearchSpace]] = {
    "residual": residual,
    "transformer": transformer,
    "audio": audio,
    "graph": graph,
    "nested": nested,
}
