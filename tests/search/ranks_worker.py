"""What two ranks do together: `test_distributed.py` runs it as ``python ranks_worker.py FILE``, to be filled with JSON.

All comparisons are made here, so that one start of two processes serves many tests.
"""

from __future__ import annotations

import copy
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hwnas.search.distributed import Ranks, synchronise_batch_norm
from torch import Tensor, nn

CHECKS: dict[str, Callable[[Ranks], Any]] = {}


def check(function: Callable[[Ranks], Any]) -> Callable[[Ranks], Any]:
    CHECKS[function.__name__] = function
    return function


def refusal(act: Callable[[], Any]) -> tuple[str, str]:
    try:
        act()
    except Exception as error:
        return type(error).__name__, str(error)
    return "", ""


@check
def place(ranks: Ranks) -> Any:
    return [ranks.rank, ranks.world, *ranks.shard]


@check
def averages(ranks: Ranks) -> Any:
    tensors = [
        torch.arange(6.0).view(2, 3) * (ranks.rank + 1),
        torch.full((1, 8, 3, 3), 1 / 3 + ranks.rank, dtype=torch.float64).to(memory_format=torch.channels_last),
        torch.tensor(ranks.rank + 3),
        torch.full((2,), ranks.rank, dtype=torch.bfloat16),
        torch.zeros(0),
    ]
    before = [tensor.data_ptr() for tensor in tensors]
    ranks.average(tensors)
    assert before == [tensor.data_ptr() for tensor in tensors]
    assert tensors[1].is_contiguous(memory_format=torch.channels_last)
    return [tensor.double().flatten().tolist() for tensor in tensors]


@check
def averaged_parameters(ranks: Ranks) -> Any:
    parameter = nn.Parameter(torch.full((2,), float(ranks.rank)))
    ranks.average([parameter])
    return parameter.tolist()


@check
def gathers(ranks: Ranks) -> Any:
    ragged = ranks.gather(np.arange(ranks.rank * 3, dtype=np.int16))
    assert all(array.dtype == np.int16 for array in ragged)
    return [[array.tolist() for array in ragged], [float(a) for a in ranks.gather(np.array(ranks.rank / 3))]]


@check
def agrees(ranks: Ranks) -> Any:
    values = [
        1,
        2.5,
        float("nan"),
        True,
        None,
        "x",
        b"y",
        np.int64(3),
        np.arange(3),
        torch.ones(2).bfloat16(),
        {"a": ()},
    ]
    ranks.agree("everything", *values, values)
    return True


@check
def disagrees(ranks: Ranks) -> Any:
    one_ulp = np.nextafter(np.float64(1), 1 + ranks.rank)
    return {
        "path": refusal(lambda: ranks.agree("the path of step 7", np.array([3, 1, 4 + ranks.rank]))),
        "bits": refusal(lambda: ranks.agree("alpha", torch.tensor([one_ulp]))),
        "shape": refusal(lambda: ranks.agree("shape", np.zeros((2, 3) if ranks.rank else (3, 2)))),
        "type": refusal(lambda: ranks.agree("type", 1 if ranks.rank else True)),
        "nesting": refusal(lambda: ranks.agree("nesting", [["a"], ["b"]] if ranks.rank else [["a", "b"], []])),
        "what": refusal(lambda: ranks.agree(f"step {ranks.rank}", 1)),
    }


class Net(nn.Module):
    """All three kinds, with and without parameters and running statistics, one of them used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=1e-3), nn.ReLU6())
        self.plain = nn.BatchNorm2d(4, affine=False, momentum=0.3)
        self.again = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), self.plain)
        self.volume = nn.BatchNorm3d(4, track_running_stats=False)
        self.mean = nn.BatchNorm1d(4, momentum=None)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.again(self.plain(self.stem(x)))
        x = self.volume(x.unflatten(2, (2, -1))).flatten(2)
        return self.head(self.mean(x.mean(2)))


def networks(ranks: Ranks, dtype: torch.dtype) -> tuple[Net, Any]:
    torch.manual_seed(0)
    joined = Net().to(dtype)
    return joined, synchronise_batch_norm(copy.deepcopy(joined), ranks)


def batch(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = 3 + 2 * torch.randn(8, 3, 8, 8, generator=generator, dtype=torch.float64)
    return x.to(dtype), torch.randint(3, (8,), generator=generator)


def distance(ours: Any, theirs: Any) -> float:
    """Largest difference, relative to the largest value; some gradients are zero but for rounding."""
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-3))


def training(ranks: Ranks, dtype: torch.dtype, cut: int) -> dict[str, float]:
    """Three steps on this rank's rows against three steps on all rows: the largest differences."""
    joined, ours = networks(ranks, dtype)
    assert list(ours.state_dict()) == list(joined.state_dict())
    assert ours.again[1] is ours.plain
    x, labels = batch(dtype)
    rows = slice(cut, None) if ranks.rank else slice(None, cut)
    worst: dict[str, float] = {}
    optimizers = [torch.optim.SGD(net.parameters(), 0.1, momentum=0.9) for net in (joined, ours)]
    for _ in range(3):
        outputs: list[Any] = []
        inputs: list[Any] = []
        for net, optimizer, part in ((joined, optimizers[0], slice(None)), (ours, optimizers[1], rows)):
            image = x[part].clone().requires_grad_()
            out = net(image)
            optimizer.zero_grad()
            nn.functional.cross_entropy(out, labels[part], reduction="sum").div(8).backward()
            outputs.append(out.detach())
            inputs.append(image.grad)
        ranks.average([p.grad for p in ours.parameters()])
        for gradient in (p.grad for p in ours.parameters()):
            gradient *= ranks.world  # each rank's loss is its part of the sum over all
        found = {
            "outputs": (outputs[1], outputs[0][rows]),
            "input gradients": (inputs[1], inputs[0][rows]),
            **{f"gradient {n}": (p.grad, joined.get_parameter(n).grad) for n, p in ours.named_parameters()},
        }
        for optimizer in optimizers:
            optimizer.step()
        found |= {f"state {n}": (v, joined.state_dict()[n]) for n, v in ours.state_dict().items()}
        worst = {name: max(worst.get(name, 0.0), distance(*pair)) for name, pair in found.items()}
    ranks.agree("the trained state", ours.state_dict())
    return worst


@check
def training_halves(ranks: Ranks) -> Any:
    return training(ranks, torch.float64, 4)


@check
def training_uneven(ranks: Ranks) -> Any:
    return training(ranks, torch.float64, 1)


@check
def training_single_precision(ranks: Ranks) -> Any:
    return training(ranks, torch.float32, 4)


def norm(ranks: Ranks, **options: Any) -> Any:
    return synchronise_batch_norm(nn.BatchNorm2d(2, **options), ranks)


@check
def far_from_zero(ranks: Ranks) -> Any:
    """Relative error of the running variance in float32 where the mean is 10,000 standard deviations."""
    x = 1e3 + 0.1 * torch.randn(64, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    module = norm(ranks, momentum=1.0)
    module(x[ranks.rank :: 2])
    return distance(module.running_var.double(), x.double().var((0, 2, 3)))


@check
def unequal_means(ranks: Ranks) -> Any:
    """The statistics are those of all rows together, not averages of the ranks' own."""
    module = norm(ranks, momentum=1.0)
    module(torch.full((2, 2, 1, 1), 10.0 * ranks.rank) + torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1))
    return [module.running_mean.tolist(), module.running_var.tolist()]


@check
def batch_statistics_without_a_trace(ranks: Ranks) -> Any:
    module, before = norm(ranks), norm(ranks).state_dict()
    module.track_running_stats = False
    x = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(2))
    y = module(x[ranks.rank :: 2])
    same = all(torch.equal(module.state_dict()[name], before[name]) for name in before)
    return [same, distance(y, nn.BatchNorm2d(2)(x)[ranks.rank :: 2])]


@check
def without_gradients(ranks: Ranks) -> Any:
    module = norm(ranks)
    x = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(2))
    reference = nn.BatchNorm2d(2)
    with torch.no_grad():
        y, wanted = module(x[ranks.rank :: 2]), reference(x)[ranks.rank :: 2]
    return [y.requires_grad, distance(y, wanted), distance(module.running_var, reference.running_var)]


@check
def frozen_weights(ranks: Ranks) -> Any:
    module = norm(ranks).requires_grad_(False)
    x: Any = torch.randn(4, 2, 3, 3, requires_grad=True)
    module(x).square().sum().backward()
    return [module.weight.grad is None, bool(x.grad.abs().max() < 1e-4), module(x.detach()).requires_grad]


@check
def half_precision(ranks: Ranks) -> Any:
    x = torch.randn(8, 2, 4, 4, generator=torch.Generator().manual_seed(3)).to(memory_format=torch.channels_last)
    module = norm(ranks)
    image: Any = x[ranks.rank :: 2].bfloat16().requires_grad_()
    y = module(image)
    y.float().square().sum().backward()
    kept = y.is_contiguous(memory_format=torch.channels_last)
    wanted = nn.BatchNorm2d(2)(x)[ranks.rank :: 2]
    return [str(y.dtype), str(image.grad.dtype), str(module.weight.grad.dtype), kept, distance(y.float(), wanted)]


@check
def evaluation_is_each_ranks_own(ranks: Ranks) -> Any:
    """Only one rank evaluates: nothing is exchanged, so nobody waits for another."""
    if ranks.rank:
        return True
    module = norm(ranks).eval()
    x = torch.randn(4, 2, 3, 3)
    return torch.equal(module(x), nn.BatchNorm2d(2).eval()(x))


@check
def one_value(ranks: Ranks) -> Any:
    """One row on each rank is enough; one row in all is not."""
    module = synchronise_batch_norm(nn.BatchNorm1d(2), ranks)
    module(torch.full((1, 2), float(ranks.rank)))
    return refusal(lambda: module(torch.ones(1 - ranks.rank, 2)))


@check
def what_is_swapped(ranks: Ranks) -> Any:
    class Own(nn.BatchNorm2d):
        pass

    net = nn.ModuleDict({"a": nn.BatchNorm2d(2), "own": Own(2)})
    weight, own, hidden = net["a"].weight, net["own"], net["a"].running_mean
    synchronise_batch_norm(net, ranks)
    swapped = net["a"]
    synchronise_batch_norm(net, ranks)
    copied = copy.deepcopy(net)
    return [
        isinstance(swapped, nn.BatchNorm2d) and type(swapped) is not nn.BatchNorm2d,
        swapped.weight is weight and swapped.running_mean is hidden,
        net["own"] is own and net["a"] is swapped,
        copied["a"].ranks is ranks and copied["a"].weight is not weight,
        "ValueError" in refusal(lambda: swapped(torch.zeros(4, 2))),
    ]


@check
def adopted(ranks: Ranks) -> Any:
    """A group that the caller had joined is used, and not left."""
    with Ranks.start("cpu") as mine:
        mine.agree("one", 1)
        place = mine.shard
    ranks.agree("two", 2)
    return place == ranks.shard


def last(ranks: Ranks) -> Any:
    """Rank 1 ends without a word; rank 0 is to learn of it at once, not after the timeout."""
    if ranks.rank:
        os._exit(0)
    os.environ.pop("HWNAS_LAUNCHED")
    return refusal(lambda: ranks.gather(np.zeros(2)))


def main() -> None:
    torch.set_num_threads(1)
    with Ranks.start("cpu", timeout_s=60) as ranks:
        found = {name: function(ranks) for name, function in CHECKS.items()}
        everyones = [
            json.loads(part.tobytes()) for part in ranks.gather(np.frombuffer(json.dumps(found).encode(), "u1"))
        ]
        lost = last(ranks)
    assert isinstance(lost, tuple)
    Path(sys.argv[1]).write_text(json.dumps({"ranks": everyones, "lost": lost}))


if __name__ == "__main__":
    main()
