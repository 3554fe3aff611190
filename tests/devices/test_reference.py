"""The reference: what it times, and that visits lie between two of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hwnas.devices import Artifact, create, reference
from hwnas.devices.agent import Agent
from hwnas.devices.base import Model
from hwnas.devices.reference import REPEATS, Reference
from hwnas.testing.simulated import Simulated, SimulatedRuntime, SimulatedSettings

Make = Callable[..., Artifact]


def test_it_is_real_work_of_whole_nanoseconds() -> None:
    times = [Reference().nanoseconds() for _ in range(5)]
    assert all(isinstance(ns, int) and ns > 0 for ns in times)


def test_the_best_repeat_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a single interruption does not make the core look slow."""
    durations = [9_000, 7_000, 50_000][:REPEATS]

    def clock() -> Iterator[int]:
        now = 0
        for duration in durations:
            yield now
            now += duration
            yield now

    ticks = clock()
    monkeypatch.setattr(reference.time, "perf_counter_ns", lambda: next(ticks))
    assert Reference().nanoseconds() == 7_000


def test_visits_on_this_machine_have_one_before_and_one_after(conv: Artifact) -> None:
    with create("cpu").open() as session:
        session.load("conv", conv)
        samples = session.round(["conv"]).samples["conv"]
    assert samples.reference.dtype == np.int64
    assert samples.reference.shape == (2,)
    assert (samples.reference > 0).all()


def test_devices_without_one_say_so(ops_artifact: Make) -> None:
    with create("simulated").open() as session:
        session.load("a", ops_artifact())
        assert session.round(["a"]).samples["a"].reference.shape == (0,)


class Noting(SimulatedRuntime):
    """Writes down what happens."""

    def __init__(self) -> None:
        super().__init__(SimulatedSettings())
        self.done: list[str] = []

    def reference(self) -> int:
        self.done.append("reference")
        return 1000 + len(self.done)

    def load(self, id: str, artifact: Artifact) -> Model:
        model = super().load(id, artifact)
        run = model.run

        def noted(n: int) -> tuple[np.ndarray, np.ndarray]:
            self.done.append(f"{id} {n}")
            return run(n)

        model.run = noted  # type: ignore[method-assign]
        return model


def test_warm_ups_and_runs_of_each_visit_lie_between_two() -> None:
    runtime = Noting()
    agent = Agent(Simulated(), runtime, None)
    about = {"format": "ops", "inputs": [], "digest": "d", "route": "ops", "owners": {}}
    for id in "ab":
        agent.load({"id": id, "artifact": about}, [json.dumps({"macs": 1}).encode()])
    runtime.done.clear()
    answer, _ = agent.round({"ids": ["b", "a"], "warmup": 2, "runs": 3}, [])
    assert runtime.done == ["reference", "b 2", "b 3", "reference", "reference", "a 2", "a 3", "reference"]
    assert [visit["reference"] for visit in answer["visits"]] == [[1001, 1004], [1005, 1008]]
