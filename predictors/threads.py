"""How many threads linear algebra takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for the linear algebra within.

    Regressors solve many small systems: more threads gain little there, wait for each other where others use the cores
    (a fit has taken forty times as long), and add in another order, so that results depend on the machine.
    """
    try:
        import scipy.linalg  # noqa: F401  # brings a library of its own, which is limited only if it is there
        from threadpoolctl import threadpool_limits
    except ImportError:  # comes with scikit-learn
        yield
        return
    with threadpool_limits(limits=1, user_api="blas"):
        yield
