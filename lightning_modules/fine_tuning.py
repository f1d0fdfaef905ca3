"""Supervised fine-tuning: the teacher, the distilled student (dSFT) and the SFT control."""

from torch import Tensor

from datamodules.batches import TokenBatch
from lightning_modules.scoring import response_lengths, response_logps
from lightning_modules.trainable import PolicyModule


class FineTuningModule(PolicyModule):
    """Cross-entropy on response tokens; prompts are read, never learnt.

    Loss of a batch: −Σ log π(token) / number of response tokens, in nats a token.

    Takes: ``TokenBatch``. Logs: ``{name}/train/{loss, response_tokens, lr}`` and ``{name}/val/loss``.
    Arguments: see ``PolicyModule``.
    """

    def training_step(self, batch: TokenBatch, batch_idx: int) -> Tensor:
        """Mean negative log-likelihood of the batch's response tokens."""
        loss, tokens = self._loss(batch)
        self.log(f"{self.name}/train/loss", loss.detach(), prog_bar=True)
        self.log(f"{self.name}/train/response_tokens", tokens / len(batch.row_ids))
        return self.guard(loss, batch.row_ids)

    def validation_step(self, batch: TokenBatch, batch_idx: int) -> None:
        """The same on held-out rows, weighted by tokens so that batches of any size add up."""
        loss, tokens = self._loss(batch)
        count = int(tokens)
        self.log(f"{self.name}/val/loss", loss, batch_size=count, on_epoch=True, sync_dist=True, prog_bar=True)

    def _loss(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        assert self.policy is not None
        logps = response_logps(self.policy, batch, vocabulary=self.vocabulary, chunk=self.logits_chunk)
        tokens = response_lengths(batch).sum()
        return -logps.sum() / tokens.clamp(min=1), tokens
