"""What all tests share: reference data where there is some, and a cache of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data, $HWNAS_SHARED or else `shared` beside the checkout; without it, skip."""
    folder = Path(os.environ.get("HWNAS_SHARED") or ROOT.parent / "shared")
    if not folder.is_dir():
        pytest.skip(f"needs the reference data in {folder} (set HWNAS_SHARED)")
    return folder


@pytest.fixture(scope="session")
def tflite_runtime() -> Path:
    """A Python with tflite-runtime and this checkout, made on first use; skip where it cannot be had."""
    tools = Path(os.environ.get("HWNAS_TEST_TOOLS") or ROOT / ".venv/test-tools").absolute()
    if not (tools / "tflite-runtime.complete").is_file():
        command = [sys.executable, str(ROOT / "tests/remote/fetch_tools.py"), "tflite-runtime"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False).stdout
        if not (tools / "tflite-runtime.complete").is_file():
            pytest.skip(said.strip() or "tflite-runtime cannot be fetched")
    return tools / "tflite-runtime/bin/python"


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's cache out of the tests, and the tests out of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HWNAS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_is_heard() -> Iterator[None]:
    """Processes that tests begin inherit that Ctrl-C is ignored, which a shell says to what runs in the background."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, before)
