"""How many threads linear algebra takes, and work that is shared out to some."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for the linear algebra within.

    Regressors solve many small systems: more threads gain little there, wait for each other where others use the cores
    (a fit has taken forty times as long), and add in another order, so that results depend on the machine.
    """
    libraries = _libraries()
    if libraries is None:
        yield
        return
    with libraries.limit(limits=1):
        yield


def shared_out(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """What `work` makes of each item, on all cores; the same whatever their number."""
    with one_thread():
        if len(items) < 2:
            return [work(item) for item in items]
        with ThreadPoolExecutor(min(_cores(), len(items))) as pool:
            return list(pool.map(work, items))


@cache
def _libraries() -> Any:
    """Those of linear algebra; to find them takes longer than a small prediction."""
    try:
        import scipy.linalg  # noqa: F401  # brings a library of its own, which is limited only if it is there
        from threadpoolctl import ThreadpoolController
    except ImportError:  # comes with scikit-learn
        return None
    return ThreadpoolController().select(user_api="blas")


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
