"""A search that was ended at any moment goes on as if it had not been, or says why it cannot."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hwnas.search.checkpoint import CheckpointError, load_checkpoint
from hwnas.search.engine import Engine
from hwnas.search.settings import GradientSettings, WeightSettings
from hwnas.tests.search.resume_worker import SEARCHES, WARM, drawn
from hwnas.tests.search.tiny import (
    ALGORITHMS,
    Hook,
    Lines,
    bent,
    digest,
    outcome,
    tiny_engine,
    tiny_latency,
    tiny_objective,
    tiny_settings,
    tiny_space,
)

WORKER = Path(__file__).with_name("resume_worker.py")


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of searches that were killed (see `resume_worker.py`)."""
    folder = tmp_path_factory.mktemp("killed")
    subprocess.run([sys.executable, str(WORKER), str(folder)], check=True, timeout=110)
    found: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return found


@pytest.mark.parametrize("kill", drawn())
def test_killed_and_resumed_it_ends_bit_identical(killed: dict[str, Any], kill: str) -> None:
    """Weights, momentum, alpha, its optimiser, controllers, the log and the last checkpoint; with dropout."""
    found = killed[kill]
    assert found["signal"] == 9
    assert found["parts"] == 10
    assert found["different"] == []


def test_kills_hit_every_part_of_a_search(killed: dict[str, Any]) -> None:
    """It went on from a checkpoint before the kill, in warm-up, search and among the updates after a training."""
    places = {name: found["from"] for name, found in killed.items()}
    assert places["before the second checkpoint"] == [0, 0]
    assert places["at the end of the warm-up"] == [3, 0]
    assert places["while a checkpoint is written"] == [6, 0]
    assert places["before old checkpoints are removed"] == [9, 1]
    assert places["in evolution"] == [3 * WARM, 0]
    for name, kill in drawn().items():
        if kill.step is not None:
            assert 0 <= kill.step - sum(places[name][: 1 + (SEARCHES[kill.search].algorithm == "evolution")]) <= 3


# -- in this process


class Stopped(Exception):
    pass


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def begun(folder: Path, at: int = 8, algorithm: str = "gradient", **more: Any) -> Engine:
    """A search that was interrupted after that many steps, with a checkpoint of the step before."""

    def stop(name: str, step: int) -> None:
        if made.position.step == at:
            raise Stopped

    made = tiny_engine(
        tiny_space(dropout=0.3), tiny_settings(algorithm), folder=folder, checkpoint_s=0, progress=Hook(stop), **more
    )
    with pytest.raises(Stopped):
        made.run()
    return made


def again(folder: Path | None, algorithm: str = "gradient", **more: Any) -> Engine:
    return tiny_engine(tiny_space(dropout=0.3), tiny_settings(algorithm), folder=folder, **more)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_interrupted_it_goes_on_with_the_log_where_the_checkpoint_was(tmp_path: Path, algorithm: str) -> None:
    lines, whole = Lines(), Lines()
    begun(tmp_path, 9, algorithm, log=lines)
    resumed, unbroken = again(tmp_path, algorithm, log=lines), again(None, algorithm, log=whole)
    resumed.run()
    unbroken.run()
    assert digest(outcome(resumed)) == digest(outcome(unbroken))
    assert lines.records == whole.records
    assert resumed.records.warnings == []


def test_a_run_that_is_finished_is_left_as_it_is(tmp_path: Path) -> None:
    """Nor is anything forgotten that was logged after it."""
    lines = Lines()
    first = again(tmp_path, log=lines)
    first.run()
    lines.log({"phase": "train"})
    before = [dict(r) for r in lines.records]
    once_more = again(tmp_path, log=lines, progress=Hook(lambda name, step: pytest.fail("a step was made")))
    once_more.run()
    assert digest(outcome(once_more)) == digest(outcome(first))
    assert lines.records == before


def test_a_search_that_is_not_to_resume_begins_anew(tmp_path: Path) -> None:
    begun(tmp_path)
    anew, unbroken = again(tmp_path, resumes=False), again(None)
    anew.run()
    unbroken.run()
    assert digest(outcome(anew)) == digest(outcome(unbroken))
    state = load_checkpoint(tmp_path)
    assert state is not None
    assert state["position"]["finished"]


def test_another_number_of_threads_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun(tmp_path)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    resumed = again(tmp_path)
    resumed.run()
    (warning,) = resumed.records.warnings
    assert "made with 1 torch threads, this process has 2: results will not be bit-identical" in warning
    assert resumed.position.finished


def test_one_warning_does_not_hide_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tiny_settings(
        every=1, weights=WeightSettings(epochs=4, batch_size=12), gradient=GradientSettings(lr=5.0)
    )

    def stop(name: str, step: int) -> None:
        if made.position.step == WARM:
            raise Stopped

    made = tiny_engine(settings=settings, folder=tmp_path, checkpoint_s=0, progress=Hook(stop))
    with pytest.raises(Stopped):
        made.run()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    resumed = tiny_engine(settings=settings, folder=tmp_path)
    resumed.run()
    assert ["threads" in w or "settled" in w for w in resumed.records.warnings] == [True, True]


def test_a_checkpoint_of_another_space_or_algorithm_is_refused(tmp_path: Path) -> None:
    begun(tmp_path)
    before = digest([p.read_bytes() for p in sorted(tmp_path.iterdir())])
    with pytest.raises(CheckpointError, match="is of algorithm 'gradient', not of 'reinforce'"):
        again(tmp_path, "reinforce").run()
    other = tiny_engine(tiny_space("nested"), tiny_settings(), folder=tmp_path)
    with pytest.raises(CheckpointError, match=r"is of space '\w+', not of '\w+'"):
        other.run()
    assert digest([p.read_bytes() for p in sorted(tmp_path.iterdir())]) == before


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path: Path) -> None:
    begun(tmp_path)
    newest = sorted(tmp_path.glob("step-*.pt"))[-1]
    newest.write_bytes(newest.read_bytes()[:-50])
    resumed, unbroken = again(tmp_path), again(None)
    resumed.run()
    unbroken.run()
    assert digest(outcome(resumed)) == digest(outcome(unbroken))
    (warning,) = resumed.records.warnings
    assert newest.name in warning


@pytest.mark.parametrize("full_at", [1, 4])
def test_a_full_disk_keeps_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_at: int) -> None:
    real, flushes = os.fsync, iter(range(1, 10**6))

    def fsync(file: int) -> None:
        if next(flushes) == 2 * full_at - 1:  # the file's, before the folder's
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(CheckpointError, match="the disk is full; the checkpoint before it is whole"):
        again(tmp_path, checkpoint_s=0).run()
    monkeypatch.undo()
    kept = load_checkpoint(tmp_path)
    assert (kept is None) == (full_at == 1)  # then nothing was trained in vain
    assert kept is None or kept["position"]["step"] == full_at - 2
    resumed, unbroken = again(tmp_path), again(None)
    resumed.run()
    unbroken.run()
    assert digest(outcome(resumed)) == digest(outcome(unbroken))


def test_momentum_of_candidates_that_were_never_sampled_is_not_made_up(tmp_path: Path) -> None:
    first = begun(tmp_path, 2)
    resumed = again(tmp_path)
    resumed.resume()
    names = dict(first.supernet.module.named_parameters())
    here = {n for n, p in names.items() if first.optimizer.state.get(p)}
    there = {n for n, p in resumed.supernet.module.named_parameters() if resumed.optimizer.state.get(p)}
    assert there <= here < set(names)


def test_estimates_go_on_where_they_were(tmp_path: Path) -> None:
    """Those of the expectation of a predictor without a closed form."""
    space = tiny_space()

    def made(folder: Path | None, at: int | None = None) -> Engine:
        def stop(name: str, step: int) -> None:
            if engine.position.step == at:
                raise Stopped

        objective = tiny_objective(tiny_latency(bent(space), 0.2))
        engine = tiny_engine(space, tiny_settings(), objective, folder=folder, checkpoint_s=0, progress=Hook(stop))
        return engine

    with pytest.raises(Stopped):
        made(tmp_path, 15).run()
    resumed, unbroken = made(tmp_path), made(None)
    resumed.run()
    unbroken.run()
    states = [e.algorithm.objective.state() for e in (resumed, unbroken)]
    assert states[0] == states[1]
    uniform = [[1 / len(d)] * len(d) for d in space.decisions]
    assert states[0]["held"]["estimates"][0]["at"] != uniform


def test_a_checkpoint_in_the_midst_holds_no_generators(tmp_path: Path) -> None:
    """What modules draw follows from seed and position, so that it is the same on every rank and device."""
    begun(tmp_path)
    state = load_checkpoint(tmp_path)
    assert state is not None
    parts = {"about", "position", "supernet", "optimizer", "scaler", "algorithm", "objective", "records"}
    assert set(state) == parts
