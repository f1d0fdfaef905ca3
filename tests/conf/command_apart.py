"""The tiny daDPO quickstart by the command line in a process of its own, which may start further ones."""

import os
import subprocess
import sys
from pathlib import Path

import train
from tests.conf.tiny import TINY


def quickstart(folder: Path, name: str, *overrides: str) -> str:
    """Run it into ``folder/name``, with the cache in ``folder/cache``; gives what stood on standard error."""
    done = subprocess.run(
        [
            sys.executable,
            "train.py",
            "experiment=dadpo_quickstart",
            *TINY,
            f"hydra.run.dir={folder}/{name}",
            *overrides,
        ],
        cwd=Path(train.__file__).parent,
        env=os.environ | {"SMOOTHTALK_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr
