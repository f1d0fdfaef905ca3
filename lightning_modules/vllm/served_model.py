"""A model as vLLM takes it: a folder or a Hub id, with what has to be known of it without loading it."""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from transformers import GenerationConfig, PreTrainedTokenizerBase

from datamodules.wrong_input import WrongInput
from lightning_modules.adapter_folders import adapter_base
from lightning_modules.exporting import export
from lightning_modules.language_model import build_language_model
from lightning_modules.loading import ModelSource, config_of, read_config
from lightning_modules.vllm.reading import MOST_BIASED

log = logging.getLogger(__name__)


class ServedModel(NamedTuple):
    """What is served."""

    source: str
    """Folder or Hub id."""
    tokenizer: Path
    """Its folder."""
    stops: list[int]
    """Tokens that end a turn: the tokenizer's, and those of the model's generation config."""
    unused: range
    """Vocabulary rows that stand for no token of the tokenizer."""
    window: int
    """Tokens of prompt and answer, at most."""


def served_model(
    name: str, source: ModelSource, tokenizer: PreTrainedTokenizerBase, dtype: str, window: int, folder: Path
) -> ServedModel:
    """Make a model ready to be served.

    What is no plain model yet (an adapter, or a new one) is made here, as the other samplers make it, and written.

    Args:
        name: Of the model, to speak of it.
        source: Where from.
        tokenizer: Whose tokens are asked for and answered; written, too.
        dtype: Of the weights that are written.
        window: Tokens that prompt and answer may have; less if the model reads less.
        folder: For what is written; emptied first. It is the caller's to remove.

    Raises:
        WrongInput: It is no model, or has too many vocabulary rows that stand for nothing.
    """
    shutil.rmtree(folder, ignore_errors=True)
    tokenizer.save_pretrained(folder / "tokenizer")
    if isinstance(source, Mapping) or adapter_base(source) is not None:
        export(build_language_model(source, tokenizer, dtype=dtype), tokenizer, folder / "model")
        plain = str((folder / "model").absolute())
    else:
        plain = str(Path(source).absolute()) if Path(source).is_dir() else str(source)
    text = read_config(plain).get_text_config()
    unused = range(len(tokenizer), max(text.vocab_size, len(tokenizer)))
    if len(unused) > MOST_BIASED:
        what = f"{len(unused)} of its vocabulary rows stand for no token, and vLLM keeps {MOST_BIASED} from being drawn"
        raise WrongInput(what, f"{name}: {plain}", "set sampler=auto, or cut the rows off")
    reads = getattr(text, "max_position_embeddings", None)
    if reads is not None and reads < window:
        log.warning("%s reads %d tokens: answers that do not fit behind their prompts count as unfinished", name, reads)
        window = reads
    return ServedModel(plain, (folder / "tokenizer").absolute(), _stops(plain, tokenizer), unused, window)


def _stops(source: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """As ``stop_token_ids`` gives them of a loaded model."""
    try:
        configured = GenerationConfig.from_pretrained(source).eos_token_id
    except OSError:  # without one of its own, its config's
        configured = GenerationConfig.from_model_config(config_of(source)).eos_token_id  # type: ignore[arg-type]
    listed = configured if isinstance(configured, list) else [configured]
    return sorted({token for token in [tokenizer.eos_token_id, *listed] if token is not None})
