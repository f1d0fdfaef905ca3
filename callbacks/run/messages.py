"""How a run that cannot go on says so: one line, and the exit code."""

import errno
import os
from typing import NamedTuple

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from datamodules.wrong_input import WrongInput

DISK = {errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EPERM, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST, errno.EFBIG}


class ExitLine(NamedTuple):
    """What to print, and the code to exit with."""

    text: str
    code: int


def exit_line(error: BaseException) -> ExitLine | None:
    """The line for an error that the user can mend, or None for a defect of ours, which keeps its traceback.

    The cause may be wrapped: Hydra wraps what ``_target_`` raises, data loaders what a row raises.
    """
    chain = [error]
    while (inner := chain[-1].__cause__) is not None:
        chain.append(inner)
    for link in chain:
        if isinstance(link, WrongInput):
            return ExitLine(str(link), WrongInput.exit_code)
    for link in chain:
        if isinstance(link, OSError) and link.errno in DISK:
            where = link.filename or "the disk"
            mend = "make room or choose another place with paths.output_dir= and paths.cache_dir="
            return ExitLine(f"cannot write ({where}): {os.strerror(link.errno)}: {mend}", WrongInput.exit_code)
    if isinstance(error, HydraException | OmegaConfBaseException):
        said = dict.fromkeys(" ".join(str(link).split()) for link in reversed(chain))
        return ExitLine(" — ".join(said), WrongInput.exit_code)
    return None
