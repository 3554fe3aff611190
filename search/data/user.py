"""Data from a function of the user's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sized
from contextlib import closing
from dataclasses import asdict
from typing import Any

from ...spaces.usercode import UserCode
from .batches import Batches, NoBatches, first_batch
from .data import Data, DataError
from .loaders import LoaderBatches, shape
from .random_state import OwnRandomness
from .splits import Request

SPLITS = ("train", "held out", "test")
SEEN = 20_000
"""Images of a loader that are looked at to learn how many classes there are, where its data set does not say."""


def load(spec: str, request: Request) -> Data:
    """The data that the function `spec` gives.

    It returns three loaders (see `wrap_loader`), or `Batches`, or a `Data`; of the parameters `batch_size`,
    `arch_batch_size`, `seed` and `held_out` it is given those that it has. The loaders are taken as they are: with
    `held_out=0` the second one is left aside. How many classes there are is said by an attribute `classes` of a loader
    or its data set (the classes, or their number), else by the highest label among the first 20,000 images.

    Raises:
        DataError: there is no such function, it fails, or it returns something else; a loader is not usable.
    """
    code = UserCode(spec, "data", DataError)
    with code.function() as function:
        with OwnRandomness((request.seed, *b"function")).lent():  # a split drawn in there is the same in each run
            result = code.call(function, _arguments(code, function, request))
        if isinstance(result, Data):
            return result
        return _from_loaders(code, _three(code, result), request)


def _arguments(code: UserCode, function: Callable[..., Any], request: Request) -> dict[str, Any]:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
    given = asdict(request)
    for name, parameter in parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if name not in given and parameter.default is parameter.empty:
            raise code.refusal(f"the function wants {name!r}, but is given {', '.join(given)} at most")
    return {name: value for name, value in given.items() if name in parameters}


def _three(code: UserCode, result: Any) -> tuple[Any, ...]:
    if not isinstance(result, (tuple, list)) or len(result) != 3:
        many = f" of {len(result)}" if isinstance(result, (tuple, list)) else ""
        raise code.refusal(
            f"the function must return three loaders (training, held out, test), not a {type(result).__name__}{many}"
        )
    for split, loader in zip(SPLITS, result, strict=True):
        if not isinstance(loader, (Iterable, Batches)) and not hasattr(loader, "__getitem__"):
            raise code.refusal(f"its {split} loader is a {type(loader).__name__}, which cannot be iterated over")
    if result[0] is result[2] or result[1] is result[2]:
        raise code.refusal("the test loader is also given for training; testing needs images of its own")
    return tuple(result)


def _from_loaders(code: UserCode, loaders: tuple[Any, ...], request: Request) -> Data:
    wanted = {s: x for s, x in zip(SPLITS, loaders, strict=True) if s != "held out" or request.held_out != 0}
    parts: dict[str, Batches] = {split: _wrapped(code, loader, split, request) for split, loader in wanted.items()}
    declared = next((n for n in map(_declared, wanted.values()) if n is not None), None)
    highest = -1
    for batches in parts.values():
        if isinstance(batches, LoaderBatches):
            batches.classes = declared
            if declared is None or batches.plain:
                highest = max(highest, _highest_label(batches))
    shapes = {split: tuple(first_batch(batches)[0].shape[1:]) for split, batches in parts.items()}
    for split, found in shapes.items():
        if found != shapes["train"]:
            raise code.refusal(f"{split} images are {shape(found)}, but those to train on {shape(shapes['train'])}")
    return Data(
        code.spec,
        shapes["train"],
        highest + 1 if declared is None else declared,
        parts["train"],
        parts.get("held out", NoBatches()),
        parts["test"],
        exact=declared is not None,
    )


def _wrapped(code: UserCode, loader: Any, split: str, request: Request) -> Batches:
    if isinstance(loader, Batches):
        if not len(loader):
            raise code.refusal(f"its {split} part is empty")
        return loader
    return LoaderBatches(loader, seed=request.seed, name=f"{code.spec}, {split}", stream=split, whole=split == "test")


def _declared(loader: Any) -> int | None:
    """The number of classes that a loader or its data set (or what that is a subset of) speaks of."""
    place = loader
    while place is not None:
        classes = getattr(place, "classes", None)
        if isinstance(classes, int) and not isinstance(classes, bool):
            return classes
        if isinstance(classes, Sized) and not isinstance(classes, str):
            return len(classes)
        place = getattr(place, "dataset", None)
    return None


def _highest_label(batches: LoaderBatches) -> int:
    highest = seen = 0
    with closing(batches.epoch(0)) as epoch:
        for _, labels in epoch:
            highest = max(highest, int(labels.max()))
            seen += len(labels)
            if seen >= SEEN and not batches.plain:
                break
    return highest
