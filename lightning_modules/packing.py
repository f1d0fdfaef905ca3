"""Which attention a model reads packed rows with, found out once a model, or none: then its rows are padded."""

import inspect
import logging
from contextlib import nullcontext
from typing import Any, NamedTuple, get_args
from weakref import WeakKeyDictionary

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from transformers import PreTrainedModel

from datamodules.batches import PackedPrompt, PackedTokenBatch, PackingSetting, TokenBatch
from datamodules.wrong_input import WrongInput
from lightning_modules.packed_attention import BLOCKS
from lightning_modules.packed_inputs import prepared
from lightning_modules.packing_checks import (
    FLASH,
    FLEX,
    FORCED,
    attention_dropout,
    check_forced,
    installed_flash,
    refused,
    window_of,
)

log = logging.getLogger(__name__)


class Choice(NamedTuple):
    """How a model reads packed rows."""

    attention: str | None
    """``BLOCKS``, ``FLEX``, of ``FLASH``, or the model's own with a dense mask; None: not at all."""
    window: float
    """Tokens that a sliding window or chunk holds: prepared masks know nothing of it, so no sequence may be longer.

    FlashAttention gets no mask, but the window itself.
    """

    def reads(self, batch: PackedTokenBatch) -> bool:
        """Whether it can."""
        return self.attention is not None and batch.longest <= self.window


class Packing:
    """Prepares the forward pass over packed rows; the attention is chosen and tried at a model's first batch.

    Args:
        setting: ``sdpa``: in blocks, or with a dense mask where a family has its own attention; ``flex``:
            FlexAttention, on CUDA; ``flash``: FlashAttention, on CUDA and where installed, each response behind a copy
            of its prompt; ``auto``: flex where it can be, else flash, else sdpa; ``off``: packed rows are padded.

    Raises:
        WrongInput: Another setting.
    """

    def __init__(self, setting: PackingSetting = "auto"):
        if setting not in get_args(PackingSetting):
            known = ", ".join(get_args(PackingSetting))
            raise WrongInput(f"unknown packing {setting!r}", "packing", f"one of {known}")
        self.setting = setting
        self._choices: WeakKeyDictionary[PreTrainedModel, Choice] = WeakKeyDictionary()
        self._own: WeakKeyDictionary[PreTrainedModel, str] = WeakKeyDictionary()
        self._told: set[str] = set()

    def ready(
        self, model: PreTrainedModel, batch: TokenBatch | PackedTokenBatch
    ) -> tuple[TokenBatch | PackedTokenBatch, dict[str, Any]]:
        """The batch as this model reads it, and what its forward pass takes beside the token ids."""
        if isinstance(batch, TokenBatch):
            return batch, {"attention_mask": batch.attention_mask}
        if model not in self._choices:
            self._choices[model] = self.choose(model)
        choice = self._choices[model]
        if not choice.reads(batch):
            if choice.attention is not None:
                self._tell(model, f"padded: its window of {choice.window} tokens is shorter than a sequence")
            padded = batch.padded()
            return padded, {"attention_mask": padded.attention_mask}
        assert choice.attention is not None
        _set_attention(model, choice.attention)
        return prepared(model, batch, choice.attention)

    def computed(self, model: PreTrainedModel, batch: TokenBatch | PackedTokenBatch) -> int:
        """Tokens that the model's layers compute for a batch that it has read, padding included."""
        if isinstance(batch, TokenBatch):
            return batch.input_ids.numel()
        choice = self._choices[model]
        if not choice.reads(batch):
            return len(batch.row_ids) * batch.longest
        if choice.attention in (BLOCKS, FLEX):
            return batch.input_ids.numel()
        if choice.attention in FLASH:
            return sum(length + tokens for _, _, length, held in batch.layout for _, tokens in held)
        return len(batch.layout) * max(length + sum(n for _, n in held) for _, _, length, held in batch.layout)

    def restore(self, model: PreTrainedModel) -> None:
        """Give a model the attention back that it came with, until its next packed batch: others serve with it."""
        if model in self._own:
            _set_attention(model, self._own[model])

    def choose(self, model: PreTrainedModel) -> Choice:
        """Try the attentions that the setting allows, and take the first that reads packed rows right.

        Raises:
            WrongInput: FlexAttention or FlashAttention was asked for, and the model cannot train with it here.
        """
        if self.setting == "off":
            return Choice(None, 0)
        own = self._own[model] = str(model.config._attn_implementation)
        cuda, forced = model.device.type == "cuda", self.setting in FORCED
        check_forced(self.setting, model, cuda=cuda)
        for attention in self._candidates(model, own, cuda):
            why_not = _why_not(model, attention)
            if why_not is None:
                self._tell(model, f"packed, attention: {attention}")
                return Choice(attention, window_of(model, sliding=attention not in FLASH))
            _set_attention(model, own)
            if forced:
                raise refused(self.setting, f"{type(model).__name__} reads no packed rows with it: {why_not}")
        self._tell(model, "padded: this family does not read packed rows right")
        return Choice(None, 0)

    def _candidates(self, model: PreTrainedModel, own: str, cuda: bool) -> list[str]:
        candidates = []
        if self.setting == "flex" or (cuda and self.setting == "auto" and not attention_dropout(model)):
            candidates.append(FLEX)
        flash = installed_flash(model)
        if self.setting == "flash" or (cuda and self.setting == "auto" and flash):
            candidates.append(flash or FLASH[-1])
        if self.setting in ("auto", "sdpa"):
            candidates += [BLOCKS] if own != "eager" else []
            candidates += [own] if own in ("sdpa", "eager") else []
        return candidates

    def _tell(self, model: PreTrainedModel, what: str) -> None:
        line = f"{type(model).__name__}: rows are {what}"
        if line not in self._told:
            self._told.add(line)
            log.info(line)


def _set_attention(model: PreTrainedModel, attention: str) -> None:
    if model.config._attn_implementation != attention:
        model.set_attn_implementation(attention)


@torch.no_grad()
def _why_not(model: PreTrainedModel, attention: str) -> str | None:
    """Why the states of two small pairs in one row are not those of their four responses alone; None: they are."""
    base, training = model.base_model, model.training
    if "position_ids" not in inspect.signature(base.forward).parameters:
        return "it takes no positions"
    model.eval()
    try:
        batch = _trial(model.device)
        alone = batch.padded()
        # Compiled layers (compile=true) will see other rows than these; FlexAttention is tried as it will be run.
        with nullcontext() if attention == FLEX else torch.compiler.set_stance("force_eager"):
            plain = base(input_ids=alone.input_ids, attention_mask=alone.attention_mask, use_cache=False)
            expected = plain.last_hidden_state[:, :-1][alone.response_mask[:, 1:]]
            _set_attention(model, attention)
            laid, settings = prepared(model, batch, attention)
            states = base(input_ids=laid.input_ids, use_cache=False, **settings).last_hidden_state
        got = states.flatten(0, 1)[laid.states]
        wide = model.dtype in (torch.float32, torch.float64) and not getattr(model, "is_quantized", False)
        exact = wide and not torch.is_autocast_enabled(model.device.type)
        return None if _close(got.double(), expected.double(), 1e-4 if exact else 0.05) else "its states are others"
    except Exception as error:  # families fail in a dozen ways on masks and positions that they do not know
        log.debug("%s with %s: %s", type(model).__name__, attention, error)
        return str(error).partition("\n")[0] or type(error).__name__
    finally:
        model.train(training)


def _close(got: Tensor, expected: Tensor, tolerance: float) -> bool:
    return bool((got - expected).abs().max() <= tolerance * expected.abs().max())


def _trial(device: torch.device) -> PackedTokenBatch:
    """Two pairs in one row: prompts of 3 and 2 tokens, responses of 3 and 2, 1 and 4."""
    layout = [PackedPrompt(0, 0, 3, [(0, 3), (2, 2)]), PackedPrompt(0, 8, 2, [(1, 1), (3, 4)])]
    ids = torch.tensor([[3, 9, 4, 7, 5, 8, 6, 3, 8, 5, 4, 9, 7, 3, 6]])
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 3, 4, 0, 1, 2, 2, 3, 4, 5]])
    prompts = torch.tensor([[0] * 8 + [1] * 7], dtype=torch.int32)
    responses = torch.tensor([[-1] * 3 + [0] * 3 + [2] * 2 + [-1] * 2 + [1] + [3] * 4], dtype=torch.int32)
    states = torch.tensor([2, 3, 4, 9, 2, 6, 9, 11, 12, 13])
    owners = torch.tensor([0, 0, 0, 1, 2, 2, 3, 3, 3, 3])
    targets = torch.tensor([7, 5, 8, 4, 6, 3, 9, 7, 3, 6])
    batch = PackedTokenBatch(ids, positions, prompts, responses, states, targets, owners, layout, [""] * 4)
    return move_data_to_device(batch, device)
