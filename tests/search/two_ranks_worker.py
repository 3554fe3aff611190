"""What two ranks search together: `test_two_ranks.py` runs it as ``python two_ranks_worker.py FILE``.

All comparisons are made here, so that one start of two processes serves many tests.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hwnas.search.data.loaders import wrap_loader
from hwnas.search.distributed import Ranks
from hwnas.search.engine import Engine
from hwnas.search.settings import GradientSettings
from hwnas.spaces.space import SearchSpace
from hwnas.testing.search import made_up_table
from hwnas.tests.search.tiny import (
    Hook,
    digest,
    outcome,
    tiny_data,
    tiny_engine,
    tiny_latency,
    tiny_objective,
    tiny_settings,
    tiny_space,
    tiny_supernet,
)

CHECKS: dict[str, Callable[[Ranks, Path], Any]] = {}


def check(function: Callable[[Ranks, Path], Any]) -> Callable[[Ranks, Path], Any]:
    CHECKS[function.__name__] = function
    return function


def engine(space: SearchSpace, ranks: Ranks, algorithm: str = "gradient", share: float = 0.5, **more: Any) -> Engine:
    kept: dict[str, Any] = {name: more.pop(name) for name in ("sync_batch_norm", "gradient") if name in more}
    more.setdefault("data", tiny_data(arch_batch_size=6))
    objective = tiny_objective(tiny_latency(made_up_table(space), share))
    return tiny_engine(space, tiny_settings(algorithm, **kept), objective, ranks=ranks, **more)


def everyones(ranks: Ranks, text: str) -> list[str]:
    return [bytes(part).decode() for part in ranks.gather(np.frombuffer(text.encode(), np.uint8))]


def compared(ranks: Ranks, space: SearchSpace, algorithm: str = "gradient", **more: Any) -> dict[str, Any]:
    """A search by both, and by each alone on the whole batches."""
    joint, alone = engine(space, ranks, algorithm, **more), engine(space, Ranks.single(), algorithm, **more)
    start = digest(dict(joint.supernet.module.named_parameters()))
    joint.run()
    alone.run()
    mine, others = (e.supernet.module.state_dict() for e in (joint, alone))
    learned = [name for name, _ in joint.supernet.module.named_parameters()]
    assert digest(dict(joint.supernet.module.named_parameters())) != start
    p, q = (np.concatenate(e.algorithm.probabilities()) for e in (joint, alone))
    return {
        "weights": max(float((mine[n] - others[n]).abs().max()) for n in learned),
        "statistics": max((float((mine[n] - others[n]).abs().max()) for n in mine if "running" in n), default=0.0),
        "probabilities": float(np.abs(p - q).max()),
        "ranked": [e.algorithm.ranked(1)[0].codes.tolist() for e in (joint, alone)],
        "accuracy": [e.validate(e.data.test).top1 for e in (joint, alone)],
        "parameters": everyones(ranks, digest({n: mine[n] for n in learned})),
        "algorithm": everyones(ranks, digest([joint.algorithm.state(), joint.algorithm.probabilities()])),
    }


@check
def without_batch_norm(ranks: Ranks, folder: Path) -> Any:
    return compared(ranks, tiny_space("plain", norm=False))


@check
def nested_without_batch_norm(ranks: Ranks, folder: Path) -> Any:
    return compared(ranks, tiny_space("nested", norm=False), gradient=GradientSettings(mode="two"))


@check
def uneven_held_out(ranks: Ranks, folder: Path) -> Any:
    """The user's loader gives batches of 9."""
    data = tiny_data()
    held_out = wrap_loader(list(data.held_out.epoch(0)), seed=0, name="valid_loader")
    data, mode = replace(data, held_out=held_out), GradientSettings(mode="full")
    return compared(ranks, tiny_space("plain", norm=False), data=data, gradient=mode)


@check
def odd_batches(ranks: Ranks, folder: Path) -> Any:
    space = tiny_space("plain", norm=False)
    made = partial(engine, space, ranks)
    return [refusal(partial(made, data=data)) for data in (tiny_data(), tiny_data(batch_size=9))]


@check
def synchronised_full_v2(ranks: Ranks, folder: Path) -> Any:
    return compared(ranks, tiny_space(), sync_batch_norm=True)


@check
def synchronised_two(ranks: Ranks, folder: Path) -> Any:
    return compared(ranks, tiny_space("nested"), sync_batch_norm=True, gradient=GradientSettings(mode="two"))


@check
def synchronised_reinforce(ranks: Ranks, folder: Path) -> Any:
    return compared(ranks, tiny_space(), "reinforce", sync_batch_norm=True)


@check
def random_with_batch_norm_of_each_rank(ranks: Ranks, folder: Path) -> Any:
    return compared(ranks, tiny_space(), "random")


def refusal(act: Callable[[], Any]) -> tuple[str, str]:
    try:
        act()
    except Exception as error:
        return type(error).__name__, str(error)
    return "", ""


@check
def other_seeds(ranks: Ranks, folder: Path) -> Any:
    """With the same weights at the start."""
    space = tiny_space("plain", norm=False)
    return refusal(engine(space, ranks, seed=ranks.rank, supernet=tiny_supernet(space)).run)


@check
def other_weights(ranks: Ranks, folder: Path) -> Any:
    space = tiny_space("plain", norm=False)
    return refusal(engine(space, ranks, supernet=tiny_supernet(space, ranks.rank)).run)


@check
def another_path_once(ranks: Ranks, folder: Path) -> Any:
    made = engine(tiny_space("plain", norm=False), ranks)
    real = made._path

    def path(phase: Any) -> np.ndarray:
        row = real(phase)
        if ranks.rank and made.position.step == 9:
            row[1] = (row[1] + 1) % 3
        return row

    made._path = path  # type: ignore[method-assign]
    return [*refusal(made.run), made.position.step]


@check
def another_target(ranks: Ranks, folder: Path) -> Any:
    made = engine(tiny_space("plain", norm=False), ranks, share=0.4 + 0.2 * ranks.rank)
    return [*refusal(made.run), made.position.update]


class Stopped(Exception):
    pass


@check
def resumed(ranks: Ranks, folder: Path) -> Any:
    """With dropout, of which each rank draws its own, and batch norms of each rank."""
    space = tiny_space("plain", dropout=0.4)

    def stop(name: str, step: int) -> None:
        if (name, step) == ("search", 8):
            raise Stopped

    whole = engine(space, ranks)
    whole.run()
    first = engine(space, ranks, folder=folder, checkpoint_s=0.0, progress=Hook(stop))
    stopped = refusal(first.run)[0]
    ranks.agree("that the checkpoint is written", 1)
    second = engine(space, ranks, folder=folder)
    went_on = second.resume()
    at = second.position.step
    second.run()
    learned = [
        digest([dict(e.supernet.module.named_parameters()), outcome(e)["probabilities"]]) for e in (whole, second)
    ]
    return [stopped, went_on, at, learned[0] == learned[1]]


def main() -> None:
    torch.set_num_threads(1)
    target = Path(sys.argv[1])
    with Ranks.start("cpu", timeout_s=60) as ranks:
        found = {name: function(ranks, target.parent / "checkpoints") for name, function in CHECKS.items()}
        texts = everyones(ranks, json.dumps(found))
    target.write_text(json.dumps([json.loads(text) for text in texts]))


if __name__ == "__main__":
    main()
