"""Questions as plain text, for a language model of questions: how likely they read, whatever they ask about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from transformers import PreTrainedTokenizerBase

from datamodules.batches import Example, TokenBatch
from datamodules.encoding import EncodedResponse, pad_id_of
from datamodules.instruction import collate_encoded
from datamodules.question_data import QuestionData


class QuestionTextDataModule(QuestionData):
    """The data's questions without their passages, as ``TokenBatch``es, each to be learnt with its end.

    Arguments: see ``QuestionData``.
    """

    @property
    def collate(self) -> Callable[[list[EncodedResponse]], TokenBatch]:
        """From rows to a ``TokenBatch``."""
        return partial(collate_encoded, pad_id=pad_id_of(self.tokenizer))

    def length(self, row: EncodedResponse) -> int:
        """Tokens of a question."""
        return len(row.ids)

    def encode(self, examples: Sequence[Example], *, training: bool) -> list[EncodedResponse]:
        """Token ids, the first of which is the prompt."""
        end = [self.tokenizer.eos_token_id]
        encoded = [(example.id, question_text_ids(self.tokenizer, example.question) + end) for example in examples]
        return [EncodedResponse(place, np.asarray(ids, dtype=np.int32), 1, False) for place, ids in encoded]


def question_text_ids(tokenizer: PreTrainedTokenizerBase, question: str) -> list[int]:
    """What opens a text, then the question; not its end, which models of running text do not expect there.

    A text is opened by the tokenizer's BOS, else by the end of the text before.
    """
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    ids = tokenizer(question, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    reserved = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return [start, *(token for token in ids if token not in reserved)]  # type: ignore[list-item, union-attr]
