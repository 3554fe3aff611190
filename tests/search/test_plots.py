"""Pictures: what they are made from, and that they can be made of every space and of incomplete records."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hwnas.search.blocks import blocks_of, candidates_of
from hwnas.search.drawing import candidate_colours, is_dark, lighter, network_png
from hwnas.search.history import POINTS, clock, goals_of, series
from hwnas.search.plots import Aim, probabilities_png, search_plots, training_png
from hwnas.spaces.architecture import Architecture
from hwnas.spaces.choices import InputChoice
from hwnas.spaces.registry import load_space
from hwnas.spaces.space import SearchSpace
from hwnas.testing.zoo import ZOO
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return load_space("proxyless-small", {})


@pytest.fixture(scope="module")
def architecture(space: SearchSpace) -> Architecture:
    names = dict(zip((d.label for d in space.decisions), ("k7e3", "skip", "k3e6", "k5e3", "k3e3", "skip"), strict=True))
    return Architecture(space.name, names)


def size(picture: bytes) -> tuple[int, int]:
    image = Image.open(io.BytesIO(picture))
    image.load()
    assert image.format == "PNG"
    assert len(np.unique(np.asarray(image.convert("L")))) > 20  # something is drawn
    return image.size


def records(space: SearchSpace, n: int = 30) -> list[dict[str, Any]]:
    """As a search writes them: warm-up, then the search."""
    made: list[dict[str, Any]] = []
    for i in range(n):
        sharp = max(0, i - n // 3) / n
        p = [np.exp(6 * sharp * np.arange(len(d))) for d in space.decisions]
        made.append(
            {
                "phase": "warmup" if i < n // 3 else "search",
                "step": 5 * (i + 1),
                "epoch": i / 4,
                "loss": 2.0 - i / n,
                "lr": 0.05,
                "probabilities": [(v / v.sum()).tolist() for v in p],
                "entropy": [1 - sharp] * len(p),
                "expected": {"expected": 30.0 - i / 10, "ratio": 1.0, "mu": 0.1},
                **({"valid": {"top1": 50.0 + i, "top5": 90.0}} if i % 5 == 4 else {}),
            }
        )
    return made


# -- the network


def test_blocks_of_a_network(space: SearchSpace, architecture: Architecture) -> None:
    blocks = blocks_of(space, architecture)
    assert [b.text for b in blocks[1:7]] == ["MB3 7×7", "skip", "MB6 3×3", "MB3 5×5", "MB3 3×3", "skip"]
    assert [b.kind for b in blocks] == ["", "k7e3", "skip", "k3e6", "k5e3", "k3e3", "skip", "", ""]
    assert [b.stage for b in blocks[:5]] == ["stem", "stages.0", "stages.0", "stages.1", "stages.1"]
    assert [b.shape for b in blocks[:4]] == [(16, 28, 28), (16, 28, 28), (16, 28, 28), (24, 14, 14)]
    assert [b.empty for b in blocks[1:4]] == [False, True, False]
    assert (blocks[1].kernel, blocks[1].expand) == (7, 3)


def test_tied_choices_give_a_block_for_each_decision() -> None:
    space = load_space("nasbench201", {})
    architecture = space.sample(1, np.random.default_rng(0))[0]
    assert [b.place for b in blocks_of(space, architecture)] == [d.label for d in space.decisions]


def test_candidates_that_hold_choices_give_way_to_them() -> None:
    space = ZOO["nested"]()
    for architecture in space.sample(20, np.random.default_rng(0)):
        kinds = {b.kind for b in blocks_of(space, architecture)}
        assert not kinds & {"plain", "double", "deep"}
    assert not {c.kind for c in candidates_of(space)} & {"plain", "double", "deep"}


@pytest.mark.parametrize("name", ["proxyless", "nasbench201", *ZOO])
def test_networks_of_every_space_can_be_drawn(name: str) -> None:
    space = ZOO[name]() if name in ZOO else load_space(name, {})
    architecture = space.sample(1, np.random.default_rng(1))[0]
    width, height = size(network_png(space, architecture, title="a title"))
    assert width > 500
    assert 150 < height < 800


def test_wider_kernels_make_wider_pictures(space: SearchSpace) -> None:
    every = [Architecture(space.name, {d.label: name for d in space.decisions}) for name in ("k3e3", "k7e3")]
    narrow, wide = (size(network_png(space, architecture))[0] for architecture in every)
    assert wide > 1.2 * narrow


def test_kernels_have_hues_and_expansions_tones(space: SearchSpace) -> None:
    colours = candidate_colours(space)
    assert len(set(colours.values())) == 7
    assert is_dark(colours["k5e6"])
    assert not is_dark(colours["k5e3"])
    assert lighter(colours["k5e6"], 0.5) == colours["k5e3"]
    assert (lighter("#000000", 0.0), lighter("#000000", 1.0)) == ("#000000", "#ffffff")


@pytest.mark.parametrize("name", ZOO)
def test_every_candidate_has_a_colour(name: str) -> None:
    space = ZOO[name]()
    uniform = [{"step": 1, "probabilities": [np.full(len(d), 1 / len(d)).tolist() for d in space.decisions]}] * 2
    assert probabilities_png(uniform, space)


# -- the search


def test_all_plots_of_a_search(space: SearchSpace) -> None:
    plots = search_plots(records(space), space, [Aim("", "ms", 28.0, 0.98)])
    assert list(plots) == ["probabilities", "entropy", "latency", "accuracy"]
    for picture in plots.values():
        width, height = size(picture)
        assert width > 600
        assert height > 300


def test_two_goals_have_two_panels(space: SearchSpace) -> None:
    one = records(space)
    two = [{**r, "expected": {"expected/a": 3.0, "expected/b": 400.0, "ratio": 1.0}} for r in one]
    aims = [Aim("a", "ms", 3.0), Aim("b", "MMACs", 380.0)]
    assert size(search_plots(two, space, aims)["latency"])[1] > 1.5 * size(search_plots(one, space)["latency"])[1]


class Many(nn.Module):
    """One choice with more subsets than there are colours."""

    def __init__(self) -> None:
        super().__init__()
        self.choice = InputChoice(6, None, label="many")

    def forward(self, x: Tensor) -> Tensor:
        return self.choice([x * i for i in range(6)])  # type: ignore[no-any-return]


def test_a_choice_of_very_many_is_a_heat_map() -> None:
    space = SearchSpace(Many, (4,))
    rows = [{"step": i, "probabilities": [np.random.default_rng(i).dirichlet(np.ones(63)).tolist()]} for i in range(9)]
    picture = probabilities_png(rows, space)
    assert picture is not None
    size(picture)


def test_nothing_recorded_gives_no_plots(space: SearchSpace) -> None:
    assert search_plots([], space) == {}
    assert search_plots([{"phase": "search", "step": 3}, {}], space) == {}


def test_fields_may_be_missing_or_null() -> None:
    space = ZOO["several"]()
    rows: list[dict[str, Any]] = []
    for i, record in enumerate(records(space, 9)):
        left = {k: v for j, (k, v) in enumerate(record.items()) if (i + j) % 4}
        rows.append({k: (None if (i + j) % 5 == 0 else v) for j, (k, v) in enumerate(left.items())})
    assert set(search_plots(rows, space)) == {"probabilities", "entropy", "latency", "accuracy"}


def test_training() -> None:
    history = [{"epoch": i + 1, "loss": 1 / (i + 1)} for i in range(5)]
    size(training_png(history))
    size(training_png([{**h, "valid": {"top1": 90.0}} for h in history]))
    size(training_png([{"epoch": 1, "loss": None}]))


# -- reading records


FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "phase": st.sampled_from(["warmup", "search", "train", None]),
        "step": st.none() | st.integers(0, 50),
        "updates": st.none() | st.integers(0, 50),
        "entropy": st.none() | st.just([0.5]),
    },
)


@given(st.lists(FIELDS, max_size=12))
def test_time_never_goes_back_whatever_is_missing(rows: list[dict[str, Any]]) -> None:
    time, values, _ = series(rows, "entropy")
    assert len(time) == len(values) <= sum(bool(r.get("entropy")) for r in rows)
    assert (np.diff(time) >= 0).all()


def test_the_search_goes_before_the_warm_up(space: SearchSpace) -> None:
    time, values, label = series(records(space), "entropy")
    assert (len(time), len(values), label) == (20, 20, "weight step")
    assert time[0] == 55
    assert len(series([r for r in records(space) if r["phase"] == "warmup"], "entropy")[1]) == 10


def test_long_searches_are_thinned_out() -> None:
    rows = [{"phase": "search", "step": i, "entropy": [i]} for i in range(10 * POINTS)]
    time, values, _ = series(rows, "entropy")
    assert len(values) == POINTS
    assert (time[0], time[-1]) == (0, 10 * POINTS - 1)


def test_time_goes_on_where_steps_begin_anew() -> None:
    steps = [10, 20, 30, 5, 10]
    time, label = clock([{"step": s} for s in steps])
    assert time.tolist() == [10, 20, 30, 35, 40]
    assert label == "weight step"


def test_time_goes_on_with_updates_where_steps_stand_still() -> None:
    rows = [{"step": 10}, {"step": 20}, *({"step": 20, "updates": i} for i in (1, 2, 3))]
    time, label = clock(rows)
    assert time.tolist() == [10, 20, 21, 22, 23]
    assert "updates" in label


def test_goals_in_what_an_objective_logs() -> None:
    assert goals_of({"expected": 3.0, "ratio": 1.0, "mu": 2.0}) == {"": 3.0}
    assert goals_of({"expected/a": 3.0, "expected/b": 4.0, "mu/a": 1.0}) == {"a": 3.0, "b": 4.0}
    assert goals_of({}) == goals_of(None) == goals_of({"expected": None}) == {}
