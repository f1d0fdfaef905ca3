"""The command line in a process of its own, to be killed, or to start further ones.

It is forked from a server that has imported everything and done nothing since: a tiny run costs little but imports.
"""

import multiprocessing
import os
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

import train
from tests.conf.tiny import TINY

ROOT = Path(train.__file__).parent
LIMIT_S = 600
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.conf.preloaded"])


def start(folder: Path, name: str, *overrides: str) -> BaseProcess:
    """Run ``train.py`` into ``folder/name``, with the cache in ``folder/cache`` and standard error in ``NAME.err``."""
    arguments = [*overrides, f"hydra.run.dir={folder}/{name}"]
    process = SERVER.Process(target=_command, args=(arguments, os.environ | _places(folder), folder / f"{name}.err"))
    process.start()
    return process


def run(folder: Path, name: str, *overrides: str) -> str:
    """The same to its end, which has to be a good one; gives what stood on standard error."""
    process = start(folder, name, *overrides)
    process.join(LIMIT_S)
    process.kill()  # one that hangs
    process.join()
    said = (folder / f"{name}.err").read_text()
    assert process.exitcode == 0, said
    return said


def quickstart(folder: Path, name: str, *overrides: str) -> str:
    """The tiny daDPO quickstart, run to its end."""
    return run(folder, name, "experiment=dadpo_quickstart", *TINY, *overrides)


def _places(folder: Path) -> dict[str, str]:
    return {"SMOOTHTALK_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}


def _command(arguments: list[str], environment: dict[str, str], said: Path) -> None:
    """In the new process: what a shell would set up, then the command line."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    said.parent.mkdir(parents=True, exist_ok=True)
    with said.open("w") as err, open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
        os.dup2(err.fileno(), sys.stderr.fileno())
    sys.argv = [str(ROOT / "train.py"), *arguments]
    train.command_line()
