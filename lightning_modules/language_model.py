"""Build, load and freeze language models: the only place that touches transformers' model classes."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForTextEncoding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from datamodules.wrong_input import WrongInput, check_switch
from lightning_modules.loading import ModelSource, build_from, config_of
from lightning_modules.logprobs import OutputHead, logits_of
from lightning_modules.seq2seq import decoder_states, encoder_states


def build_language_model(
    source: ModelSource,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    dtype: str = "float32",
    attn_implementation: str | None = None,
    gradient_checkpointing: bool = False,
    quantization: str | None = None,
    weights: bool = True,
) -> PreTrainedModel:
    """Load a pretrained causal language model, or make a new one from a config.

    Args:
        source: Where from; see ``ModelSource``.
        tokenizer: Gives a new model its vocabulary size and special tokens. Not needed to load.
        dtype: Of the weights; one of ``DTYPES``.
        attn_implementation: As transformers names it (None: the best that the family has here).
        gradient_checkpointing: Recompute activations in the backward pass (in ``train()`` mode only).
        quantization: Of a model that stays frozen: None, ``int8`` or ``nf4``; see ``quantization.py``.
        weights: False: none, on torch's meta device; of a folder only the config is read.

    Raises:
        WrongInput: The source is no model or lacks weights, or a new model's config is not accepted.
    """
    model = build_from(source, tokenizer, AutoModelForCausalLM, dtype, attn_implementation, quantization, weights)
    return _ready(model, gradient_checkpointing)


def build_seq2seq_model(
    source: ModelSource,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    dtype: str = "float32",
    attn_implementation: str | None = None,
    gradient_checkpointing: bool = False,
    quantization: str | None = None,
    weights: bool = True,
) -> PreTrainedModel:
    """The same of an encoder–decoder (T5, BART, …).

    A loaded model gets vocabulary rows for tokens that were added to the tokenizer since (marks and masks); spare rows
    that it has are used first. Arguments and errors: see ``build_language_model``.
    """
    model = build_from(source, tokenizer, AutoModelForSeq2SeqLM, dtype, attn_implementation, quantization, weights)
    if getattr(model.config, "decoder_start_token_id", None) is None:
        raise WrongInput(
            f"{type(model).__name__} has no token to start decoding with",
            str(model.config.name_or_path or "model"),
            "give the tokenizer a padding token, or the config a decoder_start_token_id",
        )
    if tokenizer is not None and len(tokenizer) > output_head(model).weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=weights)  # no mean of what is not there
    return _ready(model, gradient_checkpointing)


def build_model(source: ModelSource, tokenizer: PreTrainedTokenizerBase | None = None, **build: Any) -> PreTrainedModel:
    """An encoder–decoder if the source is one, else a causal language model; see ``build_language_model``."""
    two_parts = getattr(config_of(source), "is_encoder_decoder", False)
    return (build_seq2seq_model if two_parts else build_language_model)(source, tokenizer, **build)


def build_skeleton(source: ModelSource, tokenizer: PreTrainedTokenizerBase | None = None) -> PreTrainedModel:
    """The model of ``build_model`` without weights: to count by."""
    return build_model(source, tokenizer, weights=False)


def build_encoder(
    source: ModelSource,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    dtype: str = "float32",
    attn_implementation: str | None = None,
) -> PreTrainedModel:
    """A text encoder: of an encoder–decoder its first half, of any other family the model without its head.

    Arguments and errors: see ``build_language_model``. A pooler, which mean pooling leaves unused, gets no gradient.
    """
    of_two = type(config_of(source)) in AutoModelForTextEncoding._model_mapping
    model = build_from(source, tokenizer, AutoModelForTextEncoding if of_two else AutoModel, dtype, attn_implementation)
    if getattr(model.config, "is_encoder_decoder", False) and not of_two:
        raise WrongInput(
            f"the encoder of {type(model).__name__} cannot be had alone", "encoder", "use T5 or an encoder of its own"
        )
    rows: int = model.get_input_embeddings().weight.shape[0]  # type: ignore[union-attr]
    if tokenizer is not None and len(tokenizer) > rows:
        model.resize_token_embeddings(len(tokenizer))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("pooler" not in name)
    return model


def freeze(model: PreTrainedModel) -> PreTrainedModel:
    """The same model in eval mode (no dropout), without gradients."""
    return model.eval().requires_grad_(False)


def hidden_states(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, **settings: Any) -> Tensor:
    """Last hidden states (N, L, h), the output head left out so that no logits are made."""
    settings |= {"attention_mask": attention_mask, "use_cache": False}
    return model.base_model(input_ids=input_ids, **settings).last_hidden_state


def output_head(model: PreTrainedModel, vocabulary: int | None = None) -> OutputHead:
    """The model's head, cut to the first ``vocabulary`` rows (None: all rows).

    Sizes of one family pad their vocabulary differently (Qwen2.5: 151936 rows, or 152064); the padded rows stand for
    no token, so the softmax runs over the tokenizer's real vocabulary by default.

    Raises:
        WrongInput: The model has fewer rows than the vocabulary.
    """
    layer = model.get_output_embeddings()
    if not isinstance(layer, nn.Linear):
        raise WrongInput(
            f"{type(model).__name__} has no linear output head", "the model", "use a causal language model"
        )
    weight, bias = layer.weight, layer.bias
    if vocabulary is not None and vocabulary != weight.shape[0]:
        if vocabulary > weight.shape[0]:
            raise WrongInput(
                f"the tokenizer has {vocabulary} tokens but the model only {weight.shape[0]} vocabulary rows",
                str(model.config.name_or_path or type(model).__name__),
                "use the tokenizer that belongs to the model",
            )
        weight, bias = weight[:vocabulary], None if bias is None else bias[:vocabulary]
    config = model.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1.0
    if getattr(config, "scale_decoder_outputs", False):  # T5 with tied embeddings
        scale *= config.d_model**-0.5
    divisor = getattr(config, "logits_scaling", None) or 1.0
    return OutputHead(weight, bias, scale / divisor, getattr(config, "final_logit_softcapping", None))


def stop_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token that ends a turn: the tokenizer's, and those of the model's generation config."""
    configured = model.generation_config.eos_token_id if model.generation_config is not None else None
    listed = configured if isinstance(configured, list) else [configured]
    return sorted({i for i in [tokenizer.eos_token_id, *listed] if i is not None})


def _ready(model: PreTrainedModel, gradient_checkpointing: bool) -> PreTrainedModel:
    if model.device.type != "meta":
        _check_head(model)
    check_switch(gradient_checkpointing, "gradient_checkpointing")
    if gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


@torch.no_grad()
def _check_head(model: PreTrainedModel) -> None:
    """Refuse a model whose logits ``output_head`` does not reproduce: every log-probability would be wrong."""
    ids, training = torch.zeros((1, 2), dtype=torch.int64, device=model.device), model.training
    model.eval()
    mask = torch.ones_like(ids)
    if model.config.is_encoder_decoder:
        theirs = model(input_ids=ids, labels=ids, use_cache=False).logits[0].float()
        hidden = decoder_states(model, encoder_states(model, ids, mask), mask, ids)
    else:
        theirs = model(input_ids=ids, use_cache=False).logits[0].float()
        hidden = hidden_states(model, ids, mask)
    ours = logits_of(hidden[0], output_head(model)).float()
    model.train(training)
    tolerance = 1e-3 if model.dtype in (torch.float32, torch.float64) else 0.05  # half precision rounds its logits
    if (ours - theirs).abs().max() > tolerance * theirs.abs().max():
        raise WrongInput(
            f"{type(model).__name__} scales its logits in a way that is not known here",
            str(model.config.name_or_path or "the model"),
            "use another family, or teach it to output_head in lightning_modules/language_model.py",
        )
