"""The models that a stage's config names, in numbers."""

from collections.abc import Mapping
from typing import Any

from callbacks.run.estimate.adapter import Adapter, adapter_of
from callbacks.run.estimate.memory import Precision
from callbacks.run.estimate.models import Frozen, Policy, Reading
from callbacks.run.estimate.optimizer import numbers_kept
from callbacks.run.estimate.reading import Reader
from callbacks.run.estimate.shape import ModelShape

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}


def policy_of(reader: Reader, stage: Mapping[str, Any], cuda: bool) -> Policy:
    """What a stage trains, and how.

    Raises:
        WrongInput: No such model, or none whose work is known here.
    """
    module, trainer = stage["module"], stage["trainer"]
    tokenizer = reader.tokenizer(module["tokenizer"])
    source = module.get("student", module.get("model"))
    shape = reader.shape(source, tokenizer)
    adapter, width = _adapter(shape, module), BYTES[module["dtype"]]
    return Policy(
        shape=shape,
        precision=_precision(module["dtype"], str(trainer.get("precision", "32-true"))),
        vocabulary=shape.vocabulary if module.get("padded_vocabulary") else len(tokenizer),
        checkpointing=bool(module.get("gradient_checkpointing")),
        accumulates=trainer.get("accumulate_grad_batches", 1) > 1,
        optimizer_states=numbers_kept(module.get("optimizer") or {}, shape, adapter, 4 if adapter else width),
        cuda=cuda,
        replicated=trainer.get("devices", 1) != 1 and trainer.get("strategy") != "fsdp2",
        reading=_reading(reader, stage, source, cuda),
        adapter=adapter,
        offload=bool(module.get("activation_offload")),
    )


def frozen_of(
    reader: Reader, stage: dict[str, Any], models: Mapping[str, Any], dtype: str, cuda: bool
) -> dict[str, Frozen]:
    """Name → model without gradients, of sources by name."""
    tokenizer = reader.tokenizer(stage["module"]["tokenizer"])
    of_its_own = stage["work"] in ("scoring", "sampling")  # elsewhere it is the policy's base that is quantised
    return {
        name: Frozen(
            reader.shape(source, tokenizer),
            BYTES[dtype],
            _reading(reader, stage, source, cuda),
            quantization=(stage["module"].get("quantization") or {}).get(name) if of_its_own else None,
        )
        for name, source in models.items()
    }


def packs(stage: Mapping[str, Any]) -> bool:
    """Whether the stage's batches come packed: they do where its datamodule packs pairs and was not told otherwise."""
    return stage["datamodule"].get("packing", "off") != "off"


def _reading(reader: Reader, stage: Mapping[str, Any], source: Any, cuda: bool) -> Reading:
    if not packs(stage):
        return Reading()
    tokenizer = reader.tokenizer(stage["module"]["tokenizer"])
    return reader.reading(source, tokenizer, stage["module"].get("packing", "auto"), cuda)


def _adapter(shape: ModelShape, module: Mapping[str, Any]) -> Adapter | None:
    lora = module.get("lora")
    if not lora:
        return None
    merged = module.get("export_as", "merged") == "merged"
    return adapter_of(shape, lora["rank"], lora["target_modules"], module.get("quantization"), merged)


def _precision(dtype: str, trained: str) -> Precision:
    return Precision(BYTES[dtype], min(BYTES[dtype], 2 if "16" in trained else BYTES[dtype]))
