"""How far students are from their teacher, on the teacher's own responses."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from datamodules.batches import TokenBatch
from lightning_modules.frozen import FrozenModelsModule
from lightning_modules.language_model import ModelSource, build_language_model, freeze, output_head
from lightning_modules.logprobs import token_kl
from lightning_modules.response_logps import response_states


class Divergences(NamedTuple):
    """KL(teacher ‖ student), summed over the tokens of each response."""

    model: str
    row_ids: list[str]
    nats: list[float]
    tokens: list[int]


class DivergenceModule(FrozenModelsModule):
    """Exact next-token KL(teacher ‖ student) over the whole vocabulary, at every response token.

    The teacher stays in memory; the students take turns.

    Takes: ``TokenBatch`` of the teacher's responses. ``predict_step`` returns ``Divergences``.

    Args:
        teacher: The distribution that is compared with.
        models: Name → student; see ``FrozenModelsModule``.
        tokenizer: Shared by all; its length is the real vocabulary.
        **settings: See ``FrozenModelsModule``.
    """

    def __init__(
        self,
        teacher: ModelSource,
        models: Mapping[str, ModelSource],
        tokenizer: PreTrainedTokenizerBase,
        **settings: Any,
    ):
        super().__init__(models, tokenizer, **settings)
        self.teacher_source = teacher
        self._teacher: tuple = ()

    @torch.no_grad()
    def predict_step(self, batch: TokenBatch, batch_idx: int, dataloader_idx: int = 0) -> Divergences:
        """KL of the student that the loader belongs to."""
        if not self._teacher:
            self._teacher = (freeze(build_language_model(self.teacher_source, **self.build)).to(self.device),)  # type: ignore[arg-type]
        name, vocabulary = self.name_of(dataloader_idx), len(self.tokenizer)
        teacher, student = self._teacher[0], self.model(name)
        ours, theirs = response_states(student, batch), response_states(teacher, batch)
        kl = token_kl(theirs.hidden, output_head(teacher, vocabulary), ours.hidden, output_head(student, vocabulary))
        nats = kl.new_zeros(len(batch.row_ids)).index_add(0, ours.rows, kl)
        return Divergences(name, batch.row_ids, nats.tolist(), batch.response_mask.sum(-1).tolist())
