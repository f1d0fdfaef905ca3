"""Sampling of responses, reproducible batch by batch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from datamodules.batches import PromptBatch
from datamodules.wrong_input import WrongInput
from lightning_modules.frozen import FrozenModelsModule
from lightning_modules.language_model import ModelSource, stop_token_ids


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
        top_k=how.top_k,
        max_new_tokens=how.max_new_tokens,
        eos_token_id=stops,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stops[0],
        decoder_start_token_id=getattr(model.config, "decoder_start_token_id", None),
        # padded vocabulary rows stand for no token
        suppress_tokens=list(range(len(tokenizer), rows)) or None,
    )


class Responses(NamedTuple):
    """What one model answered to a batch of prompts."""

    model: str
    row_ids: list[str]
    texts: list[str]
    tokens: list[int]
    """Length of each response, its end-of-turn token included."""
    finished: list[bool]
    """Whether the response ended its turn within ``max_new_tokens``."""


class SamplingModule(FrozenModelsModule):
    """Answers prompts with each of several models.

    Takes: ``PromptBatch``. ``predict_step`` returns ``Responses``.

    Args:
        models: Name → model; see ``FrozenModelsModule``.
        tokenizer: Shared by all.
        sampling: For every model, or name → its own.
        **settings: See ``FrozenModelsModule``.
    """

    def __init__(
        self,
        models: Mapping[str, ModelSource],
        tokenizer: PreTrainedTokenizerBase,
        sampling: Sampling | Mapping[str, Sampling],
        **settings: Any,
    ):
        super().__init__(models, tokenizer, **settings)
        self.sampling = {name: sampling if isinstance(sampling, Sampling) else sampling[name] for name in models}

    def predict_step(self, batch: PromptBatch, batch_idx: int, dataloader_idx: int = 0) -> Responses:
        """Sample one response a prompt, from the batch's own seed."""
        name = self.name_of(dataloader_idx)
        model = self.model(name)
        stops = stop_token_ids(model, self.tokenizer)
        # `generate` fills what we leave open (beams, penalties, …) from the model's own: only its stops have a say.
        model.generation_config = GenerationConfig(eos_token_id=stops)
        config = generation_config(model, self.tokenizer, self.sampling[name])
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.inference_mode():
            torch.manual_seed(batch.seed)
            output = model.generate(  # type: ignore[operator]
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, generation_config=config
            )
        made = output[:, batch.input_ids.shape[1] :].cpu()  # type: ignore[index]
        ends = torch.isin(made, torch.tensor(stops))
        finished = ends.any(-1)
        lengths = torch.where(finished, ends.int().argmax(-1) + 1, made.shape[1])
        texts = [
            self.tokenizer.decode(row[: int(length)], skip_special_tokens=True)
            for row, length in zip(made, lengths, strict=True)
        ]
        return Responses(name, batch.row_ids, [str(t) for t in texts], lengths.tolist(), finished.tolist())
