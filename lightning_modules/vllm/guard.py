"""Run as a script: keeps a command at work for as long as the one who started it lives and wants it.

Its standard input is a pipe that nobody writes to. It ends when the other side does, however that ends (kill −9 too);
then the command and all its children are asked to end, and made to. Only the standard library is imported: it is to
start at once, and to stay small beside a large process.
"""

import os
import select
import signal
import subprocess
import sys
from contextlib import suppress

TICK_S = 0.2
END_S = 20.0
"""From asking the command to end until it is made to."""


def keep(command: list[str], pipe: int) -> int:
    """Run the command until it ends, or the pipe does; its exit code, as shells give it (128 + n after signal n).

    Args:
        command: What to run, in a process group of its own.
        pipe: Descriptor of a pipe's reading end.
    """
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        while process.poll() is None:
            ready, _, _ = select.select([pipe], [], [], TICK_S)
            if ready and not os.read(pipe, 4096):
                break
    finally:
        _end(process)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # and what it has left behind
    process.wait()


def _leave(*_: object) -> None:
    raise SystemExit(1)  # by way of `finally`


if __name__ == "__main__":
    for asked in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(asked, _leave)
    sys.exit(keep(sys.argv[1:], sys.stdin.fileno()))
