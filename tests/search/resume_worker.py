"""Searches that are killed and gone on with: `test_resume.py` runs it as ``python resume_worker.py FOLDER``.

Every search that is killed or gone on with is a process of its own, forked from this one, which has one thread and has
done the unbroken searches: so nothing has to be imported and found out again.
The result is a JSON file: for each killed search, what of it is not as in an unbroken one.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from hwnas.search import engine as engine_module
from hwnas.search.checkpoint import load_checkpoint
from hwnas.search.engine import Engine
from hwnas.search.run import METRICS, RunFolder
from hwnas.search.settings import GradientSettings
from hwnas.testing.search import made_up_table
from hwnas.tests.search.tiny import (
    Hook,
    bent,
    digest,
    outcome,
    tiny_engine,
    tiny_latency,
    tiny_objective,
    tiny_settings,
    tiny_space,
)

WARM, ALL = 6, 18
"""Weight steps: of the warm-up, and in all; an epoch has 6."""


@dataclass(frozen=True)
class Search:
    net: str
    algorithm: str
    closed_form: bool
    mode: Any = "full_v2"


SEARCHES = {
    "gradient": Search("plain", "gradient", True),
    "two": Search("nested", "gradient", False, "two"),
    "reinforce": Search("plain", "reinforce", False),
    "evolution": Search("nested", "evolution", True),
}


@dataclass(frozen=True)
class Kill:
    """When: after a weight step and its updates, or at a flush to the disk (the first of each checkpoint's two finds
    the file written under another name, the second renamed but the older ones not removed)."""

    search: str
    step: int | None = None
    flush: int | None = None


def drawn(seed: int = 20) -> dict[str, Kill]:
    """The kills, their steps drawn by a seed."""
    rng = np.random.default_rng(seed)
    warm, later = rng.integers(1, WARM), rng.integers(WARM + 1, ALL, 3).tolist()
    return {
        "before the second checkpoint": Kill("gradient", 2),
        "in the warm-up": Kill("gradient", int(warm)),
        "at the end of the warm-up": Kill("gradient", WARM),
        "in the search": Kill("gradient", later[0]),
        "at the end of an epoch": Kill("gradient", 2 * WARM),
        "at the last step": Kill("gradient", ALL),
        "while a checkpoint is written": Kill("gradient", flush=2 * 3 + 1),
        "before old checkpoints are removed": Kill("gradient", flush=2 * 4),
        "in mode two": Kill("two", later[1]),
        "in a search by reinforce": Kill("reinforce", later[2]),
        "in evolution": Kill("evolution", ALL + 3),
    }


def search(kind: Search, folder: Path, kill: Kill | None = None) -> None:
    """From where it was left to the end, with a checkpoint after every third step."""
    ticks = iter(range(10**6))
    engine_module.time = SimpleNamespace(monotonic=lambda: float(next(ticks)))  # type: ignore[assignment, attr-defined]
    with RunFolder.open(folder, {"a": 1}) as run:
        made = engine_of(kind, run)
        if kill is not None:
            made.progress = Hook(lambda name, step: die() if place_of(made) == kill.step else None)
            flushes, fsync = iter(range(1, 10**6)), os.fsync
            os.fsync = lambda fd: die() if next(flushes) == kill.flush else fsync(fd)
        made.run()
        (folder / "outcome").write_text(digest(outcome(made)))


def engine_of(kind: Search, run: RunFolder) -> Engine:
    space = tiny_space(kind.net, dropout=0.3)
    objective = tiny_objective(tiny_latency((made_up_table if kind.closed_form else bent)(space)))
    settings = tiny_settings(kind.algorithm, gradient=GradientSettings(mode=kind.mode))
    return tiny_engine(space, settings, objective, folder=run.checkpoint / "search", log=run, checkpoint_s=3)


def place_of(engine: Engine) -> int:
    """Weight steps, and updates that come after them."""
    return engine.position.step + engine.position.update * engine.algorithm.after_training


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def in_a_process(act: Callable[[], None]) -> int:
    """The signal that ended it; 0 where it came to its end."""
    child = os.fork()
    if child == 0:
        try:
            act()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit("a search failed")
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def left(folder: Path) -> dict[str, Any]:
    """All that a search left behind, as digests."""
    state = load_checkpoint(folder / "checkpoint" / "search")
    assert state is not None
    parts = {f"checkpoint, {name}": digest(part) for name, part in state.items()}
    return {**parts, "outcome": (folder / "outcome").read_text(), "log": digest((folder / METRICS).read_text())}


def main() -> None:
    torch.set_num_threads(1)
    root = Path(sys.argv[1])
    wanted = {}
    for name, kind in SEARCHES.items():
        search(kind, root / name)
        wanted[name] = left(root / name)
    found = {}
    for number, (name, kill) in enumerate(drawn().items()):
        kind, folder = SEARCHES[kill.search], root / str(number)
        ended = in_a_process(lambda: search(kind, folder, kill))  # noqa: B023  it is called at once
        state = load_checkpoint(folder / "checkpoint" / "search")
        position = None if state is None else [state["position"]["step"], state["position"]["update"]]
        in_a_process(lambda: search(kind, folder))  # noqa: B023
        now = left(folder)
        others = [part for part, value in wanted[kill.search].items() if now.get(part) != value]
        found[name] = {"signal": ended, "from": position, "different": others, "parts": len(now)}
    (root / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
