"""Held-out responses of one model, for others to be held against it."""

import logging
from collections.abc import Sequence
from functools import partial

from lightning import LightningDataModule
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from datamodules.encoding import EncodedResponse, encode_response, pad_id_of
from datamodules.instruction import collate_encoded
from datamodules.responses import find_log
from datamodules.wrong_input import WrongInput

log = logging.getLogger(__name__)


class AnswersDataModule(LightningDataModule):
    """The responses of ``author``, once for each model that is compared with it.

    Args:
        answers: Folder, or folders, with ``NAME.jsonl`` of each model, as sampling left them.
        tokenizer: The models'.
        author: Whose responses.
        compared: Names of the other models, in the order of the loaders. None: there is nothing to compare token by
            token, which is said.
        batch_size: Responses a batch.
        max_length: Tokens of prompt and response.
    """

    def __init__(
        self,
        answers: str | Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        *,
        author: str,
        compared: Sequence[str],
        batch_size: int = 64,
        max_length: int = 2048,
    ):
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # a rank may find its share done already
        self.answers, self.tokenizer, self.author, self.compared = answers, tokenizer, author, list(compared)
        self.batch_size, self.max_length = batch_size, max_length
        self.rows: list[EncodedResponse] = []
        self.final_metrics: dict[str, float] = {}

    def setup(self, stage: str) -> None:
        """Encode the author's responses; empty ones cannot be scored and are left out.

        Raises:
            WrongInput: There are none.
        """
        if not self.compared:
            log.info("KL to the %s is left out: its tokens are not the students'", self.author)
            return
        found = find_log(self.answers, self.author)
        self.rows = [
            encode_response(self.tokenizer, row["prompt"], row["response"], row["id"], self.max_length)
            for row in found.read().values()
            if row["response"].strip()
        ]
        if not self.rows:
            raise WrongInput(
                f"there are no responses of {self.author}", str(found.path), "run the stage that samples them"
            )
        self.final_metrics = {"truncated": sum(row.truncated for row in self.rows)}

    def predict_dataloader(self) -> list[DataLoader]:
        """The same batches for each compared model."""
        collate = partial(collate_encoded, pad_id=pad_id_of(self.tokenizer))
        rows = self.rows if self.trainer is None else self.rows[self.trainer.global_rank :: self.trainer.world_size]
        return [DataLoader(rows, batch_size=self.batch_size, collate_fn=collate) for _ in self.compared]  # type: ignore[arg-type]
