"""The user's own loaders: repeatable, resumable, checked batch by batch."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hwnas.search.data.batches import Batches
from hwnas.search.data.data import DataError
from hwnas.search.data.loaders import LoaderBatches, wrap_loader
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

Epoch = list[tuple[Tensor, Tensor]]


class Noisy(Dataset[Any]):
    """Augments by all three global generators."""

    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        noise = torch.rand(1, 2, 2) + float(np.random.rand()) + random.random()
        return index + noise, index % 3


def noisy(**options: Any) -> DataLoader[Any]:
    return DataLoader(Noisy(), batch_size=6, **{"shuffle": True, **options})


def pairs(n: int = 5, size: int = 4) -> Epoch:
    images = torch.arange(n * size, dtype=torch.float32).view(n, size, 1, 1, 1).expand(n, size, 1, 2, 2)
    return [(images[i], torch.arange(size) % 2) for i in range(n)]


def epoch(batches: Batches, number: int, **options: Any) -> Epoch:
    return list(batches.epoch(number, **options))


def same(first: Epoch, second: Epoch) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a, b) and torch.equal(y, z) for (a, y), (b, z) in zip(first, second, strict=True)
    )


LOADERS: dict[str, Callable[..., Any]] = {
    "list": pairs,
    "dataloader": noisy,
    "generator": lambda: noisy(generator=torch.Generator().manual_seed(7)),
    "workers": lambda: noisy(num_workers=1),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_resuming_in_another_process_state_goes_on_bit_for_bit(kind: str) -> None:
    whole = wrap_loader(LOADERS[kind](), seed=3, name="train")
    epochs = [epoch(whole, n) for n in range(2)]
    for disturbance in (torch.manual_seed, np.random.seed, random.seed):
        disturbance(12345)
    resumed = wrap_loader(LOADERS[kind](), seed=3, name="train")
    assert same(epoch(resumed, 1, start=2), epochs[1][2:])
    assert same(epoch(resumed, 0), epochs[0])


@pytest.mark.parametrize("kind", ["dataloader", "generator"])
def test_seed_and_number_decide(kind: str) -> None:
    first, second = (wrap_loader(LOADERS[kind](), seed=seed, name="train") for seed in (0, 1))
    assert not same(epoch(first, 0), epoch(first, 1))
    assert not same(epoch(first, 0), epoch(second, 0))
    labels = torch.cat([y for _, y in epoch(first, 0)])
    assert labels.bincount().tolist() == [10, 10, 10]


def test_global_generators_are_left_as_they_were() -> None:
    def numbers() -> tuple[float, float, float, float]:
        return float(torch.rand(())), float(np.random.randn()), random.gauss(0, 1), float(torch.rand(()))

    def seed() -> None:
        torch.manual_seed(1)
        np.random.seed(1)
        random.seed(1)

    seed()
    expected = numbers(), numbers()
    batches = wrap_loader(noisy(), seed=0, name="x")
    seed()
    passing = batches.epoch(0)
    next(passing)
    first = numbers()
    next(passing)
    assert (first, numbers()) == expected


def test_a_loaders_own_generator_is_left_as_it_was() -> None:
    generator = torch.Generator().manual_seed(5)
    state = generator.get_state()
    epoch(wrap_loader(noisy(generator=generator), seed=0, name="x"), 0)
    assert torch.equal(generator.get_state(), state)


def test_what_the_consumer_draws_between_batches_changes_nothing() -> None:
    batches = wrap_loader(noisy(), seed=0, name="x")
    quiet = epoch(batches, 0)
    disturbed = []
    for batch in batches.epoch(0):
        disturbed.append(batch)
        torch.rand(3), np.random.rand(5), random.random()
    assert same(quiet, disturbed)


def test_two_passes_at_once_do_not_disturb_each_other() -> None:
    batches = wrap_loader(noisy(generator=torch.Generator()), seed=0, name="x")
    apart = epoch(batches, 0), epoch(batches, 1)
    together = list(zip(batches.epoch(0), batches.epoch(1), strict=True))
    assert same([a for a, _ in together], apart[0])
    assert same([b for _, b in together], apart[1])


def test_what_a_batch_is() -> None:
    images = np.random.default_rng(0).random((4, 6, 6, 1)).transpose(0, 3, 1, 2)  # float64, not contiguous
    batches = wrap_loader([(images, np.array([0, 1, 2, 3], dtype=np.uint8))], seed=0, name="x")
    ((x, y),) = epoch(batches, 0)
    assert (x.shape, x.dtype, x.is_contiguous()) == ((4, 1, 6, 6), torch.float32, True)
    assert (y.dtype, y.tolist()) == (torch.int64, [0, 1, 2, 3])
    assert (len(batches), batches.batch_size) == (1, 4)


def test_shards_are_the_rows_of_each_batch() -> None:
    batches = wrap_loader(noisy(), seed=0, name="x")
    whole, *shards = [epoch(batches, 0), *(epoch(batches, 0, shard=(rank, 3)) for rank in range(3))]
    joined = [tuple(torch.cat(parts) for parts in zip(*rows, strict=True)) for rows in zip(*shards, strict=True)]
    assert same(whole, joined)  # type: ignore[arg-type]


def test_rows_that_cannot_be_shared_evenly() -> None:
    loader = [*pairs(1, 4), *pairs(1, 3), *pairs(1, 1)]
    trained = LoaderBatches(loader[:2], seed=0, name="train")
    assert [[len(y) for _, y in epoch(trained, 0, shard=(rank, 2))] for rank in range(2)] == [[2, 1], [2, 1]]
    tested = LoaderBatches(loader, seed=0, name="test", whole=True)
    assert [[len(y) for _, y in epoch(tested, 0, shard=(rank, 2))] for rank in range(2)] == [[2, 1, 0], [2, 2, 1]]
    with pytest.raises(DataError, match="few: batch 2 has 1 images, too few for 2 processes; use drop_last"):
        epoch(LoaderBatches(loader, seed=0, name="few"), 0, shard=(0, 2))


# -- what cannot be used


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([(torch.zeros(1, 2, 2), 0)])


class Short(list[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(list(self[:1]))


class Failing:
    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[Any]:
        yield pairs()[0]
        raise RuntimeError("disk\ngone")


@pytest.mark.parametrize(
    ("loader", "reason"),
    [
        ([], "the loader is empty"),
        (DataLoader(TensorDataset(torch.zeros(0, 1, 2, 2), torch.zeros(0).long())), "the loader is empty"),
        (
            DataLoader(TensorDataset(torch.zeros(3, 1, 2, 2), torch.zeros(3).long()), 8, drop_last=True),
            "3 images are less than a batch of 8",
        ),
        (iter(pairs()), "only once"),
        (DataLoader(Stream()), "has no length"),
        ([torch.zeros(4, 1, 2, 2)], "expected a pair"),
        ([(1, 2, 3)], "found 3 things"),
        ([(torch.zeros(4, 1, 2, 2), torch.zeros(3).long())], "found 4x1x2x2 and 3"),
        ([(torch.zeros(4, 1, 2, 2), torch.zeros(4, 10).long())], "found 4x1x2x2 and 4x10"),
        ([(torch.zeros(4, 1, 2, 2), torch.zeros(4))], "labels must be whole numbers, not float32"),
        ([(torch.zeros(4, 1, 2, 2), torch.zeros(4).bool())], "labels must be whole numbers, not bool"),
        ([(torch.zeros(4, 1, 2, 2), torch.tensor([0, 1, -1, 0]))], "labels must be at least 0, found -1"),
        ([("a", "b")], "images are no tensor but a str"),
        ([(torch.zeros(0, 1, 2, 2), torch.zeros(0).long())], "found 0x1x2x2 and 0"),
    ],
)
def test_unusable_loaders(loader: Any, reason: str) -> None:
    with pytest.raises(DataError, match=f"mine.*{reason}"):
        wrap_loader(loader, seed=0, name="mine")


def test_labels_beyond_the_known_classes() -> None:
    batches = LoaderBatches(pairs(2), seed=0, name="mine")
    batches.classes = 1
    with pytest.raises(DataError, match="mine, batch 0: labels must be from 0 to 0, found 1"):
        epoch(batches, 0)


def test_images_that_change_their_shape() -> None:
    batches = wrap_loader([pairs()[0], (torch.zeros(4, 1, 3, 3), torch.zeros(4).long())], seed=0, name="mine")
    with pytest.raises(DataError, match="mine, batch 1: images are 1x3x3, those of batch 0 1x2x2"):
        epoch(batches, 0)


def test_loaders_that_end_early_or_fail() -> None:
    with pytest.raises(DataError, match="mine: the loader ended after 1 of its 5 batches"):
        epoch(wrap_loader(Short(pairs()), seed=0, name="mine"), 0)
    with pytest.raises(DataError, match="mine: the loader fails at batch 1: RuntimeError: disk gone"):
        epoch(wrap_loader(Failing(), seed=0, name="mine"), 0)


def test_workers_that_persist_are_warned_of() -> None:
    with pytest.warns(UserWarning, match="persistent_workers=False"):
        wrap_loader(noisy(num_workers=1, persistent_workers=True), seed=0, name="mine")
