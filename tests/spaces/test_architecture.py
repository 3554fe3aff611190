"""Architectures as plain data."""

from __future__ import annotations

import copy
import json
import pickle
import string
from typing import Any

import pytest
from hwnas.spaces.architecture import Architecture, ArchitectureError
from hypothesis import given
from hypothesis import strategies as st

values = st.text(string.printable, min_size=1) | st.lists(st.integers(0, 20), unique=True).map(tuple)
architectures = st.builds(Architecture, st.text(), st.dictionaries(st.text(), values))


@given(architectures)
def test_json_both_ways(architecture: Architecture) -> None:
    again = Architecture.from_json(architecture.to_json())
    assert again == architecture
    assert hash(again) == hash(architecture)
    assert again.to_json() == architecture.to_json()


@given(architectures)
def test_copies_are_equal(architecture: Architecture) -> None:
    assert copy.deepcopy(architecture) == architecture
    assert pickle.loads(pickle.dumps(architecture)) == architecture  # noqa: S301


def test_order_does_not_matter() -> None:
    one, other = Architecture("s", {"b": "x", "a": (0, 2)}), Architecture("s", {"a": [2, 0], "b": "x"})  # type: ignore[dict-item]
    assert one == other
    assert len({one, other}) == 1
    assert list(other.choices) == ["a", "b"]
    assert one != Architecture("t", one.choices)
    assert one != Architecture("s", {"a": (0, 2), "b": "y"})


def test_it_cannot_be_changed() -> None:
    mine = {"a": "x"}
    architecture = Architecture("s", mine)
    mine["a"] = "y"
    assert architecture.choices["a"] == "x"
    with pytest.raises(TypeError):
        architecture.choices["a"] = "y"  # type: ignore[index]


def test_labels_sort_by_number() -> None:
    labels = ["stages.0.10", "stages.0.9", "stages.1.0", "a2", "a10", "a", "10", "9"]
    found = list(Architecture("s", dict.fromkeys(labels, "x")).choices)
    assert found == ["9", "10", "a", "a2", "a10", "stages.0.9", "stages.0.10", "stages.1.0"]


def test_short() -> None:
    architecture = Architecture("s", {"a1": "conv", "a2": "conv", "a3": "skip", "in": (0, 2)})
    assert architecture.short() == "2xconv skip 0+2"
    assert repr(architecture) == "Architecture('s': 2xconv skip 0+2)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "invalid JSON"),
        ("[" * 100_000, "invalid JSON"),
        ("3", "JSON object"),
        ('{"space": "s"}', "JSON object"),
        ('{"space": "s", "choices": []}', "JSON object"),
        ('{"space": 1, "choices": {}}', "must be a name, not 1"),
        ('{"space": "s", "choices": {"a": 1}}', "choice 'a': 1 is neither"),
        ('{"space": "s", "choices": {"a": null}}', "choice 'a': None is neither"),
        ('{"space": "s", "choices": {"a": [1, "b"]}}', "choice 'a'"),
        ('{"space": "s", "choices": {"a": [true]}}', "choice 'a'"),
    ],
)
def test_bad_json(text: str, message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        Architecture.from_json(text)


@pytest.mark.parametrize("value", [3, None, 1.5, [0.5], {"a": 1}])
def test_bad_values(value: Any) -> None:
    with pytest.raises(ArchitectureError, match="choice 'a'"):
        Architecture("s", {"a": value})


def test_json_form_is_the_documented_one() -> None:
    text = Architecture("proxyless", {"stages.0.0": "k5e3", "in2": (0, 2)}).to_json()
    assert json.loads(text) == {"space": "proxyless", "choices": {"in2": [0, 2], "stages.0.0": "k5e3"}}
