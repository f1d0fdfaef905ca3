"""The learning rate over a training, or over the part that one of several rounds has of it."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_cosine_schedule_with_warmup

from datamodules.wrong_input import WrongInput


def cosine_schedule(optimizer: Optimizer, warmup: float, steps: float, part: tuple[int, int] = (1, 1)) -> LambdaLR:
    """Linear warm-up from 0, then a cosine to 0 (transformers'), a step at a time.

    Part k of n takes every step as if it were step (k − 1)·``steps`` + step of n·``steps``: n trainings of as many
    steps, one going on from the other, have together the schedule of one training.

    Args:
        optimizer: Whose learning rate.
        warmup: Share of the whole in which it rises.
        steps: Of this part.
        part: Which part this is, from 1, and of how many.

    Raises:
        WrongInput: There is no such part.
    """
    number, parts = part
    if not 1 <= number <= parts:
        raise WrongInput(f"there is no part {number} of {parts}", "part", f"1 to {parts}")
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])  # torch asks for it where a schedule is under way
    done, whole = int((number - 1) * steps), int(parts * steps)
    return get_cosine_schedule_with_warmup(optimizer, round(warmup * parts * steps), whole, last_epoch=done - 1)
