"""The work that a step cannot leave out: operations of its matrix products, and how fast these can go."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from datamodules.batches import QuestionBatch
from lightning_modules import RASTModule
from lightning_modules.rast.objective import objective


def least_seconds(module: RASTModule, batch: QuestionBatch, width: int) -> tuple[int, float]:
    """Operations of the matrix products of a first epoch's step, and the processor time that they take at the least."""
    retriever, frozen = module.retriever, module._frozen
    assert retriever is not None
    assert frozen is not None
    retriever.bank_vectors()

    def step() -> None:
        rollout = module.questioner.roll_out(module.trained_policy, retriever, frozen, batch)
        loss, _ = objective(module.objective, module.trained_policy, frozen.reference, rollout, module.vocabulary)
        loss.total.backward()

    torch.manual_seed(0)
    found = operations(step)
    return found, found / products_a_second(width)


def operations(step: Callable[[], Any]) -> int:
    """Floating-point operations of all matrix products while a step runs."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def products_a_second(width: int, rows: int = 1024) -> float:
    """Operations a processor second of large products as wide as a model: nothing that has to do them goes faster."""
    left, right = torch.randn(rows, width), torch.randn(4 * width, width)
    seconds = []
    for _ in range(20):
        started = time.process_time()
        torch.nn.functional.linear(left, right)
        seconds.append(time.process_time() - started)
    return 2 * rows * 4 * width * width / statistics.median(seconds)
