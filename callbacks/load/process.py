"""A command that works for a while: watched, ended, and never at work twice."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from datamodules.wrong_input import WrongInput

_TICK_S = 0.25
_END_S = 20.0  # from asking a command to end until it is made to


def watch(process: subprocess.Popen[bytes], log: Path, patience_s: float, look: Callable[[int], None]) -> bool:
    """Wait for a process; False if it is still there after so many seconds.

    Args:
        process: That writes a log.
        log: Its rows are counted as they come.
        patience_s: How long to wait.
        look: Called at every tick with the rows so far; what it raises ends the wait.
    """
    deadline = time.monotonic() + patience_s
    rows = end = 0
    while process.poll() is None:
        if log.is_file():
            with log.open("rb") as stream:
                stream.seek(end)
                new = stream.read()
            rows, end = rows + new.count(b"\n"), end + len(new)
        look(rows)
        if time.monotonic() > deadline:
            return False
        time.sleep(_TICK_S)
    return True


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process and its children to end, as Ctrl-C does, so that they write what they have; then make them."""
    if process.poll() is not None:
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def alone(path: Path, patience_s: float) -> Iterator[int]:
    """Hold a lock, to be handed on to a command: what a killed run left at work must not mix with the next.

    Args:
        path: Of the lock.
        patience_s: How long to wait for what holds it.

    Raises:
        WrongInput: It is still held then.
    """
    deadline = time.monotonic() + patience_s
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    mend = "end that AIPerf (ps shows it), then start again"
                    raise WrongInput("the load of a run that was killed goes on", str(path), mend) from None
                time.sleep(_TICK_S)
        yield file.fileno()
