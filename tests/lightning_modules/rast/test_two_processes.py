"""Two processes train one model."""

import math

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from lightning_modules.rast import consistency
from lightning_modules.sampling import Sampling


class Keep(Callback):
    """Each rank's weights, which end with its process."""

    def __init__(self, folder):
        self.folder = folder

    def on_fit_end(self, trainer, pl_module):
        torch.save((pl_module.state_dict(), trainer.global_step), self.folder / f"{trainer.global_rank}.pt")


def one_each(templates, count):
    return list(range(len(templates)))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_equal_shares_give_what_one_process_gives(accumulate, rast, question_batch, batches, trainer, tmp_path):
    """Nothing is left to chance and both ranks see one batch, so mean gradients are one process's."""
    settings = {
        "sampling": Sampling(temperature=0.0, max_new_tokens=6),
        "retriever": {"cluster": one_each, "candidates": 3},
        "baseline": "none",
        "rewards": {
            "consistency": consistency,
            "length": lambda asked: torch.tensor([len(z) / 9 for z in asked.templates]),
        },
        "reward_weights": {"consistency": 1.0, "length": 1.0},
        "clip": math.inf,
        "accumulate": accumulate,
        "optimizer": lambda groups: torch.optim.SGD(groups, lr=0.1),
        "retriever_optimizer": lambda groups: torch.optim.SGD(groups, lr=0.1),
    }
    data = [question_batch((0, 1)), question_batch((2, 3))]
    alone, both = rast(**settings), rast(**settings)
    trainer(max_epochs=2).fit(alone, datamodule=batches(data))
    # without a sampler for each rank: both see every batch
    ddp = {"strategy": "ddp_fork", "devices": 2, "use_distributed_sampler": False}
    trainer(max_epochs=2, callbacks=[Keep(tmp_path)], **ddp).fit(both, datamodule=batches(data, data[:1]))
    start = rast(**settings)
    start.configure_model()
    for rank in range(2):
        state, steps = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert steps == 4 / accumulate
        assert state.keys() == alone.state_dict().keys()
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-6)
        for part in ("policy", "retriever"):
            names = [name for name in state if name.startswith(part)]
            assert max((state[n] - start.state_dict()[n]).abs().max() for n in names) > 1e-4
