"""LoRA by peft: W + s·B·A beside each linear layer, W frozen (Hu et al. 2021, arXiv 2106.09685, section 4.1).

The layers are put into the model that is there, so it stays what it was to whoever runs it: packed rows, the chunked
head, gradient checkpointing, serving. Switched off, they leave the model as it started: a reference that costs nothing.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from datamodules.wrong_input import WrongInput
from lightning_modules.adapter_folders import NAME, adapter_base, adapter_weights, peft_library, write_adapter
from lightning_modules.exporting import export, written_aside
from lightning_modules.language_model import build_skeleton
from lightning_modules.loading import ModelSource, config_of
from lightning_modules.lora import ALL_LINEAR, LoRA, lora_of
from lightning_modules.quantization import check_quantization

log = logging.getLogger(__name__)
EXPORTS = ("merged", "adapter")


class Adaptation:
    """How a policy is adapted, and what is left of it; without ``lora``, all weights are trained and exported.

    Args:
        lora: See ``LoRA``; None: none.
        quantization: Of the frozen base: None, ``int8`` or ``nf4`` (see ``quantization.py``).
        export_as: ``merged``: a plain folder; ``adapter``: peft's, which needs its base model to be loaded.

    Raises:
        WrongInput: A wrong value, or two that do not go together.
    """

    def __init__(self, lora: Mapping[str, Any] | None, quantization: str | None = None, export_as: str = "merged"):
        self.lora, self.quantization, self.export_as = lora_of(lora), quantization, export_as
        check_quantization(quantization)
        if export_as not in EXPORTS:
            raise WrongInput(f"unknown export_as {export_as!r}", "export_as", f"one of {', '.join(EXPORTS)}")
        if self.lora is not None:
            peft_library()
        elif quantization is not None:
            raise WrongInput(
                f"a base in {quantization} cannot be trained", "quantization", "add lora=, or set it to null"
            )
        elif export_as == "adapter":
            raise WrongInput("there is no adapter to export", "export_as", "add lora=, or set export_as=merged")

    def check_source(self, source: ModelSource) -> None:
        """Refuse a start that cannot be adapted so.

        Raises:
            WrongInput: A new model; another adapter where an adapter is to be exported.
        """
        if self.lora is None:
            return
        if isinstance(source, Mapping):
            raise WrongInput("a new model has nothing to adapt", "lora", "name a trained model, or set lora=none")
        if self.export_as == "adapter" and adapter_base(source) is not None:
            mend = "set export_as=merged where the start is made, or here"
            raise WrongInput("the start is an adapter itself, and peft loads none on top of one", str(source), mend)

    def adapt(self, model: PreTrainedModel, source: ModelSource) -> None:
        """Freeze the model and put the adapter into it, in float32 whatever the base is; nothing without ``lora``.

        Raises:
            WrongInput: The source cannot be adapted, or has no such layers.
        """
        self.check_source(source)
        if self.lora is None:
            return
        check_targets(self.lora, model)
        targets = self.lora.target_modules
        rows = getattr(config_of(source), "vocab_size", None)
        if rows is not None and model.get_input_embeddings().weight.shape[0] > rows:  # type: ignore[union-attr]
            what = f"the tokenizer has more tokens than the model's {rows} rows, and under LoRA new rows learn nothing"
            raise WrongInput(what, str(source), "set lora=none, or give a model that has rows for them")
        _inject(
            model,
            peft_library().LoraConfig(
                r=self.lora.rank,
                lora_alpha=self.lora.alpha,  # type: ignore[arg-type]
                lora_dropout=self.lora.dropout,
                target_modules=targets if isinstance(targets, str) else list(targets),
                use_rslora=self.lora.rslora,
                fan_in_fan_out=any(isinstance(part, Conv1D) for part in model.modules()),
                task_type="SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM",
            ),
        )

    def export(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, source: ModelSource, base: Any
    ) -> None:
        """Write what was trained, aside, then rename; the model stays as it is.

        Args:
            model: The adapted policy, or one without an adapter.
            tokenizer: Goes with it.
            folder: Where to.
            source: Where the policy started.
            base: Makes the model anew from it, without quantization: what the adapter is merged into.
        """
        if self.lora is None:
            export(model, tokenizer, folder)
        elif self.export_as == "adapter":
            with written_aside(folder) as aside:
                write_adapter(model, str(source), aside)
                tokenizer.save_pretrained(aside)
        else:
            if self.quantization is not None:
                log.info(
                    "%s: the adapter is merged into the base in %s, not in %s", folder, model.dtype, self.quantization
                )
            export(merge_into(base(), model), tokenizer, folder)


def check_settings(
    lora: Mapping[str, Any] | None,
    quantization: str | None = None,
    export_as: str = "merged",
    start: ModelSource | None = None,
    made_from: ModelSource | None = None,
) -> None:
    """Refuse settings before anything runs; targets too, where a model's config is there to look at.

    Args:
        lora: See ``Adaptation``, as of errors.
        quantization: See ``Adaptation``.
        export_as: See ``Adaptation``.
        start: Where the policy starts.
        made_from: What the start is made from, if it is still to be made.
    """
    adaptation = Adaptation(lora, quantization, export_as)
    if adaptation.lora is None or start is None:
        return
    adaptation.check_source(start)
    for source in (start, made_from):
        if source is not None and config_of(source) is not None:
            check_targets(adaptation.lora, build_skeleton(source))
            return


def check_targets(lora: LoRA, model: PreTrainedModel) -> None:
    """Refuse names of layers that the model does not have, or that are not linear. The head is never adapted."""
    head = model.get_output_embeddings()
    linear = [name for name, part in model.named_modules() if isinstance(part, nn.Linear | Conv1D) and part is not head]
    known = sorted({name.rpartition(".")[2] for name in linear})
    asked = known if isinstance(lora.target_modules, str) else lora.target_modules
    if unknown := [name for name in asked if name not in known]:
        what = f"{type(model).__name__} has no linear layers {', '.join(unknown)}"
        raise WrongInput(what, "lora.target_modules", f"{ALL_LINEAR}, or of {', '.join(known)}")


@contextmanager
def switched_off(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """The model as it started: frozen base, no adapter, no dropout. Not for a forward pass that needs gradients."""
    training, layers = model.training, _adapter_layers(model)
    model.eval()
    try:
        for layer in layers.values():
            layer.enable_adapters(False)
        yield model
    finally:
        for layer in layers.values():
            layer.enable_adapters(True)
        model.train(training)


def merge_into(base: PreTrainedModel, adapted: PreTrainedModel) -> PreTrainedModel:
    """The base with W + s·B·A in place of each W, a plain model; the adapted model is only read.

    Args:
        base: The model that was adapted, in full precision; it is changed.
        adapted: Holds the adapter.
    """
    peft = peft_library()
    _inject(base, adapted.peft_config[NAME])  # type: ignore[index]
    peft.set_peft_model_state_dict(base, adapter_weights(adapted))
    for name, layer in _adapter_layers(base).items():
        layer.merge(safe_merge=True)
        base.set_submodule(name, layer.get_base_layer())
    del base.peft_config
    return base


def _inject(model: PreTrainedModel, config: Any) -> None:
    from peft.tuners.tuners_utils import cast_adapter_dtype

    model.requires_grad_(False)
    peft_library().inject_adapter_in_model(config, model, NAME)
    cast_adapter_dtype(model, NAME)  # to float32: as narrow as the base, small updates would be lost


def _adapter_layers(model: PreTrainedModel) -> dict[str, Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: part for name, part in model.named_modules() if isinstance(part, BaseTunerLayer)}
