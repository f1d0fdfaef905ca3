"""Content digests: what tells two inputs apart, whatever they are called and whenever they were written."""

import hashlib
import json
from pathlib import Path
from typing import Any

import huggingface_hub

from datamodules.wrong_input import WrongInput

BLOCK_BYTES = 1 << 22
VOLATILE_CONFIG = {"transformers_version", "_name_or_path", "dtype", "torch_dtype", "use_cache", "architectures"}
"""Fields of a model's config that do not change what it computes (the scoring dtype is named apart)."""
MODEL_MEND = "name a Hugging Face model folder, or a folder with an adapter as peft writes it"
ADAPTER = "adapter_config.json"


def text_digest(*parts: str) -> str:
    """Hex digest of strings, each framed by its length so that no two lists of parts run into one."""
    digest = hashlib.blake2b(digest_size=20)
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def text_share(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int(text_digest(text)[:12], 16) / 2**48


def data_digest(value: Any) -> str:
    """Hex digest of JSON-like data, independent of the order of keys."""
    return text_digest(json.dumps(value, sort_keys=True, ensure_ascii=False, default=str))


def file_digest(path: Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.blake2b(digest_size=20)
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def path_digest(path: Path) -> str:
    """Hex digest of a file, or of all files of a folder with their relative names (hidden ones left out)."""
    if path.is_file():
        return file_digest(path)
    found = (p for p in path.rglob("*") if p.is_file())
    names = {p.relative_to(path).as_posix(): p for p in found}
    shown = {name: p for name, p in names.items() if not any(part.startswith(".") for part in name.split("/"))}
    return text_digest(*(part for name in sorted(shown) for part in (name, file_digest(shown[name]))))


def model_digest(folder: Path) -> str:
    """Hex digest of what determines a model's log-probabilities: its weights and its config.

    Only what transformers loads counts: neither the tokenizer (scores are keyed on token ids) nor what a trainer left
    beside the weights (optimizer, arguments, older checkpoints). Of an adapter, its base model counts as well.

    Raises:
        WrongInput: It is no model folder: no config, or no weights.
    """
    if (folder / ADAPTER).is_file() and not (folder / "config.json").is_file():
        return _adapter_digest(folder)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kept = {key: value for key, value in config.items() if key not in VOLATILE_CONFIG}
    except (OSError, ValueError, AttributeError) as error:
        raise WrongInput(f"no config.json that can be read: {error}", str(folder), MODEL_MEND) from error
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not weights:
        raise WrongInput("the folder holds no weights", str(folder), MODEL_MEND)
    return text_digest(data_digest(kept), *(part for path in weights for part in (path.name, file_digest(path))))


def _adapter_digest(folder: Path) -> str:
    try:
        config = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
        base = local_model(str(config.pop("base_model_name_or_path")))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise WrongInput(f"no {ADAPTER} that can be read: {error}", str(folder), MODEL_MEND) from error
    weights = sorted(folder.glob("adapter_model.*"))
    if not weights:
        raise WrongInput("the folder holds no weights", str(folder), MODEL_MEND)
    config.pop("peft_version", None)
    return text_digest(model_digest(base), data_digest(config), *map(file_digest, weights))


def local_model(source: str) -> Path:
    """The folder of a model: the source itself, or the local copy of a Hub repository (fetched if need be).

    Raises:
        WrongInput: Neither a folder nor a repository that can be had.
    """
    if Path(source).is_dir():
        return Path(source)
    try:
        return Path(huggingface_hub.snapshot_download(source, ignore_patterns=["*.gguf", "*.onnx", "original/*"]))
    except Exception as error:  # the Hub's client raises many kinds; the user's mend is the same
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WrongInput(
            f"neither a model folder nor a Hub repository that can be loaded: {reason}",
            source,
            "check the path (and the network)",
        ) from error
