"""Two trained parts, each with an optimizer of its own, and one backward pass for both."""

import math
from collections.abc import Sequence
from typing import Any

from lightning import Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PreTrainedTokenizerBase, get_cosine_schedule_with_warmup

from datamodules.wrong_input import WrongInput
from lightning_modules.language_model import ModelSource
from lightning_modules.trainable import OptimizerFactory, PolicyModule, parameter_groups


class TwoOptimizersModule(PolicyModule):
    """A policy and a second part, optimised by hand. ``trainer.global_step`` counts updates, not optimizers' steps.

    Args:
        name: See ``PolicyModule``.
        model: See ``PolicyModule``.
        tokenizer: See ``PolicyModule``.
        second_optimizer: Of the second part.
        accumulate: Batches an update; the trainer's own setting cannot be used with optimisation by hand.
        clip: Largest gradient norm of each part; infinity clips nothing.
        **policy_settings: See ``PolicyModule``.

    Raises:
        WrongInput: No batches an update, or nothing left of a gradient.
    """

    def __init__(
        self,
        name: str,
        model: ModelSource,
        tokenizer: PreTrainedTokenizerBase,
        *,
        second_optimizer: OptimizerFactory,
        accumulate: int = 1,
        clip: float = 0.5,
        **policy_settings: Any,
    ):
        super().__init__(name, model, tokenizer, **policy_settings)
        if accumulate < 1:
            raise WrongInput(f"accumulate is {accumulate}", f"{name}: accumulate", "1 batch an update, or more")
        if not clip > 0:
            raise WrongInput(f"clip is {clip}", f"{name}: clip", "a gradient norm above 0; .inf clips nothing")
        self.automatic_optimization = False
        self.make_second_optimizer, self.accumulate, self.clip = second_optimizer, accumulate, clip

    def trained_parts(self) -> Sequence[nn.Module]:
        """The policy, and the second part if it is trained."""
        raise NotImplementedError

    def on_fit_start(self) -> None:
        """Refuse trainers that do something to gradients that is not seen to here.

        Raises:
            WrongInput: Scaled gradients, or a sharded strategy.
        """
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            where = f"{self.name}: trainer.precision"
            raise WrongInput(f"precision {self.trainer.precision} scales gradients", where, "bf16-mixed or 32-true")
        strategy = type(self.trainer.strategy).__name__
        if strategy not in ("SingleDeviceStrategy", "DDPStrategy"):
            raise WrongInput(f"{strategy} is not known here", f"{self.name}: trainer.strategy", "auto or ddp")

    def configure_optimizers(self) -> Any:
        """One optimizer and schedule a part: linear warm-up, then cosine decay, over updates."""
        total = total_updates(self.trainer, self.accumulate)
        makers = (self.make_optimizer, self.make_second_optimizer)
        optimizers = [
            make(parameter_groups(part.parameters())) for make, part in zip(makers, self.trained_parts(), strict=False)
        ]
        warmup = round(self.warmup * total)
        return optimizers, [get_cosine_schedule_with_warmup(optimizer, warmup, total) for optimizer in optimizers]

    def learn(self, loss: Tensor, batch_idx: int) -> list[tuple[float, Tensor]]:
        """Add to the gradients, and at the end of a group of batches take a step.

        Returns:
            Of each part that took a step: its learning rate, and its gradient norm before clipping.
        """
        self.manual_backward(loss / group_size(self.trainer, batch_idx, self.accumulate))
        if (batch_idx + 1) % self.accumulate and not self.trainer.is_last_batch:
            return []
        taken = []
        for number, (wrapped, schedule, part) in enumerate(
            zip(_listed(self.optimizers()), _listed(self.lr_schedulers()), self.trained_parts(), strict=True)
        ):
            norm = nn.utils.clip_grad_norm_([p for p in part.parameters() if p.requires_grad], self.clip)
            if not norm.isfinite():  # a step with it would spoil the weights, which only the next batch would tell
                told = f"the gradient's norm is {norm.item()} at step {self.global_step}"
                raise WrongInput(told, f"stage {self.name}, batch {batch_idx}", "lower the learning rate")
            optimizer: Optimizer = wrapped.optimizer
            taken.append((optimizer.param_groups[0]["lr"], norm))
            # Lightning counts every step that it sees, and checkpoints and max_steps by it: it sees the first part's.
            (wrapped if number == 0 else optimizer).step()
            optimizer.zero_grad()
            schedule.step()
        return taken


def total_updates(trainer: Trainer, accumulate: int) -> int:
    """Updates of the whole training: one every ``accumulate`` batches, and one for what is left at an epoch's end.

    Raises:
        WrongInput: The trainer has no last step, so that nothing can decay towards it.
    """
    steps: Any = trainer.estimated_stepping_batches  # also sets the loaders up; it takes each batch for a step
    batches, epochs, most = trainer.num_training_batches, trainer.max_epochs, trainer.max_steps
    if epochs != -1 and batches != math.inf:
        steps = math.ceil(batches / accumulate) * max(epochs or 1, 1)
        steps = min(steps, most) if most != -1 else steps
    if not 0 < steps < math.inf:
        raise WrongInput("training has no end", "trainer", "set max_epochs or max_steps")
    return int(steps)


def group_size(trainer: Trainer, batch_idx: int, accumulate: int) -> int:
    """How many batches share the update that this batch belongs to: fewer at an epoch's end, if it does not divide."""
    batches = trainer.num_training_batches
    left = 0 if batches == math.inf else int(batches) % accumulate
    return left if left and batch_idx >= batches - left else accumulate


def _listed(one_or_many: Any) -> list[Any]:
    return list(one_or_many) if isinstance(one_or_many, list | tuple) else [one_or_many]
