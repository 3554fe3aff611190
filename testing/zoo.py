"""Small search spaces of many kinds, for tests of whatever works on any space: tables, predictors, searches.

`ZOO` has them by name. Each is discovered in well under a second and runs in a millisecond or so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..spaces.choices import LayerChoice
from ..spaces.space import SearchSpace
from .zoo_graphs import Darts, Graph, Head, Nested, Shared, Strided, Zero, conv


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
    "darts": _space("darts", Darts, (3, 8, 8)),
    "graph": _space("graph", Graph, (3, 8, 8)),
    "nested": _space("nested", Nested, (3, 8, 8)),
    "several": lambda: SearchSpace(_Several, ((3, 8, 8), (1, 8, 8)), name="several"),
    "shared": _space("shared", Shared, (3, 8, 8)),
    "strided": _space("strided", Strided, (3, 16, 16)),
    "needs-data": _space("needs-data", _NeedsData, (16,)),
    "instance": instance,
}
