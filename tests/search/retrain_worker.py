"""Run as two ranks by `test_retrain`: both train the same network together, with and without shared batch norm."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from hwnas.search.distributed import Ranks
from hwnas.search.retrain import train_network
from hwnas.search.run import RunFolder
from hwnas.tests.search.small_training import SETTINGS, make_data, make_network


def main(out: Path) -> None:
    """Write what each rank has at the end into files."""
    torch.set_num_threads(1)
    with Ranks.start("cpu") as ranks:
        for kind, norm, shared in (("plain", False, False), ("shared", True, True), ("own", True, False)):
            run = RunFolder(out / kind) if ranks.rank else RunFolder.open(out / kind, {})
            with run:
                ranks.agree("that the folder is open")
                network = make_network(norm=norm, dropout=0.0)
                result = train_network(network, make_data(), SETTINGS, run, ranks, sync_batch_norm=shared)
            state = {"state": result.network.state_dict(), "top1": result.accuracy.top1, "history": result.history}
            torch.save(state, out / f"{kind}-{ranks.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
