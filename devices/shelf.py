"""Artifacts on disk while a session lasts: dozens of whole networks would otherwise fill this process's memory."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from .data import Artifact


class Shelf:
    """Keeps artifacts by name; their data in a temporary folder, or in memory where none can be written."""

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._numbers = itertools.count()
        self._kept: dict[str, tuple[Artifact, Path | None]] = {}

    def __contains__(self, id: str) -> bool:
        return id in self._kept

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, id: str, artifact: Artifact) -> None:
        """Keep an artifact, in place of an earlier one of this name."""
        self.drop(id)
        path = self._write(artifact.data)
        self._kept[id] = artifact if path is None else replace(artifact, data=b""), path

    def get(self, id: str) -> Artifact:
        """The artifact as it was put; raises KeyError."""
        artifact, path = self._kept[id]
        return artifact if path is None else replace(artifact, data=path.read_bytes())

    def drop(self, id: str) -> None:
        """Forget an artifact, if it is there."""
        _, path = self._kept.pop(id, (None, None))
        if path is not None:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove the folder."""
        self._kept.clear()
        if self._folder is not None:
            self._folder.cleanup()

    def _write(self, data: bytes) -> Path | None:
        """Where the data is now; None where it cannot be written."""
        path = None
        try:
            self._folder = self._folder or tempfile.TemporaryDirectory(prefix="hwnas-")
            path = Path(self._folder.name) / str(next(self._numbers))
            path.write_bytes(data)
        except OSError:  # no folder for temporary files, or a full disk
            if path is not None:
                path.unlink(missing_ok=True)
            return None
        return path
