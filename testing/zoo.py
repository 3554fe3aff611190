"""Small search spaces of many kinds, for tests of whatever works on any space: tables, predictors, searches.

`ZOO` has them by name. Each is discovered in well under a second and runs in a millisecond or so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..spaces.choices import InputChoice, LayerChoice
from ..spaces.space import SearchSpace


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


class _Residual(nn.Module):
    """Residual blocks (added in place) with a choice of convolutions and pooling, and an activation that is tied."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8)
        self.blocks = nn.ModuleList(
            LayerChoice(
                {
                    "conv3": conv(8, 8),
                    "conv5": conv(8, 8, 5),
                    "max": nn.MaxPool2d(3, 1, 1),
                    "avg": nn.AvgPool2d(3, 1, 1),
                    "skip": nn.Identity(),
                }
            )
            for _ in range(3)
        )
        self.acts = nn.ModuleList(LayerChoice([nn.ReLU(), nn.Hardswish()], label="act") for _ in range(3))
        self.head = Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block, act in zip(self.blocks, self.acts, strict=True):
            y = block(x)
            y = y + x if y is x else y.add_(x)
            x = act(y)
        return torch.as_tensor(self.head(x))


class _Attention(nn.MultiheadAttention):
    """Self-attention whose weights come with the output."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads, batch_first=True)
        self.workload_label = "attention"


class _TransformerLayer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = LayerChoice({f"h{h}": _Attention(width, h) for h in (2, 4)}, label="heads")
        self.mlp = LayerChoice(
            {
                f"r{r}": nn.Sequential(nn.Linear(width, r * width), nn.GELU(), nn.Linear(r * width, width))
                for r in (1, 2)
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + torch.as_tensor(self.mlp(self.norm2(x)))


class _Transformer(nn.Module):
    """Depth by identities, heads tied over the layers that are there, an mlp ratio for each; reads token ids."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(50, 16)
        self.positions = nn.Parameter(torch.zeros(12, 16))
        self.layers = nn.ModuleList(
            LayerChoice({"layer": _TransformerLayer(16), "skip": nn.Identity()}) for _ in range(3)
        )
        self.classifier = nn.Linear(16, 5)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions
        for layer in self.layers:
            x = layer(x)
        return torch.as_tensor(self.classifier(x.mean(1)))


class _Audio(nn.Module):
    """One-dimensional convolutions without padding, so that the kernel decides on the length of all that follows."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            LayerChoice({f"k{k}": nn.Conv1d(1, 4, k, stride=4) for k in (8, 16)}),
            nn.ReLU(),
            LayerChoice({f"k{k}": nn.Conv1d(4, 4, k) for k in (3, 5, 9)}),
            LayerChoice({"none": nn.Identity(), "pool": nn.MaxPool1d(2)}),
            LayerChoice({f"k{k}": nn.Conv1d(4, 4, k) for k in (3, 5)}),
        )
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.head(self.layers(x).mean(-1)))


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


class _Darts(nn.Module):
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


class _Graph(nn.Module):
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


class _Nested(nn.Module):
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


class _Gate(nn.Module):
    """Several inputs, one by name, and a number; two outputs, one of which may be the input as it is."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, kernel, padding=kernel // 2)

    def forward(self, x: Tensor, pair: tuple[Tensor, Tensor], *, gate: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        return self.conv(x * gate) * scale + pair[0], pair[1]


class _Several(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(1, 4, 1)
        self.gates = nn.ModuleList(LayerChoice({"k1": _Gate(1), "k3": _Gate(3)}) for _ in range(2))
        self.last = LayerChoice([nn.Bilinear(4, 4, 6), nn.Bilinear(4, 4, 6, bias=False)])

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        x, y = self.left(image), self.right(mask)
        for gate in self.gates:
            x, y = gate(x, (y, x), gate=torch.sigmoid(y), scale=0.5)
        return torch.as_tensor(self.last(x.mean((2, 3)), y.mean((2, 3))))


class _Shared(nn.Module):
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


class _Strided(nn.Module):
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
            if y.shape == x.shape:
                x = y + x
            else:
                x = y + shortcut(x) + self.down(x)
        return torch.as_tensor(self.head(x))


class _NeedsData(nn.Module):
    """A constructor that looks at values and keeps numpy data; its parts are called one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.from_numpy(np.hanning(16).astype(np.float32)))
        rates = [float(r) for r in torch.linspace(0, 0.2, 2)]
        self.parts = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 8))
        self.ops = nn.ModuleList(
            LayerChoice([nn.Sequential(nn.Linear(8, 8), nn.Dropout(r)), nn.Identity(), nn.Tanh()]) for r in rates
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.get_buffer("window")
        for part in self.parts:
            x = part(x)
        for op in self.ops:
            x = op(x)
        return x


def _space(name: str, factory: Callable[[], nn.Module], shape: Sequence[int]) -> Callable[[], SearchSpace]:
    return lambda: SearchSpace(factory, shape, name=name)


def instance() -> SearchSpace:
    """A space of a module that exists already, with a choice at its root."""
    convs = {
        "one": nn.Conv2d(3, 3, 1),
        "two": nn.Sequential(conv(3, 3), LayerChoice({"relu": nn.ReLU(), "none": Zero()})),
    }
    return SearchSpace(LayerChoice(convs, label="root"), (3, 8, 8), name="instance")


ZOO: dict[str, Callable[[], SearchSpace]] = {
    "residual": _space("residual", _Residual, (3, 12, 12)),
    "transformer": lambda: SearchSpace(
        _Transformer, example_inputs=torch.arange(24).reshape(2, 12), name="transformer"
    ),
    "audio": _space("audio", _Audio, (1, 200)),
    "darts": _space("darts", _Darts, (3, 8, 8)),
    "graph": _space("graph", _Graph, (3, 8, 8)),
    "nested": _space("nested", _Nested, (3, 8, 8)),
    "several": lambda: SearchSpace(_Several, ((3, 8, 8), (1, 8, 8)), name="several"),
    "shared": _space("shared", _Shared, (3, 8, 8)),
    "strided": _space("strided", _Strided, (3, 16, 16)),
    "needs-data": _space("needs-data", _NeedsData, (16,)),
    "instance": instance,
}
