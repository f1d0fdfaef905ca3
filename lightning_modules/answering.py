"""A QA model that is not the reward's: what it answers to generated questions."""

from typing import NamedTuple

from lightning import LightningModule
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from datamodules.batches import SourceBatch
from lightning_modules.language_model import ModelSource, build_seq2seq_model, freeze
from lightning_modules.rast.writing import Encoded, write
from lightning_modules.sampling import Sampling
from lightning_modules.seq2seq import encoder_states


class Answers(NamedTuple):
    """What was answered to a batch of questions."""

    row_ids: list[str]
    texts: list[str]


class AnsweringModule(LightningModule):
    """Writes greedily what an encoder–decoder answers.

    Takes: ``SourceBatch``. ``predict_step`` returns ``Answers``.

    Args:
        model: The QA model.
        tokenizer: Its own.
        max_new_tokens: Of an answer.
        dtype: Of the model.
    """

    def __init__(
        self,
        model: ModelSource,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_new_tokens: int = 32,
        dtype: str = "float32",
    ):
        super().__init__()
        self.source, self.tokenizer, self.dtype_name = model, tokenizer, dtype
        self.how = Sampling(temperature=0.0, max_new_tokens=max_new_tokens)
        self._model: tuple[PreTrainedModel] | None = None

    def predict_step(self, batch: SourceBatch, batch_idx: int, dataloader_idx: int = 0) -> Answers:
        """One answer a question."""
        if self._model is None:
            model = freeze(build_seq2seq_model(self.source, self.tokenizer, dtype=self.dtype_name))
            self._model = (model.to(self.device),)  # type: ignore[arg-type]
        inputs = batch.input_ids, batch.attention_mask
        encoded = Encoded(*inputs, encoder_states(self._model[0], *inputs))
        return Answers(batch.row_ids, write(self._model[0], self.tokenizer, encoded, self.how).texts)
