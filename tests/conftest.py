"""What many tests share: a tokenizer, and folders of tiny models, made once a session and without a network."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers, datasets and huggingface_hub read it
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["OMP_NUM_THREADS"] = "1"  # a process forked from one that has used more waits for threads it has not

from collections.abc import Callable, Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase  # noqa: E402

from datamodules.almanac import almanac_tokenizer  # noqa: E402
from tests.composing import compose_faster  # noqa: E402

compose_faster()
torch.set_num_threads(1)  # models this small gain nothing from more, and lose much where a core is busy

TINY = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}


@pytest.fixture(autouse=True)
def ranks_of_their_own() -> Iterator[None]:
    """Take away what Lightning leaves of a test's processes: a child would take itself for one of them, and wait."""
    left = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    before = {name: os.environ.get(name) for name in left}
    torch.set_num_threads(1)  # a run within a test may have set more
    yield
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    """The almanac's: 1024 tokens, ChatML template, ``<|im_end|>`` ends a turn, ``<|endoftext|>`` pads."""
    return almanac_tokenizer()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerBase) -> Callable[..., Path]:
    """``model_folder(model_type="qwen2", seed=0, rows=None, **config) -> Path`` of a tiny saved model with tokenizer.

    ``rows`` are those of the vocabulary (None: as many as the tokenizer has tokens); ``config`` goes over ``TINY``.
    Folders are cached by arguments and shared: copy one before changing it.
    """
    made: dict[Any, Path] = {}

    def make(model_type: str = "qwen2", seed: int = 0, rows: int | None = None, **config: Any) -> Path:
        arguments = (model_type, seed, rows, tuple(sorted(config.items())))
        if arguments not in made:
            made[arguments] = folder = tmp_path_factory.mktemp(f"{model_type}-{seed}-")
            settings = {**TINY, "vocab_size": rows or len(tokenizer), **config}
            settings |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **settings))
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        return made[arguments]

    return make
