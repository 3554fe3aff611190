"""Device "torch_cpu": all of device "gpu" that runs without one, on the CPU; for tests."""

from __future__ import annotations

from typing import ClassVar

from ..devices.base import Runtime, Unavailable
from ..devices.cuda.device import Gpu


class TorchCpu(Gpu):
    """The same programs and checks, timed one by one by the host's clock."""

    name = "torch_cpu"
    for_testing = True
    place: ClassVar[str] = "cpu"

    def runtime(self) -> Runtime:
        import torch

        torch.set_num_threads(1)
        return super().runtime()

    @classmethod
    def unavailable(cls) -> Unavailable | None:
        return None
