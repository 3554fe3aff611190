"""The shared pieces of weight training."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hwnas.errors import HwnasError
from hwnas.search.settings import WeightSettings
from hwnas.search.training import (
    Accuracy,
    ComputeError,
    TrainingDiverged,
    autocast,
    check_finite,
    compute_device,
    cosine,
    evaluate,
    make_optimizer,
    make_scaler,
    resolve_precision,
    set_lr,
    smoothed_cross_entropy,
    takes_channels_last,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

CPU = torch.device("cpu")


@given(lr=st.floats(1e-6, 10), total=st.integers(1, 1000), data=st.data())
def test_cosine_falls_from_lr_to_zero(lr: float, total: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, total - 1))
    assert cosine(lr, 0, total) == lr
    assert cosine(lr, step, total) > cosine(lr, step + 1, total)
    assert cosine(lr, total, total) == pytest.approx(0, abs=1e-12)
    assert cosine(lr, step, total) + cosine(lr, total - step, total) == pytest.approx(lr)


def test_cosine_of_nothing() -> None:
    assert cosine(0.1, 0, 0) == 0.1


def test_the_optimiser_is_that_of_the_paper() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    optimizer = make_optimizer(net.parameters(), WeightSettings())
    (group,) = optimizer.param_groups
    assert [group[name] for name in ("lr", "momentum", "nesterov", "weight_decay")] == [0.05, 0.9, True, 4e-5]
    set_lr(optimizer, 0.01)
    assert group["lr"] == 0.01


def test_norms_and_biases_can_be_left_out_of_the_decay() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    decayed, free = make_optimizer(net.parameters(), WeightSettings(), no_decay=True).param_groups
    assert [p.ndim for p in decayed["params"]] == [4]
    assert len(free["params"]) == 3
    assert (decayed["weight_decay"], free["weight_decay"]) == (4e-5, 0.0)
    assert (
        len(make_optimizer(nn.Linear(2, 2, bias=False).parameters(), WeightSettings(), no_decay=True).param_groups) == 1
    )


def test_plain_sgd() -> None:
    parameter = nn.Parameter(torch.ones(1))
    optimizer = make_optimizer([parameter], WeightSettings(lr=0.5, momentum=0.0, weight_decay=0.0))
    parameter.sum().backward()
    optimizer.step()
    assert parameter.item() == 0.5


@given(st.floats(0, 0.9), st.integers(2, 12))
def test_smoothing_mixes_the_target_with_the_uniform(smoothing: float, classes: int) -> None:
    logits = torch.randn(5, classes, generator=torch.Generator().manual_seed(classes), dtype=torch.float64)
    labels = torch.arange(5) % classes
    target = torch.full((5, classes), smoothing / classes, dtype=torch.float64)
    target[torch.arange(5), labels] += 1 - smoothing
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    assert smoothed_cross_entropy(logits, labels, smoothing).item() == pytest.approx(expected.item(), rel=1e-5)


def test_half_precision_logits_give_a_float32_loss() -> None:
    assert smoothed_cross_entropy(torch.randn(2, 3).bfloat16(), torch.tensor([0, 1])).dtype == torch.float32


def test_precision_on_the_cpu() -> None:
    product = {}
    for precision in ("auto", "fp32", "bf16", "fp16"):
        with autocast(CPU, precision):  # type: ignore[arg-type]
            product[precision] = nn.Linear(2, 2)(torch.ones(1, 2)).dtype
    assert product == {"auto": torch.float32, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    assert resolve_precision(CPU, "auto") == "fp32"
    assert [make_scaler(CPU, p).is_enabled() for p in ("auto", "bf16", "fp16")] == [False, False, True]  # type: ignore[arg-type]


def test_a_loss_that_is_not_finite_stops_training() -> None:
    check_finite(torch.tensor(3.0), 7, 0.1)
    with pytest.raises(TrainingDiverged, match=r"nan at step 7, with learning rate 0\.1; .* in runs/checkpoint;"):
        check_finite(torch.tensor(math.nan), 7, 0.1, checkpoint=Path("runs/checkpoint"))
    with pytest.raises(TrainingDiverged, match="inf at step 0"):
        check_finite(torch.tensor(math.inf), 0, 0.1)


def test_the_compute_device() -> None:
    assert compute_device("cpu") == CPU
    assert compute_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ComputeError, match="not on 'tpu'"):
        compute_device("tpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_asked_for_where_there_is_none() -> None:
    with pytest.raises(ComputeError, match="CUDA was asked for, but"):
        compute_device("cuda")


class Viewing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y.view(len(x), -1)


def test_networks_that_cannot_take_channels_last_are_found() -> None:
    images = torch.randn(2, 3, 8, 8)
    flat = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
    assert takes_channels_last(flat, images)
    assert flat[1].num_batches_tracked == 0
    assert flat.training
    assert not takes_channels_last(Viewing(), images)
    assert not takes_channels_last(nn.Linear(8, 8), torch.randn(2, 8))


class Split:
    """Batches of a made-up split."""

    def __init__(self, images: Tensor, labels: Tensor, size: int) -> None:
        self.images, self.labels, self.batch_size = images, labels, size

    def epoch(self, number: int, *, start: int = 0, shard: tuple[int, int] = (0, 1)) -> object:
        rank, world = shard
        for i in range(start * self.batch_size, len(self.labels), self.batch_size):
            rows = slice(i, i + self.batch_size)
            yield self.images[rows][rank::world], self.labels[rows][rank::world]


class Rank:
    """One of several processes whose sums are known."""

    def __init__(self, rank: int, world: int, others: list[np.ndarray]) -> None:
        self.rank, self.world, self.others = rank, world, others

    def gather(self, array: np.ndarray) -> list[np.ndarray]:
        return [*self.others, array]


def logits_of_images(images: Tensor) -> Tensor:
    return images


@pytest.fixture
def split() -> Split:
    generator = torch.Generator().manual_seed(0)
    return Split(torch.randn(53, 12, generator=generator), torch.randint(0, 12, (53,), generator=generator), 10)


def expected(split: Split) -> Accuracy:
    order = split.images.argsort(dim=1, descending=True)
    at = (order == split.labels[:, None]).float().argmax(1)
    loss = nn.functional.cross_entropy(split.images, split.labels).item()
    return Accuracy(100 * (at == 0).double().mean().item(), 100 * (at < 5).double().mean().item(), loss, 53)


def close(a: Accuracy, b: Accuracy) -> bool:
    return (a.top1, a.top5, a.loss) == pytest.approx((b.top1, b.top5, b.loss), rel=1e-5) and a.n == b.n


def test_accuracy_over_unequal_batches(split: Split) -> None:
    assert close(evaluate(logits_of_images, split, CPU), expected(split))  # type: ignore[arg-type]
    pairs = list(split.epoch(0))  # type: ignore[call-overload]
    assert close(evaluate(logits_of_images, pairs, CPU), expected(split))


def test_accuracy_of_several_processes(split: Split) -> None:
    """The last batch has 3 images, so that the last of 4 processes has none of it."""
    sums: list[np.ndarray] = []
    for rank in range(4):
        partial = Rank(rank, 4, list(sums))
        found = evaluate(logits_of_images, split, CPU, partial)  # type: ignore[arg-type]
        sums.append(_alone(split, rank))
    assert close(found, expected(split))


def _alone(split: Split, rank: int) -> np.ndarray:
    a = evaluate(logits_of_images, split, CPU, Rank(rank, 4, []))  # type: ignore[arg-type]
    return np.array([a.loss * a.n, a.top1 * a.n / 100, a.top5 * a.n / 100, a.n])


def test_few_classes() -> None:
    found = evaluate(logits_of_images, [(torch.eye(3), torch.tensor([0, 1, 0]))], CPU)
    assert (found.top1, found.top5) == (pytest.approx(200 / 3), 100)


def test_evaluating_leaves_the_network_as_it_was(split: Split) -> None:
    net = nn.Sequential(nn.BatchNorm1d(12), nn.Dropout(0.5))
    net[1].eval()
    first = evaluate(net, split, CPU)  # type: ignore[arg-type]
    assert evaluate(net, split, CPU) == first  # type: ignore[arg-type]
    assert (net.training, net[0].training, net[1].training) == (True, True, False)
    assert net[0].num_batches_tracked == 0


def test_nothing_to_evaluate() -> None:
    with pytest.raises(HwnasError, match="no image"):
        evaluate(logits_of_images, [], CPU)
