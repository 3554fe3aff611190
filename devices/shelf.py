"""Artifacts on disk while a session lasts: dozens of whole networks would otherwise fill this process's memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from typing import IO

from .data import Artifact

Place = tuple[int, int]
"""Offset and length in the file."""


class Shelf:
    """Keeps artifacts by name; their data in a file without a name, or in memory where none can be written.

    A file without a name is gone with the process, whatever ends it.
    """

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._end = 0
        self._kept: dict[str, tuple[Artifact, Place | None]] = {}

    def __contains__(self, id: str) -> bool:
        return id in self._kept

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, id: str, artifact: Artifact) -> None:
        """Keep an artifact, in place of an earlier one of this name."""
        self.drop(id)
        place = self._write(artifact.data)
        self._kept[id] = artifact if place is None else replace(artifact, data=b""), place

    def get(self, id: str) -> Artifact:
        """The artifact as it was put; raises KeyError."""
        artifact, place = self._kept[id]
        if place is None or self._file is None:
            return artifact
        self._file.seek(place[0])
        return replace(artifact, data=self._file.read(place[1]))

    def drop(self, id: str) -> None:
        """Forget an artifact, if it is there; the file shrinks once nothing is kept."""
        self._kept.pop(id, None)
        if not self._kept and self._file is not None:
            self._file.truncate(0)
            self._end = 0

    def close(self) -> None:
        """Forget everything."""
        self._kept.clear()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, data: bytes) -> Place | None:
        """Where the data is now; None where it cannot be written."""
        try:
            self._file = self._file or tempfile.TemporaryFile(prefix="hwnas-", buffering=0)  # noqa: SIM115
            self._file.seek(self._end)
            if self._file.write(data) != len(data):
                return None
        except OSError:  # no folder for temporary files, or a full disk
            return None
        place = (self._end, len(data))
        self._end += len(data)
        return place
