"""Scores on disk, keyed on what determines them and nothing else.

A score is Σ log π(token) of a response under a frozen model. It is determined by the token ids, the response mask, the
model's weights and config, the dtype of the forward pass and the vocabulary of the softmax. Each scorer (the last
three) has a file of its own; within it, a row is keyed on ids and mask. SQLite makes each write all or nothing and
lets several jobs of a sweep read and write at once. Keys are as good as random: put in their order as they come, each
would change a page of its own, the more of them the larger the table. So rows are appended, and whoever reads next puts
them all in order at once, page by page.
"""

import hashlib
import logging
import math
import os
import sqlite3
import struct
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock

from datamodules.digest import data_digest, local_model, model_digest
from datamodules.wrong_input import WrongInput

log = logging.getLogger(__name__)
WAIT_S = 120.0  # for another job's write to end
KEYS_A_QUERY = 500
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
TABLES = (
    "CREATE TABLE IF NOT EXISTS scorer (one INTEGER PRIMARY KEY, model TEXT, dtype TEXT, vocabulary INTEGER)",
    "CREATE TABLE IF NOT EXISTS scores (key TEXT PRIMARY KEY, value REAL, checksum INTEGER) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS added (key TEXT, value REAL, checksum INTEGER)",
)
IN_ORDER = (
    "INSERT OR REPLACE INTO scores SELECT key, value, checksum FROM added WHERE key NOTNULL ORDER BY key, rowid",
    "DELETE FROM added",
)


class Scorer(NamedTuple):
    """What makes the numbers, besides the tokens."""

    model: str
    """Content digest of weights and config."""
    dtype: str
    """Of the forward pass throughout, e.g. ``bfloat16, no autocast``, and of weights in fewer bits (``bfloat16, no
    autocast, linear layers in nf4``); log-probabilities are float32 always."""
    vocabulary: int | None
    """Rows of the softmax; None for all."""


def scorer_of(model: str, dtype: str, vocabulary: int | None, quantization: str | None = None) -> Scorer:
    """The scorer that a model folder (or Hub id) is, by content; its scores in fewer bits are another's.

    Raises:
        WrongInput: There is no such model.
    """
    held = f"{dtype}, no autocast"  # scores of before this was so are another's: autocast may have made them
    if quantization is not None:
        held += f", linear layers in {quantization}"
    return Scorer(model_digest(local_model(model)), held, vocabulary)


def served_scorer(served: str) -> Scorer:
    """A model behind an endpoint, ``NAME@REVISION``: its weights, dtype and vocabulary cannot be seen.

    Its scores are kept under that name, wherever it is served: whoever serves other weights has to say so by another
    revision.
    """
    return Scorer(f"served: {served}", "as served", None)


def score_key(ids: np.ndarray, prompt_length: int) -> str:
    """Hex key of a response: token ids (any integer dtype) and the mask, which covers ``ids[prompt_length:]``."""
    return hashlib.blake2b(struct.pack("<q", prompt_length) + ids.astype("<i8").tobytes(), digest_size=20).hexdigest()


class ScoreCache:
    """The scores of one scorer: a mapping from keys to float32 values in a SQLite file.

    A file that is damaged is set aside, said, and begun anew.

    Args:
        folder: Holds one file a scorer.
        scorer: Whose scores.

    Raises:
        WrongInput: The folder cannot be written.
    """

    def __init__(self, folder: Path | str, scorer: Scorer):
        self.path = Path(folder) / f"{data_digest(scorer)[:24]}.sqlite"
        self.scorer = scorer
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(self.path, error) from error
        self._db: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        try:
            self._open()
        except sqlite3.Error as error:
            self._mend(error)

    def read(self, keys: Iterable[str]) -> dict[str, float]:
        """The scores that are there. A row whose checksum does not hold counts as absent, and is said."""
        wanted = list(dict.fromkeys(keys))
        found: dict[str, float] = {}
        damaged = 0
        try:
            self._put_in_order()
            for start in range(0, len(wanted), KEYS_A_QUERY):
                part = wanted[start : start + KEYS_A_QUERY]
                query = f"SELECT key, value, checksum FROM scores WHERE key IN ({','.join('?' * len(part))})"
                for key, value, checksum in self._connection.execute(query, part):
                    if isinstance(value, float) and checksum == _checksum(key, value):
                        found[key] = value
                    else:
                        damaged += 1
        except sqlite3.Error as error:
            self._mend(error)
            return {}
        if damaged:
            log.warning("%s: %d scores are damaged and will be computed again", self.path, damaged)
        return found

    def write(self, scores: Mapping[str, float]) -> None:
        """Add scores, all or none; they are on disk when this returns.

        Raises:
            ValueError: A score is not finite.
            WrongInput: The disk is full or cannot be written.
        """
        if not all(math.isfinite(value) for value in scores.values()):
            raise ValueError("only finite scores are cached")
        # SQLite keeps no negative zero: + 0.0 makes it a positive one
        rows = [(key, value + 0.0, _checksum(key, value + 0.0)) for key, value in scores.items()]
        try:
            self._insert(rows)
        except sqlite3.Error as error:
            self._mend(error)
            self._insert(rows)

    def __len__(self) -> int:
        """Number of scores."""
        self._put_in_order()
        return int(self._connection.execute("SELECT COUNT(*) FROM scores").fetchone()[0])

    def close(self) -> None:
        """Let go of the file."""
        if self._db is not None:
            self._db.close()
            self._db = None

    @property
    def _connection(self) -> sqlite3.Connection:
        """To the file that lies at the path now: another job may have set aside the one that was there."""
        if self._db is None or self._file != _identity(self.path):
            self._open()
        assert self._db is not None
        return self._db

    def _insert(self, rows: list[tuple[str, float, int]]) -> None:
        with self._connection as transaction:
            transaction.executemany("INSERT INTO added VALUES (?, ?, ?)", rows)

    def _put_in_order(self) -> None:
        """What was appended since the last time, all of it or nothing."""
        if self._connection.execute("SELECT 1 FROM added LIMIT 1").fetchone() is not None:
            with self._connection as transaction:
                for step in IN_ORDER:
                    transaction.execute(step)

    def _open(self) -> None:
        self.close()
        self._db = sqlite3.connect(self.path, timeout=WAIT_S)
        self._file = _identity(self.path)
        with self._db:
            for table in TABLES:
                self._db.execute(table)
            self._db.execute("INSERT OR IGNORE INTO scorer VALUES (1, ?, ?, ?)", self.scorer)
        if (verdict := self._db.execute("PRAGMA quick_check").fetchone()) != ("ok",):
            error = sqlite3.DatabaseError(f"the check of the file failed: {verdict[0]}")
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error

    def _mend(self, error: sqlite3.Error) -> None:
        """Set a damaged file aside and begin anew. Trouble with the disk is the user's to mend, a defect is ours."""
        code = getattr(error, "sqlite_errorcode", None)
        if code is None:
            raise error
        if code & 0xFF not in DAMAGED:  # the rest is detail
            raise _unwritable(self.path, error) from error
        with FileLock(f"{self.path}.lock"):  # of several jobs that find the damage, one renames
            self.close()
            if self._file == _identity(self.path):
                aside = self.path.with_suffix(f".damaged-{time.time_ns()}")
                log.warning("%s is damaged (%s); set aside as %s, to be computed again", self.path, error, aside.name)
                os.replace(self.path, aside)
                with suppress(FileNotFoundError):  # of the old file, and not to be played back into the new one
                    os.replace(f"{self.path}-journal", f"{aside}-journal")
            try:
                self._open()
            except sqlite3.Error as again:
                raise _unwritable(self.path, again) from again


def _identity(path: Path) -> Any:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def _checksum(key: str, value: float) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode() + struct.pack("<d", value), digest_size=6).digest(), "little")


def _unwritable(path: Path, error: Exception) -> WrongInput:
    return WrongInput(f"the score cache cannot be used: {error}", str(path), "make room, or set paths.cache_dir=")
