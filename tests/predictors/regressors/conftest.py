"""What the tests of regressors share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hwnas.predictors.threads import one_thread


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As whoever fits a regressor by its kind has it."""
    with one_thread():
        yield
