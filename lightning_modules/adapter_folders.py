"""Adapters as peft writes them: a folder with the adapter's weights that names the model it belongs to."""

import copy
import json
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor
from transformers import PreTrainedModel

from datamodules.wrong_input import WrongInput

NAME = "default"
"""Of the one adapter that a model has here."""
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def peft_library() -> Any:
    """``peft``, if it is installed.

    Raises:
        WrongInput: It is not.
    """
    try:
        import peft
    except ImportError as error:
        raise WrongInput("LoRA needs peft", "lora", "pip install smoothtalk[lora]") from error
    return peft


def adapter_base(source: Any) -> str | None:
    """What the adapter in a folder belongs to; None: the source is no such folder.

    Raises:
        WrongInput: It is one, and does not say.
    """
    path = Path(source) / CONFIG if isinstance(source, str | Path) else None
    if path is None or not path.is_file() or (path.parent / "config.json").is_file():
        return None
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        mend = "give an adapter's folder as peft writes it"
        raise WrongInput(f"the adapter does not name its base model: {error}", str(path), mend) from error


def load_into(base: PreTrainedModel, folder: str) -> PreTrainedModel:
    """The base with the folder's adapter merged into it, a plain model.

    Raises:
        WrongInput: The adapter cannot be read, or is another model's.
    """
    peft = peft_library()
    try:
        # of any of peft's kinds that can be merged, not LoRA's alone
        merged = peft.PeftModel.from_pretrained(base, folder).merge_and_unload(safe_merge=True)
    except Exception as error:  # a dozen kinds, as when a model is loaded
        reason = str(error).strip().splitlines()[0][:240] if str(error).strip() else type(error).__name__
        raise WrongInput(f"the adapter cannot be loaded: {reason}", folder, "check adapter_config.json") from error
    if hasattr(merged, "peft_config"):
        del merged.peft_config
    return merged


def adapter_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """The adapter's weights by peft's names."""
    return peft_library().get_peft_model_state_dict(model, adapter_name=NAME, save_embedding_layers=False)


def write_adapter(model: PreTrainedModel, base: str, folder: Path) -> None:
    """Write the adapter of a model so that ``peft.PeftModel.from_pretrained`` loads it.

    Args:
        model: Holds the adapter.
        base: What it belongs to. Of a folder the place is kept that its links lead to.
        folder: It is there already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config: Any = copy.copy(model.peft_config[NAME])  # type: ignore[index]
    config.base_model_name_or_path = str(Path(base).resolve()) if Path(base).exists() else base
    config.inference_mode = True
    config.target_modules = sorted(config.target_modules)  # a set: the file would differ from run to run
    config.save_pretrained(folder)
    weights = {f"base_model.model.{name}": w.contiguous().cpu() for name, w in adapter_weights(model).items()}
    safetensors.torch.save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
