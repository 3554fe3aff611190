"""A search that is told to Python's logging, for scripts that keep no folder of a run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

LOGGER = logging.getLogger("hwnas.search")


class Told:
    """A log (see `records.Log`) that keeps nothing: a line of level INFO for each epoch, and for each validation."""

    def __init__(self) -> None:
        self._told = ("", 0)

    def log(self, record: Mapping[str, Any]) -> None:
        """Tell what a record says, if it is the first of an epoch or has a validation."""
        here = (str(record["phase"]), int(record["epoch"]))
        valid = record.get("valid")
        if here[1] == 0 or (here == self._told and valid is None):
            return
        self._told = here
        told = [f"{here[0]}, epoch {here[1]}"]
        if record["loss"] is not None:
            told.append(f"loss {record['loss']:.4g}")
        if valid is not None:
            told.append(f"held-out accuracy {valid['top1']:.2f} %")
        if here[0] != "warmup":
            told.append(f"entropy {np.mean(record['entropy']):.2f}")
        told += [f"{name} {value:.4g}" for name, value in record["expected"].items() if name.startswith("expected")]
        LOGGER.info("%s", ", ".join(told))

    def position(self) -> int:
        """Nothing is kept."""
        return 0

    def truncate(self, position: int) -> None:
        """Nothing is forgotten."""
