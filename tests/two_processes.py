"""Two processes of one training, forked from the test: gloo on a CPU, as fast as one."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIMIT_S = 120


def in_two(function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Call a function in two processes that Lightning takes for the ranks of one run.

    Raises:
        AssertionError: One of them failed, with its traceback, or they wait for one another.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    failures = context.Queue()
    ranks = [
        context.Process(target=_rank, args=(rank, port, failures, function, args, kwargs), daemon=True)
        for rank in range(2)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(LIMIT_S)
        if process.exitcode != 0:  # whoever waits for it would wait for ever
            [other.kill() for other in ranks]
    assert all(process.exitcode == 0 for process in ranks), failures.get() if not failures.empty() else "they hang"


def _rank(rank: int, port: int, failures: Any, function: Callable[..., Any], args: Any, kwargs: Any) -> None:
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        function(*args, **kwargs)
    except BaseException:
        failures.put(traceback.format_exc())
        failures.close()
        failures.join_thread()
        os._exit(1)
    os._exit(0)  # what the test has open is not this process's to end


def ranks_of(folder: Path) -> list[Path]:
    """What the ranks have left in a folder, in their order."""
    return sorted(folder.glob("*.pt"))
