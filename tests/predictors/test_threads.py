"""How many threads fits take, and work that is shared out."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hwnas.predictors.threads import one_thread, shared_out


def threads() -> list[int]:
    from threadpoolctl import threadpool_info

    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


def test_linear_algebra_is_limited_and_free_again() -> None:
    import scipy.linalg  # noqa: F401
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=2, user_api="blas"):
        before = threads()
        with one_thread():
            assert set(threads()) == {1}
        assert threads() == before
        assert set(before) == {2}


@pytest.mark.parametrize("cores", [1, 2, 5])
def test_shared_work_comes_back_in_order_whatever_the_cores(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwnas.predictors.threads._cores", lambda: cores)
    parts = np.random.default_rng(0).normal(size=(7, 40, 30))
    found = shared_out(lambda part: part @ part.T, list(parts))
    assert all(np.array_equal(one, part @ part.T) for one, part in zip(found, parts, strict=True))
    assert shared_out(len, []) == []


def test_work_is_done_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of two waits for the other, which one after the other would never end."""
    monkeypatch.setattr("hwnas.predictors.threads._cores", lambda: 2)
    both = threading.Barrier(2, timeout=20)
    assert sorted(shared_out(lambda _: both.wait(), [1, 2])) == [0, 1]


def test_an_error_in_shared_work_is_raised() -> None:
    def broken(number: int) -> int:
        raise ValueError(f"no {number}")

    with pytest.raises(ValueError, match="no 1"):
        shared_out(broken, [1, 2, 3])
