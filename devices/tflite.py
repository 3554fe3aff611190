"""What the devices that run TFLite models have in common."""

from __future__ import annotations

from .base import Artifact, DeviceError, Settings

FORMAT = "tflite"
DTYPES = ("fp32", "fp16", "int8")
OPTIMIZATIONS = ("all", "disable")
_IDENTIFIER = b"TFL3"


class TfliteSettings(Settings):
    """Optimisation is "all" (XNNPACK, as on a phone) or "disable" (TFLite's own kernels)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.optimization not in OPTIMIZATIONS:
            raise DeviceError(
                f"optimization must be one of {', '.join(OPTIMIZATIONS)} where TFLite runs, not {self.optimization!r}"
            )


def check_model(artifact: Artifact) -> None:
    """Raise DeviceError unless the data begins as a TFLite model does."""
    if artifact.data[4:8] != _IDENTIFIER:
        start = artifact.data[:8]
        raise DeviceError(f"this is no TFLite model: it begins with {start!r}, without the mark TFL3")
