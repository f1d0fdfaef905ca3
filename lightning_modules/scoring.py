"""ScoringModule: what frozen models say of responses, by whatever way."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import torch
from lightning.fabric.utilities import move_data_to_device
from transformers import PreTrainedTokenizerBase

from datamodules.batches import PackedTokenBatch, PackingSetting, TokenBatch
from datamodules.wrong_input import WrongInput
from lightning_modules.batch_search import GPU_TOKENS, largest_that_fits, tokens_for_cpu
from lightning_modules.frozen import FrozenModelsModule
from lightning_modules.halving import Halving
from lightning_modules.language_model import ModelSource, build_skeleton, output_head
from lightning_modules.loading import DTYPES
from lightning_modules.logprobs import token_logps
from lightning_modules.memory import free_memory
from lightning_modules.packing import Packing
from lightning_modules.precision import as_held
from lightning_modules.response_logps import response_logps, response_states

log = logging.getLogger(__name__)
AnyBatch = TokenBatch | PackedTokenBatch
RULED = ("cpu",)
"""Devices that do not say when memory runs out."""
SPARE = 0.9
"""Of the free memory, what a model's weights may take."""


class ResponseScores(NamedTuple):
    """What one model says of a batch of responses."""

    model: str
    row_ids: list[str]
    logps: list[float]
    """Summed over response tokens, nats."""


class Scorer(Protocol):
    """Another way to the same numbers than a model in memory, e.g. ``EndpointScorer``."""

    at_once: int
    """Responses that a batch may well have."""

    def logps(self, batch: TokenBatch | PackedTokenBatch) -> list[float]:
        """Log-probability of each response, summed over its tokens."""
        ...

    def token_logps(self, batch: TokenBatch | PackedTokenBatch) -> list[list[float]]:
        """The same of each of its tokens."""
        ...


class ScoringModule(FrozenModelsModule):
    """Log-probabilities of responses under each of several frozen models, computed in ``dtype``.

    The trainer's precision does not matter: no autocast is on while they are computed.

    Takes: ``TokenBatch`` or ``PackedTokenBatch``. ``predict_step`` returns ``ResponseScores``.

    Args:
        models: Name → model; see ``FrozenModelsModule``.
        tokenizer: Shared by all that have none of their own; its length is the real vocabulary.
        scorers: Name → what scores in that model's place, which is then not loaded.
        logits_chunk: See ``PolicyModule``.
        padded_vocabulary: See ``PolicyModule``.
        packing: See ``Packing``.
        **settings: See ``FrozenModelsModule``.
    """

    def __init__(
        self,
        models: Mapping[str, ModelSource],
        tokenizer: PreTrainedTokenizerBase,
        *,
        scorers: Mapping[str, Scorer] | None = None,
        logits_chunk: int | None = None,
        padded_vocabulary: bool = False,
        packing: PackingSetting = "auto",
        **settings: Any,
    ):
        super().__init__(models, tokenizer, **settings)
        self.logits_chunk, self.padded_vocabulary = logits_chunk, padded_vocabulary
        self.packing, self.scorers = Packing(packing), dict(scorers or {})
        self._halving: dict[str, Halving] = {}

    @torch.no_grad()
    def predict_step(
        self, batch: TokenBatch | PackedTokenBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> ResponseScores:
        """Score the batch with the model that its loader belongs to; in parts where memory does not suffice."""
        name = self.name_of(dataloader_idx)
        if name in self.scorers:
            return ResponseScores(name, batch.row_ids, self.scorers[name].logps(batch))
        settings = {"vocabulary": self._vocabulary(name), "chunk": self.logits_chunk, "packing": self.packing}
        model, halving = self.model(name), self._halving.setdefault(name, Halving(f"the {name}"))
        with as_held(self.device):
            logps = halving(lambda part: response_logps(model, part, **settings).tolist(), batch)
        return ResponseScores(name, batch.row_ids, logps)

    def tokens_a_batch(self, name: str, batch_of: Callable[[int], AnyBatch], longest: int, most: int) -> int:
        """How many tokens a batch of the named model's had best have, where that is not set; said in the log.

        On a GPU by trying how many of the longest groups of responses run at one time, on a CPU by a rule, at an
        endpoint by how many requests may be under way.

        Args:
            name: Of the model.
            batch_of: Makes a batch of so many of the longest group.
            longest: Its tokens.
            most: Groups that there are.
        """
        if name in self.scorers:
            groups, how = min(most, -(-self.scorers[name].at_once // len(batch_of(1).row_ids))), "its requests"
        elif self.device.type in RULED:
            config, dtype = self.model(name).config.get_text_config(), DTYPES[self.build["dtype"]]
            width = 8 * config.hidden_size + 4 * (getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
            tokens = tokens_for_cpu(free_memory(self.device), dtype.itemsize * (width + longest))
            groups, how = min(most, max(1, tokens // longest)), "the rule for a CPU"
        else:
            model = self.model(name)
            settings = {"vocabulary": self._vocabulary(name), "chunk": self.logits_chunk, "packing": self.packing}

            def run(size: int) -> None:
                batch = move_data_to_device(batch_of(size), self.device)
                with torch.no_grad(), as_held(self.device):
                    response_logps(model, batch, **settings).tolist()

            groups, how = largest_that_fits(run, min(most, max(1, GPU_TOKENS // longest))), f"trying on {self.device}"
        log.info("batches of the %s have %s tokens, by %s", name, f"{groups * longest:,}", how)
        return groups * longest

    def approximation(self, name: str) -> str | None:
        """In which way the named model's scores are not those of its folder's weights, in words; None: they are."""
        if name in self.scorers:
            return "served"
        return f"in {self.quantization[name]}" if name in self.quantization else None

    @torch.no_grad()
    def token_logps(self, name: str, batch: TokenBatch, *, full: bool = False) -> list[list[float]]:
        """Log-probability of each response token (nats), response by response.

        Args:
            name: Of the model.
            batch: On this module's device.
            full: By the weights of the model's folder, whatever stands in for them.
        """
        if name in self.scorers and not full:
            return self.scorers[name].token_logps(batch)
        model = self.model(name, full=full)
        with as_held(self.device):
            head, states = output_head(model, self._vocabulary(name)), response_states(model, batch, self.packing)
            per_token = token_logps(states.hidden, head, states.targets, self.logits_chunk)
        return [each.tolist() for each in per_token.split(batch.response_mask.sum(-1).tolist())]

    def check_room(self, name: str) -> None:
        """Pass if the named model's weights with all their bits fit into what memory is left; its config is read only.

        Raises:
            WrongInput: They do not: on a CPU nothing else would say so before the process is killed.
        """
        shapes = build_skeleton(self.sources[name], self.tokenizer_of(name)).parameters()
        needed = sum(p.numel() for p in shapes) * DTYPES[self.build["dtype"]].itemsize
        self._loaded = None
        for device in {torch.device("cpu"), self.device}:
            left = free_memory(device)
            if needed > SPARE * left:
                said = f"its weights need {needed / 2**30:.1f} GiB, and {left / 2**30:.1f} GiB are left of the {device}"
                raise WrongInput(said, f"the {name}, {self.sources[name]}", "take a larger device, or go without it")

    def _vocabulary(self, name: str) -> int | None:
        return None if self.padded_vocabulary else len(self.tokenizer_of(name))
