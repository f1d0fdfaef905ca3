"""Replies on disk by the content of their question, so that no question is paid for twice."""

import hashlib
import json
import logging
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datamodules.wrong_input import WrongInput

log = logging.getLogger(__name__)


def content_key(*parts: object) -> str:
    """sha256 over the parts as JSON, in hex; parts are kept apart, so ``("ab", "c")`` is not ``("a", "bc")``."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class ReplyCache:
    """A table from key to reply in one SQLite file; each write is a transaction of its own.

    Safe for the threads of a job and for jobs side by side: SQLite locks the file for a write, and the others wait. A
    job that is killed leaves every reply that it had written and no half one.

    Args:
        path: The file; its folder is made. A file that is no sound database is set aside, which is logged.

    Raises:
        WrongInput: Where the file cannot be made or written.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.Lock()  # a connection serves one thread at a time
        with self._told():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._connection = self._open()
            except sqlite3.OperationalError:
                raise  # locked, read-only or full: nothing is wrong with what the file holds
            except sqlite3.DatabaseError as broken:
                self._set_aside(broken)
                self._connection = self._open()

    def get(self, key: str) -> str | None:
        """The reply kept under a key, or None."""
        with self._lock, self._told():
            row = self._connection.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def put(self, key: str, reply: str) -> None:
        """Keep a reply; on disk when this returns.

        Raises:
            WrongInput: Where the disk is full or the file cannot be written.
        """
        with self._lock, self._told():
            self._connection.execute("INSERT OR REPLACE INTO replies VALUES (?, ?)", (key, reply))

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def _open(self) -> sqlite3.Connection:
        """Connect, see that the file is sound and holds the table."""
        # autocommit, or a write would lock the file until the next commit; a minute's patience with other jobs
        connection = sqlite3.connect(self.path, timeout=60, isolation_level=None, check_same_thread=False)
        try:
            (state,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if state != "ok":
                raise sqlite3.DatabaseError(state)
            connection.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL)")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _set_aside(self, broken: Exception) -> None:
        """Move a broken file out of the way, with the journal that would otherwise be replayed into the new one."""
        aside = self.path.with_name(f"{self.path.name}.broken")
        log.warning("the judge's cache %s is broken (%s): set aside as %s, asking anew", self.path, broken, aside.name)
        self.path.replace(aside)
        self.path.with_name(f"{self.path.name}-journal").unlink(missing_ok=True)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Say in one line what the disk refused."""
        try:
            yield
        except (sqlite3.Error, OSError) as refused:
            where, mend = str(self.path), "free some space or set the judge's `cache_dir` to a folder you can write to"
            raise WrongInput(f"the judge's cache cannot be used: {refused}", where, mend) from refused
