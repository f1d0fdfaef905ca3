"""Supervised fine-tuning: teachers, distilled students (dSFT), question generators and QA models."""

from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from datamodules.batches import Seq2SeqBatch, TokenBatch
from datamodules.wrong_input import WrongInput
from lightning_modules.language_model import build_model, output_head
from lightning_modules.logprobs import token_logps
from lightning_modules.ranks import in_mean, over_ranks
from lightning_modules.response_logps import response_lengths, response_logps
from lightning_modules.seq2seq import encoder_states, hits, label_states
from lightning_modules.sharding import whole
from lightning_modules.trainable import PolicyModule


class Learnt(NamedTuple):
    """What a batch says of the policy; scalars."""

    loss: Tensor
    """−Σ log π(token) / tokens, nats a token."""
    tokens: Tensor
    """How many there are to learn."""
    accuracy: Tensor | None = None
    """Share of them that are the likeliest token; encoder–decoders only."""


class FineTuningModule(PolicyModule):
    """Cross-entropy on response tokens; prompts are read, never learnt.

    A causal model takes ``TokenBatch``; an encoder–decoder, told by the model's config, takes ``Seq2SeqBatch``.

    Logs: ``{name}/train/{loss, response_tokens, lr}`` and ``{name}/val/loss``; of encoder–decoders also ``accuracy``,
    the share of tokens that are the likeliest. Means are over tokens.
    Arguments: see ``PolicyModule``.
    """

    build_policy = staticmethod(build_model)

    def training_step(self, batch: TokenBatch | Seq2SeqBatch, batch_idx: int) -> Tensor:
        """Mean negative log-likelihood of the batch's response tokens."""
        learnt = self._loss(batch)
        means = {"loss": learnt.loss} | ({} if learnt.accuracy is None else {"accuracy": learnt.accuracy})
        means, weight, tokens = over_ranks(self, means, learnt.tokens)
        self.log(f"{self.name}/train/loss", means["loss"].detach(), prog_bar=True)
        self.log(f"{self.name}/train/response_tokens", learnt.tokens / len(batch.input_ids))
        if learnt.accuracy is not None:
            self.log(f"{self.name}/train/accuracy", means["accuracy"])
        row_ids = batch.row_ids if isinstance(batch, TokenBatch) else [f"of batch {batch_idx}"]
        return self.guard(learnt.loss * weight, row_ids) * self.accumulation.weight(self, tokens)

    def validation_step(self, batch: TokenBatch | Seq2SeqBatch, batch_idx: int) -> None:
        """The same on held-out rows, weighted by tokens so that batches of any size add up."""
        learnt = self._loss(batch)
        settings = in_mean(float(learnt.tokens), gather=True)
        self.log(f"{self.name}/val/loss", learnt.loss, on_epoch=True, prog_bar=True, **settings)
        if learnt.accuracy is not None:
            self.log(f"{self.name}/val/accuracy", learnt.accuracy, on_epoch=True, **settings)

    def _loss(self, batch: TokenBatch | Seq2SeqBatch) -> Learnt:
        assert self.policy is not None
        if isinstance(batch, Seq2SeqBatch) != bool(self.policy.config.is_encoder_decoder):
            raise WrongInput(
                f"{type(self.policy).__name__} cannot learn from a {type(batch).__name__}",
                f"stage {self.name}",
                "use the datamodule that belongs to this kind of model",
            )
        if isinstance(batch, Seq2SeqBatch):
            return whole(self.policy, lambda policy: self._label_loss(policy, batch))
        logps = response_logps(self.policy, batch, vocabulary=self.vocabulary, chunk=self.logits_chunk)
        tokens = response_lengths(batch).sum()
        return Learnt(-logps.sum() / tokens.clamp(min=1), tokens)

    def _label_loss(self, policy: PreTrainedModel, batch: Seq2SeqBatch) -> Learnt:
        encoded = encoder_states(policy, batch.input_ids, batch.attention_mask)
        states = label_states(policy, encoded, batch.attention_mask, batch.labels)
        head = output_head(policy, self.vocabulary)
        logps = token_logps(states.hidden, head, states.targets, self.logits_chunk)
        tokens = torch.tensor(float(len(states.targets)), device=logps.device)
        right = hits(states, head, self.logits_chunk)
        return Learnt(-logps.sum() / tokens.clamp(min=1), tokens, right / tokens.clamp(min=1))
