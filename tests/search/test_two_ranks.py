"""Two processes search as one on the joined batch would, and never average what does not belong together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hwnas.search.launch import launch

WORKER = Path(__file__).with_name("two_ranks_worker.py")
Both = Callable[[str], list[Any]]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    """What each of two gloo processes found of one thing (see `two_ranks_worker.py`)."""
    file = tmp_path_factory.mktemp("ranks") / "found.json"
    assert launch([str(WORKER), str(file)], 2, program=()) == 0
    ranks = json.loads(file.read_text())
    return lambda name: [found[name] for found in ranks]


@pytest.mark.parametrize(
    "search",
    [
        "without_batch_norm",
        "nested_without_batch_norm",
        "uneven_held_out",
        "synchronised_full_v2",
        "synchronised_two",
        "synchronised_reinforce",
    ],
)
def test_two_ranks_search_as_one_does_on_the_joined_batch(both: Both, search: str) -> None:
    for found in both(search):
        assert found["weights"] < 1e-5
        assert found["statistics"] < 1e-5
        assert found["probabilities"] < 1e-5
        assert found["ranked"][0] == found["ranked"][1]
        if search != "uneven_held_out":
            assert found["accuracy"][0] == pytest.approx(found["accuracy"][1], abs=4)  # one of 30 images


@pytest.mark.parametrize(
    "search",
    ["without_batch_norm", "synchronised_full_v2", "synchronised_reinforce", "random_with_batch_norm_of_each_rank"],
)
def test_both_hold_the_same_to_the_bit(both: Both, search: str) -> None:
    for found in both(search):
        assert len(set(found["parameters"])) == 1
        assert len(set(found["algorithm"])) == 1


def test_batch_norms_of_each_rank_see_its_own_images(both: Both) -> None:
    """The control: without synchronising them, two ranks are not one."""
    for found in both("random_with_batch_norm_of_each_rank"):
        assert found["weights"] > 1e-4


@pytest.mark.parametrize(
    ("difference", "what"),
    [
        ("other_seeds", "the sampled path"),
        ("other_weights", "what the search begins with"),
        ("another_path_once", "the sampled path"),
        ("another_target", "the sampled path"),
    ],
)
def test_ranks_that_differ_stop_at_once(both: Both, difference: str, what: str) -> None:
    for kind, message, *step in both(difference):
        assert kind == "RanksDisagree"
        assert f"ranks disagree on {what}: rank 0 has" in message
        assert difference != "another_path_once" or step == [9]


def test_batches_that_cannot_be_shared_are_refused_before_the_search(both: Both) -> None:
    for found in both("odd_batches"):
        for (kind, message), part in zip(found, ("held out", "train"), strict=True):
            assert kind == "DataError"
            assert f"tiny, {part}: a batch of 9 images cannot be shared evenly by 2 processes" in message


def test_a_search_of_two_goes_on_where_it_was_stopped(both: Both) -> None:
    for stopped, went_on, at, same in both("resumed"):
        assert (stopped, went_on, at, same) == ("Stopped", True, 13, True)
