"""PruningModule: a student from a teacher, by structured pruning."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from datamodules.batches import TokenBatch
from datamodules.wrong_input import WrongInput
from lightning_modules.exporting import export
from lightning_modules.language_model import ModelSource, build_language_model
from lightning_modules.pruning.groups import (
    Coupled,
    channel_scores,
    coupled_layers,
    seeded,
)
from lightning_modules.pruning.plan import Widths
from lightning_modules.pruning.settings import check_pruning
from lightning_modules.pruning.surgery import check_prunable, count_parameters, plan_widths, prune, widths_of
from lightning_modules.response_logps import response_lengths, response_logps


class PruningModule(LightningModule):
    """Reads calibration rows in one epoch of ``fit``, learns nothing, and then prunes the model by them.

    Taylor importance is the mean over batches of Σ|weight · gradient| of the cross-entropy on response tokens. All
    layers are pruned alike, so that the config can say how wide they are; in each, the units worth least go. The
    vocabulary stays. Pruned weights are not mended: that is what distillation is for.

    Takes: ``TokenBatch``; batches of one row, so that gradients of different rows do not cancel. Of several processes,
    which prune alike, each brings a row to a batch.
    ``final_metrics``: ``parameters``, ``parameters_before``, ``ratio`` reached, the widths,
    ``calibration_batches``, and under ``taylor`` ``loss_before`` and ``loss_after`` on them (nats a token).

    Args:
        name: The stage's name, in messages.
        model: What is pruned: a Hugging Face folder or Hub id, or a new model's config fields.
        tokenizer: Exported beside the model; its length is the real vocabulary.
        ratio: Share of all parameters to take out, above 0 and below 1; met within 1 % of what is left.
        importance: ``taylor``; or ``magnitude`` (Σ weight²) or ``random``, which look at no row.
        widths: Which are pruned: of ``heads``, ``intermediate`` and ``hidden``.
        multiple_of: Of hidden and intermediate sizes.
        seed: Of ``random``.
        dtype: Of the weights, read and written.
        attn_implementation: As transformers names it (None: the best that the family has here).
        gradient_checkpointing: Less memory for about a third more time.
    """

    def __init__(
        self,
        name: str,
        model: ModelSource,
        tokenizer: PreTrainedTokenizerBase,
        *,
        ratio: float,
        importance: str = "taylor",
        widths: Collection[str] = ("heads", "intermediate"),
        multiple_of: int = 1,
        seed: int = 0,
        dtype: str = "float32",
        attn_implementation: str | None = None,
        gradient_checkpointing: bool = False,
    ):
        super().__init__()
        check_pruning(ratio=ratio, importance=importance, widths=widths, multiple_of=multiple_of)
        self.automatic_optimization = False
        self.name, self.source, self.tokenizer, self.ratio = name, model, tokenizer, ratio
        self.importance, self.pruned_widths, self.multiple_of, self.seed = importance, widths, multiple_of, seed
        self.build: dict[str, Any] = {
            "dtype": dtype,
            "attn_implementation": attn_implementation,
            "gradient_checkpointing": gradient_checkpointing,
        }
        self.model: PreTrainedModel | None = None
        self.plan: Widths | None = None
        self.final_metrics: dict[str, float] = {}
        self._scores: list[Tensor] = []
        self._batches: list[TokenBatch] = []
        self._losses: list[tuple[float, float]] = []

    def configure_model(self) -> None:
        """Build the model and plan its widths, before anything is calibrated.

        Raises:
            WrongInput: It cannot be pruned, or not to this ratio.
        """
        if self.model is None:
            model = build_language_model(self.source, self.tokenizer, **self.build)
            check_prunable(model)
            self.plan = plan_widths(model, self.ratio, self.pruned_widths, self.multiple_of)
            self.model = model.train(self.build["gradient_checkpointing"])  # which works in no other mode

    def configure_optimizers(self) -> None:
        """None: nothing is learnt."""

    def training_step(self, batch: TokenBatch, batch_idx: int) -> None:
        """Add what the batch says of each channel."""
        self._batches.append(batch)
        if self.importance != "taylor":
            return
        assert self.model is not None
        nats, tokens = self._nats(batch)
        self.manual_backward(nats / tokens.clamp(min=1))
        scores = [channel_scores(group, "taylor") for group in self._groups]
        self.model.zero_grad()
        if not all(torch.isfinite(of_group).all() for of_group in scores):
            where = f"stage {self.name}, rows {', '.join(batch.row_ids)}"
            raise WrongInput("the gradients are no finite numbers", where, "drop these rows, or take another dtype")
        self._scores = [before + one for before, one in zip(self._scores or [0] * len(scores), scores, strict=True)]
        self._losses.append((nats.item(), tokens.item()))

    def on_train_end(self) -> None:
        """Prune.

        Raises:
            WrongInput: No row was seen.
        """
        self._check_calibrated()
        assert self.model is not None
        assert self.plan is not None
        model, before = self.model, count_parameters(self.model)
        if self.importance != "taylor":
            self._scores = seeded(self.seed, lambda: [channel_scores(g, self.importance) for g in self._groups])
        prune(model, self.plan, self._groups, self._scores)
        after = count_parameters(model)
        self.final_metrics = {
            "parameters": after,
            "parameters_before": before,
            "ratio": 1 - after / before,
            **{name: getattr(widths_of(model), name) for name in Widths.__dataclass_fields__},
            "calibration_batches": len(self._batches),
        }
        if self._losses:
            self.final_metrics |= {"loss_before": _mean(self._losses), "loss_after": self._loss_now()}

    def export(self, folder: str | Path) -> None:
        """Write the pruned model as a Hugging Face folder.

        Raises:
            WrongInput: No calibration row was seen, so that nothing has been pruned.
        """
        self._check_calibrated()
        assert self.model is not None
        export(self.model, self.tokenizer, Path(folder))

    @property
    def _groups(self) -> list[Coupled]:
        assert self.model is not None
        return coupled_layers(self.model, self.pruned_widths)

    def _check_calibrated(self) -> None:
        if not self._batches:
            raise WrongInput("there are no calibration rows", f"stage {self.name}", "give rows with responses")

    def _nats(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """−Σ log-probability of the batch's response tokens, and how many there are."""
        assert self.model is not None
        logps = response_logps(self.model, batch, vocabulary=len(self.tokenizer))
        return -logps.sum(), response_lengths(batch).sum()

    @torch.no_grad()
    def _loss_now(self) -> float:
        with self.trainer.precision_plugin.forward_context():
            return _mean([(nats.item(), tokens.item()) for nats, tokens in map(self._nats, self._batches)])


def _mean(sums: list[tuple[float, float]]) -> float:
    nats, tokens = map(sum, zip(*sums, strict=True))
    return nats / max(tokens, 1)
