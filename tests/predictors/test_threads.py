"""How many threads fits take."""

from __future__ import annotations

from hwnas.predictors.threads import one_thread


def test_linear_algebra_is_limited_and_free_again() -> None:
    import scipy.linalg  # noqa: F401
    from threadpoolctl import threadpool_info, threadpool_limits

    def threads() -> list[int]:
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    with threadpool_limits(limits=2, user_api="blas"):
        before = threads()
        with one_thread():
            assert set(threads()) == {1}
        assert threads() == before
        assert set(before) == {2}
