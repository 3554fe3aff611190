"""The networks of the zoo whose point is who feeds whom: cells, graphs, nesting, sharing, changing shapes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..spaces.choices import InputChoice, LayerChoice


class Zero(nn.Module):
    """The operator "none"."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def conv(width: int, out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU in place."""
    parts = nn.Conv2d(width, out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)
    return nn.Sequential(*parts)


class Head(nn.Sequential):
    """Pooled over what is left of the image, whatever its size, then ten classes."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def operators(width: int) -> dict[str, nn.Module]:
    """Four that keep the shape, one of them without effect."""
    return {
        "none": Zero(),
        "skip": nn.Identity(),
        "conv": nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)),
        "pool": nn.AvgPool2d(3, 1, 1),
    }


class _Cell(nn.Module):
    """Two nodes after DARTS: an operator on every edge, two of the edges into a node chosen; tied over the cells."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.edges = nn.ModuleDict(
            {f"{i}-{n}": LayerChoice(operators(width), label=f"{i}-{n}") for n in (2, 3) for i in range(n)}
        )
        self.inputs = nn.ModuleDict({str(n): InputChoice(n, 2, label=f"inputs{n}") for n in (2, 3)})
        self.merge = nn.Conv2d(2 * width, width, 1)

    def forward(self, previous: Tensor, x: Tensor) -> Tensor:
        nodes = [previous, x]
        for n in (2, 3):
            nodes.append(self.inputs[str(n)]([self.edges[f"{i}-{n}"](nodes[i]) for i in range(n)]))
        return torch.as_tensor(self.merge(torch.cat(nodes[2:], 1)))


class Darts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.cells = nn.ModuleList(_Cell(4) for _ in range(2))
        self.head = Head(4)

    def forward(self, x: Tensor) -> Tensor:
        previous = x = self.stem(x)
        for cell in self.cells:
            previous, x = x, cell(previous, x)
        return torch.as_tensor(self.head(x))


class Graph(nn.Module):
    """Inputs chosen for every reduction; some nodes end up unused, and the concatenation varies in width."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 if i == 0 else 4, 4, 3, padding=1) for i in range(4))
        self.one = InputChoice(2, label="one")
        self.mean = InputChoice(3, None, "mean", label="mean")
        self.join = InputChoice(3, None, "concat", label="join")
        self.listed = InputChoice(3, 2, "none", label="listed")
        self.head = nn.Linear(1, 10)

    def forward(self, x: Tensor) -> Tensor:
        a = self.convs[0](x)
        b = self.convs[1](a)
        c = self.convs[2](self.one([a, b]))
        d = self.convs[3](self.mean([a, b, c]))
        joined = self.join([b, c, d]).mean((1, 2, 3), keepdim=True)
        first, second = self.listed([a, c, d])
        return torch.as_tensor(self.head((joined + first * second).mean((1, 2)).mean(1, keepdim=True)))


class Nested(nn.Module):
    """A choice inside a candidate: its own, tied over the cells, and under two parents by one label."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList(self._cell() for _ in range(2))
        self.head = Head(3)

    @staticmethod
    def _cell() -> LayerChoice:
        def kernel(label: str | None) -> LayerChoice:
            return LayerChoice({f"k{k}": nn.Conv2d(3, 3, k, padding=k // 2) for k in (1, 3, 5)}, label=label)

        deep = nn.Sequential(LayerChoice([nn.Identity(), nn.Sequential(nn.ReLU(), kernel("tied"))]), nn.Sigmoid())
        return LayerChoice(
            {
                "plain": nn.Sequential(nn.ReLU(), kernel("tied")),
                "double": nn.Sequential(kernel(None), nn.ReLU(), kernel("tied")),
                "deep": deep,
                "skip": nn.Identity(),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        for cell in self.cells:
            x = cell(x)
        return torch.as_tensor(self.head(x))


class Shared(nn.Module):
    """One choice and one convolution, each called twice, at two sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.op = LayerChoice({"conv": conv(3, 3), "pool": nn.MaxPool2d(3, 1, 1), "none": Zero()})
        self.fixed = nn.Conv2d(3, 3, 1)
        self.use = InputChoice(2)
        self.head = Head(3)

    def forward(self, x: Tensor) -> Tensor:
        large = self.op(self.fixed(x))
        small = self.op(self.fixed(F.max_pool2d(x, 2)))
        return torch.as_tensor(self.head(self.use([large, F.interpolate(small, scale_factor=2.0)])))


class Strided(nn.Module):
    """Strides chosen, a shortcut that is called where the shapes ask for it, widths tied over two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = LayerChoice({f"w{w}": nn.Conv2d(3, w, 1) for w in (4, 6)}, label="width")
        self.second = LayerChoice({f"w{w}": nn.Conv2d(w, 4, 3, padding=1) for w in (4, 6)}, label="width")
        self.strides = nn.ModuleList(LayerChoice({f"s{s}": conv(4, 4, 3, s) for s in (1, 2)}) for _ in range(3))
        self.down = nn.MaxPool2d(2, ceil_mode=True)  # where its second call is, depends on the strides
        self.shortcuts = nn.ModuleList(nn.Conv2d(4, 4, 1, 2) for _ in range(2))
        self.head = Head(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x))
        for stride, shortcut in zip(self.strides, [*self.shortcuts, self.down], strict=True):
            y = stride(x)
            x = y + (x if y.shape == x.shape else shortcut(x) + self.down(x))
        return torch.as_tensor(self.head(x))
