"""A search space with a nested choice, a tied one, one over inputs, and candidates that make others dead."""

import torch
from hwnas.spaces.choices import InputChoice, LayerChoice
from hwnas.spaces.space import SearchSpace
from torch import Tensor, nn


class Zero(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 0.0


def conv(k: int, width: int = 4) -> nn.Module:
    return nn.Conv2d(width, width, k, padding=k // 2)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.first = LayerChoice({"k1": conv(1), "k3": conv(3), "skip": nn.Identity()})
        inner = LayerChoice({"k1": conv(1), "k5": conv(5), "k3": conv(3)})
        self.outer = LayerChoice({"deep": nn.Sequential(inner, nn.ReLU()), "k3": conv(3), "zero": Zero()})
        self.tied = nn.ModuleList(LayerChoice({"k1": conv(1), "k3": conv(3)}, label="tied") for _ in range(2))
        self.inputs = InputChoice(3, n_chosen=1, label="source")
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        a = self.first(x)
        b = self.outer(a)
        c = self.tied[1](self.tied[0](b))
        return self.head(torch.as_tensor(self.inputs([a, b, c])).mean((2, 3)))


def tricky() -> SearchSpace:
    return SearchSpace(Net, (3, 12, 12), name="tricky")


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.only = LayerChoice({"k1": conv(1, 3), "k3": conv(3, 3)})

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.only(x))


def two() -> SearchSpace:
    return SearchSpace(Two, (3, 12, 12), name="two")


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 1)
        self.first = LayerChoice({"k1": conv(1, 1), "k3": conv(3, 1), "skip": nn.Identity()})
        self.widen = nn.Conv2d(1, 8, 3, 2)
        self.second = LayerChoice({"k3": conv(3, 8), "k5": conv(5, 8), "k7": conv(7, 8)})
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.widen(self.first(self.stem(x))))
        return self.head(torch.relu(self.second(x)).mean((2, 3)))


def digits() -> SearchSpace:
    """For images of 8x8."""
    return SearchSpace(Small, (1, 8, 8), name="digits")
