"""Which device a trainer's settings ask for, before there is a trainer."""

import torch


def asks_for_cuda(accelerator: str) -> bool:
    """Whether a trainer with this ``accelerator`` would run on CUDA."""
    return accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())
