"""Prompts to be answered by one or several models, and what of that is done already."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning import LightningDataModule
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from datamodules.batches import PromptBatch, SamplerSetting
from datamodules.collate import collate_prompts
from datamodules.digest import text_digest
from datamodules.encoding import Prompt, encode_prompt, pad_id_of
from datamodules.pairs import RowSource, open_rows, read_prompt, read_response, source_name
from datamodules.responses import ResponseLog
from datamodules.resumable import open_batches
from datamodules.rows import Row
from datamodules.wrong_input import WrongInput

MANY = 4096


class PromptDataModule(LightningDataModule):
    """One ``predict`` loader a model, of the prompts that this model has not answered yet.

    A prompt that has its response on disk is not asked again, and responses depend on no batch, so an interruption
    changes none and costs only those under way.

    Args:
        data: Rows with ``prompt``; other fields are kept.
        tokenizer: Of all models that have none of their own.
        tokenizers: Name of a model → its own, whose chat template it reads, too.
        answering: Names of the models, in the order of the loaders.
        folder: Where ``NAME.jsonl`` holds each model's responses.
        skip_given: Do not ask model NAME for rows that already have a field NAME (given preference data). Names: of
            these models only; the others' responses are sampled anew.
        batch_size: Prompts a batch; of continuous batching and vLLM, which need no batches, thousands make one.
        sampler: See ``SamplingModule``.
        max_length: Tokens of prompt and response.
        seed: Of the sampling.
    """

    def __init__(
        self,
        data: RowSource,
        tokenizer: PreTrainedTokenizerBase,
        *,
        tokenizers: Mapping[str, PreTrainedTokenizerBase] | None = None,
        answering: Sequence[str],
        folder: str | Path,
        skip_given: bool | Sequence[str] = False,
        batch_size: int = 64,
        sampler: SamplerSetting = "auto",
        max_length: int = 2048,
        seed: int = 0,
    ):
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # a rank may find its share done already
        self.sampler = sampler
        own = dict(tokenizers or {})
        self.tokenizers = {name: own.get(name, tokenizer) for name in answering}
        self.data, self.answering, self.folder = data, list(answering), Path(folder)
        self.skip_given, self.batch_size, self.max_length, self.seed = skip_given, batch_size, max_length, seed
        self.rows: dict[str, Row] = {}
        self.prompts: dict[str, Prompt] = {}
        self._ids: dict[str, dict[str, list[int]]] = {}

    def setup(self, stage: str) -> None:
        """Read and encode the prompts."""
        if self.rows:
            return
        for row in open_rows(self.data):
            if row.place in self.rows:
                raise WrongInput("two rows have one id", row.place, "make the ids different")
            prompt = read_prompt(row)
            for name in self.answering:
                if self._is_given(row, name):
                    read_response(row, name, prompt)  # refuses what cannot be used later
            self.rows[row.place], self.prompts[row.place] = row, prompt
        if not self.rows:
            raise WrongInput("there are no prompts", source_name(self.data), "give rows with a `prompt`")
        encoded: dict[int, dict[str, list[int]]] = {}  # by tokenizer: models share what they read alike
        for name, tokenizer in self.tokenizers.items():
            if id(tokenizer) not in encoded:
                encoded[id(tokenizer)] = {
                    place: encode_prompt(tokenizer, prompt, place, self.max_length)
                    for place, prompt in self.prompts.items()
                }
            self._ids[name] = encoded[id(tokenizer)]

    def log_of(self, name: str) -> ResponseLog:
        """The responses of a model."""
        return ResponseLog(self.folder / f"{name}.jsonl")

    def predict_dataloader(self) -> list[DataLoader]:
        """Batches not yet answered, a loader a model."""
        return [DataLoader(self._batches(name), batch_size=None) for name in self.answering]  # type: ignore[arg-type]

    def _is_given(self, row: Row, name: str) -> bool:
        skipped = self.skip_given if isinstance(self.skip_given, bool) else name in self.skip_given
        return skipped and bool(row.fields.get(name))

    def _batches(self, name: str) -> list[PromptBatch]:
        asked = [place for place, row in self.rows.items() if not self._is_given(row, name)]
        lengths = {place: len(self._ids[name][place]) for place in asked}
        asked.sort(key=lengths.__getitem__)  # stable: equal lengths keep the data's order
        done = self.log_of(name).read().keys()
        seed = int(text_digest(str(self.seed), name)[:8], 16)
        pad_id = pad_id_of(self.tokenizers[name])
        batches = []
        for places in open_batches(self.trainer, asked, self._size(len(asked)), done):
            left = [place for place in places if place not in done]
            batches.append(collate_prompts([self._ids[name][place] for place in left], left, pad_id, seed))
        return batches

    def _size(self, prompts: int) -> int:
        """Prompts a batch: for samplers that need no batches many, but so that no rank goes without."""
        device = getattr(getattr(self.trainer, "strategy", None), "root_device", None)
        on_cuda = device is not None and device.type == "cuda"
        if self.sampler in ("continuous", "vllm") or (self.sampler == "auto" and on_cuda):
            ranks = 1 if self.trainer is None else self.trainer.world_size
            return max(1, min(MANY, -(-prompts // ranks)))
        return self.batch_size
