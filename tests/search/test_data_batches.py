"""Batches in memory: repeatable, resumable, shared out; augmentation; splits."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from hwnas.search.data.batches import Batches, TensorBatches, share
from hwnas.search.data.data import DataError
from hwnas.search.data.splits import Request, rows_for_testing, split_training
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor


def batches(samples: int = 50, size: int = 8, seed: int = 3, shuffled: bool = True, **augmentation: Any) -> Batches:
    """Images whose pixels tell which one they are and where the pixel was."""
    images = torch.arange(samples * 2 * 6 * 5, dtype=torch.float32).view(samples, 2, 6, 5) + 1
    one: dict[str, Any] = {"mean": torch.zeros(2), "std": torch.ones(2)}
    labels = torch.arange(samples)
    return TensorBatches(
        images, labels, size, seed=seed, shuffled=shuffled, name="made up", split="train", **{**one, **augmentation}
    )


def same(first: list[tuple[Tensor, Tensor]], second: list[tuple[Tensor, Tensor]]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True)
    )


def test_what_a_batch_is() -> None:
    split = batches(shift=2, flip=True)
    epoch = list(split.epoch(0))
    assert len(epoch) == len(split) == 6
    for images, labels in epoch:
        assert (images.shape, images.dtype, images.is_contiguous()) == ((8, 2, 6, 5), torch.float32, True)
        assert (labels.shape, labels.dtype, labels.is_contiguous()) == ((8,), torch.int64, True)


def test_an_epoch_has_each_sample_once_in_a_new_order() -> None:
    split = batches(samples=48)
    orders = [torch.cat([y for _, y in split.epoch(n)]).tolist() for n in range(3)]
    assert all(sorted(order) == list(range(48)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert orders[0] != sorted(orders[0])


def test_in_order_and_all_of_it_for_testing() -> None:
    split = batches(samples=50, shuffled=False)
    assert [len(y) for _, y in split.epoch(4)] == [8] * 6 + [2]
    assert torch.cat([y for _, y in split.epoch(4)]).tolist() == list(range(50))
    assert len(split) == 7


def test_seed_and_epoch_decide_everything() -> None:
    def epoch(seed: int, number: int) -> list[tuple[Tensor, Tensor]]:
        return list(batches(seed=seed, shift=2, flip=True).epoch(number))

    assert same(epoch(3, 1), epoch(3, 1))
    assert not same(epoch(3, 1), epoch(3, 2))
    assert not same(epoch(3, 1), epoch(4, 1))


def test_global_generators_play_no_part() -> None:
    split = batches(shift=2, flip=True)
    torch.manual_seed(1)
    before = list(split.epoch(0))
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert same(before, list(split.epoch(0)))
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())


@given(start=st.integers(0, 9), number=st.integers(0, 3))
def test_resuming_goes_on_bit_for_bit(start: int, number: int) -> None:
    split = batches(shift=2, flip=True)
    assert same(list(split.epoch(number, start=start)), list(split.epoch(number))[start:])


@pytest.mark.parametrize("world", [1, 2, 4])
def test_shards_are_the_rows_of_the_joined_batch(world: int) -> None:
    split = batches(shift=2, flip=True)
    shards = [list(split.epoch(1, start=2, shard=(rank, world))) for rank in range(world)]
    joined = [
        (torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])) for parts in zip(*shards, strict=True)
    ]
    assert same(joined, list(split.epoch(1, start=2)))
    assert {len(y) for shard in shards for _, y in shard} == {8 // world}


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(DataError, match=r"made up, train: a batch of 8 images .* 3 processes; use a multiple of 3"):
        batches().epoch(0, shard=(0, 3))


def test_a_last_short_batch_of_the_test_is_shared_completely() -> None:
    split = batches(samples=50, shuffled=False)
    rows = [torch.cat([y for _, y in split.epoch(0, shard=(rank, 3))]).tolist() for rank in range(3)]
    assert sorted(chain.from_iterable(rows)) == list(range(50))


@given(rows=st.integers(0, 100), world=st.integers(1, 9))
def test_shares_are_a_partition(rows: int, world: int) -> None:
    parts = [list(range(rows))[share(rows, (rank, world))] for rank in range(world)]
    assert list(chain.from_iterable(parts)) == list(range(rows))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_shifts_move_whole_images_and_let_zeros_in() -> None:
    split = batches(samples=48, shift=2)
    seen = set()
    for images, labels in split.epoch(0):
        for image, label in zip(images, labels.tolist(), strict=True):
            original = (torch.arange(60, dtype=torch.float32) + 1 + 60 * label).view(2, 6, 5)
            padded = torch.nn.functional.pad(original, (2, 2, 2, 2))
            places = [
                (dy, dx)
                for dy in range(5)
                for dx in range(5)
                if torch.equal(image, padded[:, dy : dy + 6, dx : dx + 5])
            ]
            assert len(places) == 1
            seen.add(places[0])
    assert len(seen) > 12  # of 25


def test_flips_mirror_about_half() -> None:
    split = batches(samples=48, flip=True)
    mirrored = 0
    for images, labels in split.epoch(0):
        for image, label in zip(images, labels.tolist(), strict=True):
            original = (torch.arange(60, dtype=torch.float32) + 1 + 60 * label).view(2, 6, 5)
            mirrored += torch.equal(image, original.flip(-1))
            assert torch.equal(image, original) or torch.equal(image, original.flip(-1))
    assert 12 <= mirrored <= 36


def test_augmentation_belongs_to_the_sample_not_to_its_place() -> None:
    """The same sample looks the same whatever the batch size, hence wherever it stands."""
    by_label = [
        {int(y): x for xs, ys in batches(48, size, shift=2, flip=True).epoch(5) for x, y in zip(xs, ys, strict=True)}
        for size in (4, 16)
    ]
    assert all(torch.equal(by_label[0][label], by_label[1][label]) for label in range(48))


def test_normalised_in_the_images_own_unit() -> None:
    images = torch.randint(0, 256, (40, 3, 4, 4), dtype=torch.uint8)
    mean, std = torch.tensor([10.0, 20.0, 30.0]), torch.tensor([1.0, 2.0, 4.0])
    labels = torch.zeros(40, dtype=torch.int32)
    split = TensorBatches(
        images, labels, 40, seed=0, shuffled=False, name="x", split="test", mean=mean, std=std, shift=0
    )
    (found, _), *_ = split.epoch(0)
    assert torch.allclose(found, (images.float() - mean.view(3, 1, 1)) / std.view(3, 1, 1))


def test_fewer_samples_than_a_batch() -> None:
    with pytest.raises(DataError, match=r"batch of 8 images .* only 7; use a batch size of at most 7"):
        batches(samples=7)
    assert len(batches(samples=0)) == 0
    assert list(batches(samples=0).epoch(0)) == []
    assert len(batches(samples=7, shuffled=False)) == 1


# -- splits

LABELS = st.lists(st.integers(0, 4), min_size=20, max_size=200).map(np.array)


def request(seed: int = 0, held_out: float | None = None) -> Request:
    return Request(8, 8, seed, held_out)


@given(LABELS, st.integers(0, 3))
def test_held_out_part_is_balanced_and_apart(labels: np.ndarray, seed: int) -> None:
    kept, held_out = split_training(labels, request(seed), "x")
    assert sorted([*kept, *held_out]) == list(range(len(labels)))
    have, taken = np.bincount(labels, minlength=5), np.bincount(labels[held_out], minlength=5)
    assert (taken <= have // 2).all()
    full = taken[(have // 2 > taken)]  # classes that were not short of images
    assert len(set(full.tolist())) <= 1
    again = split_training(labels, request(seed), "x")
    assert (again[1] == held_out).all()


def test_size_of_the_held_out_part() -> None:
    labels = np.repeat(np.arange(10), 100)
    assert len(split_training(labels, request(), "x")[1]) == 200
    assert len(split_training(labels, request(held_out=0.1), "x")[1]) == 100
    kept, nothing = split_training(labels, request(held_out=0.0), "x")
    assert (len(kept), len(nothing)) == (1000, 0)
    assert (split_training(labels, request(1), "x")[1] != split_training(labels, request(2), "x")[1]).any()


def test_at_most_fifty_thousand_are_held_out() -> None:
    labels = np.tile(np.arange(1000), 600)
    kept, held_out = split_training(labels, request(), "x")
    assert len(held_out) == 50_000
    assert set(np.bincount(labels[held_out])) == {50}
    assert len(kept) == 550_000


@pytest.mark.parametrize("share_", [-0.1, 1.0, float("nan")])
def test_impossible_share(share_: float) -> None:
    with pytest.raises(DataError, match="held-out share must be at least 0 and below 1"):
        request(held_out=share_)


def test_impossible_batch_size() -> None:
    with pytest.raises(DataError, match="arch_batch_size must be at least 1, not 0"):
        Request(8, 0, 0)


def test_nothing_to_hold_out() -> None:
    with pytest.raises(DataError, match="x: no class has two training images"):
        split_training(np.arange(10), request(), "x")


@given(LABELS)
def test_test_split_is_stratified_and_fixed(labels: np.ndarray) -> None:
    rows = rows_for_testing(labels, 0.25)
    assert (np.bincount(labels[rows], minlength=5) == np.round(np.bincount(labels, minlength=5) * 0.25)).all()
    assert len(set(rows.tolist())) == len(rows)
    assert (rows == rows_for_testing(labels, 0.25)).all()
