"""How many tokens a batch may have, where it is not said: by trying on a GPU, by a rule on a CPU."""

from collections.abc import Callable

import torch

from datamodules.wrong_input import WrongInput

AUTO = "auto"
MARGIN = 0.9
"""Of what went through in the trial: later batches fragment the memory in other ways."""
GPU_TOKENS = 2**17
"""A trial goes no further: such products have long filled any GPU."""
CPU_TOKENS = 2**13
"""On one core, a model of width 64 scored 21,482 tokens a second in batches of 534, 23,697 of 2,136, 24,598 of 8,546
and 26,858 of 17,093: larger batches gain little, and cost memory."""
CPU_SHARE = 0.25
"""Of the free memory, what a batch may take: a CPU that runs out of it kills the process."""


def check_score_batch_size(size: int | str) -> None:
    """Refuse what is no batch size.

    Raises:
        WrongInput: Neither ``auto`` nor a whole number from 1 on.
    """
    if size != AUTO and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise WrongInput(f"batches of {size!r} responses", "score_batch_size", "set auto, or 1 and more")


def largest_that_fits(run: Callable[[int], object], most: int) -> int:
    """The largest size that runs, less a margin: sizes double until memory runs out, then the gap is halved.

    The gap is closed to an eighth of what fits. All that there is needs no margin.

    Args:
        run: Does the work of a size, or raises ``torch.OutOfMemoryError``.
        most: Larger sizes are of no use; at least 1.

    Returns:
        From 1 to ``most``. 1 also where not even that fits: what is larger than memory is the caller's to tell.
    """
    fits, too_many, size = 0, most + 1, 1
    while too_many - fits > (max(1, fits // 8) if too_many <= most else 1):
        if _goes(run, size):
            fits, size = size, min(2 * size, most)
        else:
            too_many = size
        if too_many <= most:
            size = (fits + too_many) // 2
    return fits if fits == most else max(1, int(MARGIN * fits))


def tokens_for_cpu(free: int, bytes_a_token: int) -> int:
    """``CPU_TOKENS``, or fewer where memory is short.

    Args:
        free: Bytes that are left.
        bytes_a_token: That a forward pass takes at its peak.
    """
    return max(1, min(CPU_TOKENS, int(CPU_SHARE * free / bytes_a_token)))


def _goes(run: Callable[[int], object], size: int) -> bool:
    try:
        run(size)
    except torch.OutOfMemoryError:
        pass
    else:
        return True
    torch.cuda.empty_cache()  # out of the handler, whose traceback holds the tensors; nothing without CUDA
    return False
