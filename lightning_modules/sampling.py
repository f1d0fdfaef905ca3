"""Sampling of responses, reproducible answer by answer."""

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, get_args

import torch
from lightning import Callback
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from datamodules.batches import PromptBatch, SamplerSetting
from datamodules.wrong_input import WrongInput
from lightning_modules.continuous_sampling import CannotBatch, Finished, continuous_answers
from lightning_modules.frozen import FrozenModelsModule
from lightning_modules.language_model import ModelSource, stop_token_ids
from lightning_modules.token_draws import DrawEachRequest, DrawEachRow, TokenDraws, answer_key
from lightning_modules.vllm import VLLMSampler

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sampling:
    """How to draw responses.

    Args:
        temperature: 1 samples from the model's own distribution, 0 decodes greedily.
        top_p: Nucleus; 1 keeps all.
        top_k: 0 keeps all.
        max_new_tokens: Responses that need more are cut, and marked as unfinished.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 256

    def __post_init__(self) -> None:
        """Refuse what cannot be sampled with."""
        if not 0 <= self.temperature < math.inf or not 0 < self.top_p <= 1 or self.top_k < 0 or self.max_new_tokens < 1:
            raise WrongInput(
                f"no such sampling: {self}", "sampling", "temperature ≥ 0, 0 < top_p ≤ 1, top_k ≥ 0, max_new_tokens ≥ 1"
            )


def generation_config(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, how: Sampling) -> GenerationConfig:
    """The same for transformers' ``generate``: only tokens that the tokenizer has, until one that ends a turn."""
    stops = stop_token_ids(model, tokenizer)
    rows = model.get_output_embeddings().weight.shape[0]  # type: ignore[union-attr]
    return GenerationConfig(
        do_sample=how.temperature > 0,
        temperature=how.temperature or None,
        top_p=how.top_p,
        top_k=how.top_k if how.temperature > 0 else None,
        max_new_tokens=how.max_new_tokens,
        eos_token_id=stops,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stops[0],
        decoder_start_token_id=getattr(model.config, "decoder_start_token_id", None),
        # padded vocabulary rows stand for no token
        suppress_tokens=list(range(len(tokenizer), rows)) or None,
    )


def check_sampler(sampler: str, batch_size: int) -> None:
    """Refuse what cannot be sampled with, before any stage runs.

    Raises:
        WrongInput: See ``SamplingModule``.
    """
    if sampler not in get_args(SamplerSetting):
        known = ", ".join(get_args(SamplerSetting))
        raise WrongInput(f"unknown sampler {sampler!r}", "sampler", f"one of {known}")
    if batch_size < 1:
        raise WrongInput(f"batches of {batch_size}", "sample_batch_size", "set 1 or more")


class Responses(NamedTuple):
    """What one model answered to some prompts."""

    model: str
    row_ids: list[str]
    texts: list[str]
    tokens: list[int]
    """Length of each response, its end-of-turn token included."""
    finished: list[bool]
    """Whether the response ended its turn within ``max_new_tokens``."""


class SamplingModule(FrozenModelsModule):
    """Answers prompts with each of several models.

    Every answer has random numbers of its own (``token_draws``): it depends on the batch's seed and its row's name, on
    neither company, order nor sampler. (In half precision rounding does depend on the company.) vLLM alone draws
    otherwise, from a seed that comes of the same two.

    Takes: ``PromptBatch``. ``predict_step`` gives ``Responses`` one after the other, each as soon as it is there.

    Args:
        models: Name → model; see ``FrozenModelsModule``.
        tokenizer: Shared by all that have none of their own.
        sampling: For every model, or name → its own.
        sampler: ``continuous``: an answer that ends makes room for the next prompt at once; ``batched``: all answers of
            a batch go on until the last has ended; ``auto``: continuous on CUDA with models it takes, else batched;
            ``vllm``: a vLLM in an environment of its own.
        batch_size: Answers under way at one time; of vLLM, ``vllm["requests"]``.
        vllm: See ``VLLMSettings``.
        **settings: See ``FrozenModelsModule``.

    Raises:
        WrongInput: Another sampler, a batch of none, or a wrong setting of vLLM.
    """

    def __init__(
        self,
        models: Mapping[str, ModelSource],
        tokenizer: PreTrainedTokenizerBase,
        sampling: Sampling | Mapping[str, Sampling],
        *,
        sampler: SamplerSetting = "auto",
        batch_size: int = 64,
        vllm: Mapping[str, Any] | None = None,
        **settings: Any,
    ):
        super().__init__(models, tokenizer, **settings)
        check_sampler(sampler, batch_size)
        self.sampling = {name: sampling if isinstance(sampling, Sampling) else sampling[name] for name in models}
        self.sampler, self.batch_size = sampler, batch_size
        self.vllm = VLLMSampler(vllm or {}) if sampler == "vllm" else None

    def configure_callbacks(self) -> list[Callback]:
        """What ends vLLM."""
        return [self.vllm] if self.vllm is not None else []

    def predict_step(self, batch: PromptBatch, batch_idx: int, dataloader_idx: int = 0) -> Iterator[Responses]:
        """One response a prompt."""
        name = self.name_of(dataloader_idx)
        if self.vllm is not None:
            asked = self.sources[name], self.tokenizer_of(name), self.build["dtype"], self.sampling[name], batch
            for row, tokens, ends in self.vllm.answers(name, *asked):
                yield self._responses(name, [batch.row_ids[row]], [tokens], ends)
            return
        model, tokenizer = self.model(name), self.tokenizer_of(name)
        stops = stop_token_ids(model, tokenizer)
        # `generate` fills what we leave open (beams, penalties, …) from the model's own: only its stops have a say.
        model.generation_config = GenerationConfig(eos_token_id=stops)
        how = self.sampling[name]
        greedy = replace(how, temperature=0.0, top_p=1.0, top_k=0)  # tokens are drawn here
        config = generation_config(model, tokenizer, greedy)
        draws = TokenDraws(how.temperature, how.top_p, how.top_k, len(tokenizer))
        keys = [answer_key(batch.seed, row_id) for row_id in batch.row_ids]
        if self.sampler == "continuous" or (self.sampler == "auto" and self.device.type == "cuda"):
            try:
                for row, tokens in self._continuous(model, batch, config, draws, keys):
                    yield self._responses(name, [batch.row_ids[row]], [tokens], stops)
                return
            except CannotBatch as error:
                if self.sampler == "continuous":
                    mend = "set sampler=batched"
                    raise WrongInput(f"continuous batching does not take it: {error}", name, mend) from error
                log.info("%s answers in batches, since continuous batching does not take it: %s", name, error)
        for start in range(0, len(keys), self.batch_size):
            piece = slice(start, start + self.batch_size)
            width = int(batch.attention_mask[piece].sum(-1).max())  # prompts are padded on the left
            ids, mask = batch.input_ids[piece, -width:], batch.attention_mask[piece, -width:]
            with torch.inference_mode():
                output = model.generate(  # type: ignore[operator]
                    input_ids=ids,
                    attention_mask=mask,
                    generation_config=config,
                    logits_processor=LogitsProcessorList([DrawEachRow(draws, keys[piece], width)]),
                )
            made = [row.tolist() for row in output[:, width:].cpu()]  # type: ignore[index]
            yield self._responses(name, batch.row_ids[piece], made, stops)

    def _continuous(
        self,
        model: PreTrainedModel,
        batch: PromptBatch,
        config: GenerationConfig,
        draws: TokenDraws,
        keys: list[int],
    ) -> Iterator[Finished]:
        filled = zip(batch.input_ids, batch.attention_mask.bool(), strict=True)
        prompts = [ids[mask].tolist() for ids, mask in filled]
        named = {str(row): key for row, key in enumerate(keys)}
        starts = {str(row): len(prompt) for row, prompt in enumerate(prompts)}
        return continuous_answers(model, prompts, DrawEachRequest(draws, named, starts), config, self.batch_size)

    def _responses(self, name: str, row_ids: list[str], made: list[list[int]], stops: list[int]) -> Responses:
        """Answers up to the first token that ends a turn."""
        ends = [next((at for at, token in enumerate(row) if token in stops), None) for row in made]
        kept = [row if end is None else row[: end + 1] for row, end in zip(made, ends, strict=True)]
        texts = [str(self.tokenizer_of(name).decode(row, skip_special_tokens=True)) for row in kept]
        return Responses(name, row_ids, texts, [len(row) for row in kept], [end is not None for end in ends])
