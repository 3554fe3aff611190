"""``--calibration-data`` of the commands that measure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Run = Callable[..., Any]
SPACE = ("--space", "proxyless-small", "--space-arg", "resolution=8")
COMMANDS = {
    "profile": ("profile", "--device", "cpu", *SPACE),
    "compare": ("compare", "--predictor", "flops", "--device", "cpu", *SPACE),
    "search": ("search", "--device", "cpu", "--objective", "none", "--data", "digits", *SPACE),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--dtype", "int8", "--calibration-data", "digits:28"), "1x28x28, but space 'proxyless-small' takes 1x8x8"),
        (("--dtype", "int8", "--calibration-data", "numbers"), "unknown data 'numbers'"),
        (("--dtype", "int8", "--calibration-data", "imagefolder:/nowhere"), "/nowhere"),
        (("--calibration-data", "digits"), "int8"),
    ],
)
def test_data_that_cannot_be_used(hwnas: Run, command: str, options: tuple[str, ...], message: str) -> None:
    result = hwnas(*COMMANDS[command], *options)
    assert result.code == 2
    assert message in result.err
    assert len(result.err.strip().splitlines()) == 1
