"""``hwnas fit --until-mape`` on a device, killed and begun again."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hwnas.predictors.active import measuring_order, needed
from hwnas.predictors.collection import draw
from hwnas.predictors.features import SpaceFeatures
from hwnas.predictors.files import PredictorFile
from hwnas.spaces.registry import load_space

Run = Callable[..., Any]
ASKED = ("fit", "--device", "flops", "--space", "proxyless-small", "--space-arg", "resolution=8", "--kind", "lut")
MORE = ("--until-mape", "0.000001", "--networks", "66", "-q", "--out", "p.npz")


def test_what_is_killed_goes_on_with_the_same_networks(hwnas: Run, tmp_path: Path) -> None:
    folder = tmp_path / "results" / "fit-flops-proxyless-small-resolution=8"
    command = [sys.executable, "-m", "hwnas.cli", *ASKED, *MORE]
    running = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        while running.poll() is None and not (folder / "active-001.db").exists():
            time.sleep(0.01)
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
    kept = (folder / "active-000.db").read_bytes()
    after = hwnas(*ASKED, *MORE)
    assert after.code == 1
    assert "is not reached: after 66 networks" in after.err
    assert (folder / "active-000.db").read_bytes() == kept
    space = load_space("proxyless-small", {"resolution": 8})
    drawn = draw(space.encoding, needed(66), 0)
    order = measuring_order(SpaceFeatures.of(space).rows(drawn), 66)
    np.testing.assert_array_equal(PredictorFile.read(tmp_path / "p.npz").arrays["training/codes"], drawn[order])
