"""The trainer's precision: it is the policy's alone, and no other than what the settings of dtypes say."""

from typing import Any

import torch

from datamodules.wrong_input import WrongInput

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
SHORT = ("32", "bf16", "16")
"""What Lightning takes for the same, in that order."""


def as_held(device: torch.device) -> torch.autocast:
    """A context in which frozen models compute in the dtype that they are held in, whatever the trainer's precision is.

    Their scores are kept by that dtype; under autocast the same weights give others.
    """
    return torch.autocast(device.type, enabled=False)


def check_precision(precision: Any) -> None:
    """Refuse what the trainer does not know, and what would set the dtype of weights behind the settings' backs.

    Args:
        precision: The trainer's.

    Raises:
        WrongInput: It is none of ``PRECISIONS``.
    """
    if precision is None or str(precision) in (*PRECISIONS, *SHORT):
        return
    where, known = "trainer.precision", ", ".join(PRECISIONS)
    if str(precision).endswith("-true"):
        mend = f"set policy_dtype= for the weights in training and dtype= for frozen ones, and here one of {known}"
        raise WrongInput(f"{precision} would override the dtype of weights", where, mend)
    raise WrongInput(f"unknown precision {precision!r}", where, f"one of {known}")
