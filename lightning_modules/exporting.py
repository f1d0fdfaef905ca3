"""Trained models as Hugging Face folders, whole or not at all."""

import copy
import errno
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from lightning_modules.language_model import stop_token_ids


def export(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    beside: Mapping[str, tuple[PreTrainedModel, PreTrainedTokenizerBase]] | None = None,
    weights: dict[str, Tensor] | None = None,
) -> None:
    """Write a Hugging Face folder (safetensors, tokenizer, chat template, generation config), aside, then rename.

    Args:
        model: What is written.
        tokenizer: Goes with it.
        folder: Where to.
        beside: Name → further models with their tokenizers, for folders of these names inside.
        weights: Of ``model``, gathered; it need not hold more than shards of them. None: its own.

    Raises:
        OSError: The folder cannot be written; what stood there before is untouched.
    """
    with written_aside(folder) as aside:
        for name, (part, its_tokenizer) in {".": (model, tokenizer), **(beside or {})}.items():
            if part.can_generate():
                part.generation_config = _exported_generation_config(part, its_tokenizer)
            gathered: dict[str, Any] = {"state_dict": weights} if weights is not None and part is model else {}
            part.save_pretrained(aside / name, **gathered)
            its_tokenizer.save_pretrained(aside / name)


@contextmanager
def written_aside(folder: Path) -> Iterator[Path]:
    """A folder to write in, which takes the other's place when all is written; errors: see ``export``."""
    aside, before = (folder.with_name(f".{folder.name}.{state}") for state in ("partial", "replaced"))
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(aside, ignore_errors=True)  # of an export that was killed
    try:
        yield aside
        shutil.rmtree(before, ignore_errors=True)
        if folder.exists():
            folder.rename(before)
        aside.rename(folder)
    except SafetensorError as error:  # a full disk is no OSError to it
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else errno.EIO, str(error), str(folder)) from error
    finally:
        if before.exists() and not folder.exists():
            before.rename(folder)
        for leftover in (aside, before):
            shutil.rmtree(leftover, ignore_errors=True)


def _exported_generation_config(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    config = copy.deepcopy(model.generation_config or GenerationConfig())
    config.eos_token_id = stop_token_ids(model, tokenizer)
    if tokenizer.pad_token_id is not None:
        config.pad_token_id = tokenizer.pad_token_id
    try:
        config.validate(strict=True)
    except ValueError:
        config.do_sample = True  # some published ones say how to sample but not that (Vicuna's), and cannot be saved
    return config
