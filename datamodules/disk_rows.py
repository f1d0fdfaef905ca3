"""Encoded rows on disk, read one at a time: a data set's size is that of the disk, not of the memory."""

import os
import pickle
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")


class DiskRows(Sequence[T], Generic[T]):
    """A sequence of rows that holds 8 bytes a row in memory, whatever the rows are.

    They lie in a file without a name, which is gone when the last of those who read it is, also after a kill. Reads say
    where they read, so that worker processes forked from this one may read at the same time.

    Args:
        rows: Anything that can be pickled; written as it comes, so that it may be a generator.
        folder: Where the file lies; made if it is not there. Default: the system's place for such files.

    Raises:
        OSError: There is no room, or no right to write.
    """

    def __init__(self, rows: Iterable[T], folder: str | Path | None = None):
        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (it lives as long as the rows)
        self._starts = array("q", [0])
        for row in rows:
            data = pickle.dumps(row, protocol=pickle.HIGHEST_PROTOCOL)
            self._file.write(data)
            self._starts.append(self._starts[-1] + len(data))
        self._file.flush()

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._starts) - 1

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[T]: ...
    def __getitem__(self, place: int | slice) -> T | Sequence[T]:
        """A row, read now; or some rows, to be read when they are asked for."""
        if isinstance(place, slice):
            return Chosen(self, range(len(self))[place])
        place = range(len(self))[place]  # negative ones count from the end; others raise IndexError
        start, end = self._starts[place], self._starts[place + 1]
        return pickle.loads(os.pread(self._file.fileno(), end - start, start))


class Chosen(Sequence[T], Generic[T]):
    """Some rows of a sequence, in an order of their own; nothing is copied.

    Args:
        rows: The sequence.
        places: Which of them: a range, or an array of integers.
    """

    def __init__(self, rows: Sequence[T], places: Sequence[int] | Any):
        self._rows, self._places = rows, places

    def __len__(self) -> int:
        """How many were chosen."""
        return len(self._places)

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[T]: ...
    def __getitem__(self, place: int | slice) -> T | Sequence[T]:
        """A row, or some of those chosen."""
        if isinstance(place, slice):
            return Chosen(self._rows, self._places[place])
        return self._rows[int(self._places[place])]
