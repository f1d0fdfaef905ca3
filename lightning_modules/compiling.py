"""Layers whose forward pass is compiled by torch.compile, once for rows of any length (``compile=true``).

Each layer gets a class of its own kind whose ``forward`` is compiled. What lies around a layer stays as it is: its
name, weights and hooks, transformers' gradient checkpointing and FSDP2, which wrap the ``forward`` of a class. So
checkpoints and exports know nothing of it. (``torch.compile(model)`` would rename every weight, and with a checkpoint
within it nothing of a layer is compiled at all.)

All layers of a kind share their graphs: one for each of training and validation, and of one row and several. Attention
in blocks is not in them, for its loops are another batch's, nor are masks, the log-probabilities over the head, and
frozen models.
"""

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from datamodules.wrong_input import WrongInput
from lightning_modules.devices import asks_for_cuda
from lightning_modules.language_model import build_skeleton
from lightning_modules.layers import layers_of
from lightning_modules.loading import ModelSource

WHERE = "compile"
BACKEND = "inductor"
"""What makes code of a graph; tests take a faster one."""
GRAPHS = 64
"""Of one piece of a layer, at most. torch gives up at 8, and two stages of a run may have as many."""
Backend = str | Callable[..., Any]


def compile_layers(model: PreTrainedModel, backend: Backend | None = None) -> None:
    """Have the layers of a model compiled, each at its first forward pass of a kind; before it is sharded.

    Args:
        model: Adapted or not. Its layers are changed.
        backend: As torch.compile takes it. Default: ``BACKEND``.

    Raises:
        WrongInput: It does not tell its layers apart, or is no decoder alone.
    """
    check_decoder(model)
    settings: Any = torch._dynamo.config
    # Layers' gradients come one after another as it is; DDP's own splitter of graphs is for whole models.
    settings.optimize_ddp = False
    settings.recompile_limit = max(settings.recompile_limit, GRAPHS)
    for layer in layers_of(model).values():
        layer.__class__ = _compiled(type(layer), backend or BACKEND)


@cache
def _compiled(kind: type[nn.Module], backend: Backend) -> type[nn.Module]:
    """One class for all models of a process: a run's stages share graphs too."""
    forward: Any = kind.forward
    if forward.__code__.co_name == "forward_with_checkpointing":  # transformers' own, which the new class gets again
        forward = forward.__wrapped__
    compiled = torch.compile(forward, dynamic=True, backend=backend)
    return type(kind.__name__, (kind,), {"forward": compiled, "__module__": kind.__module__})


def check_compile(
    *,
    compile: Any,
    accelerator: str,
    model: ModelSource | None = None,
    quantization: str | None = None,
    offload: bool = False,
    checkpointing: bool = False,
) -> None:
    """Refuse the setting before any stage runs where it cannot be.

    Args:
        compile: The setting.
        accelerator: The trainer's.
        model: What the stage trains, if it is there already.
        quantization: Of the frozen weights under an adapter.
        offload: Whether activations go to the host's memory.
        checkpointing: Whether only layers' inputs are kept.

    Raises:
        WrongInput: No true or false, a setting that does not go with it, nothing that makes code for the device, or a
            model whose layers are not known.
    """
    if not isinstance(compile, bool):
        raise WrongInput(f"compile is {compile!r}", WHERE, "true or false")
    if not compile:
        return
    if quantization is not None:
        raise WrongInput(f"layers in {quantization} are not compiled", WHERE, "set it to false, or quantization=null")
    if offload and not checkpointing:  # to autograd what a graph saves is leaves, which stay
        what = "what a compiled layer keeps for the backward pass is not moved to the host's memory"
        raise WrongInput(what, WHERE, "set gradient_checkpointing=true, or activation_offload=false")
    check_compiler(accelerator)
    if isinstance(model, Mapping) or (model is not None and Path(model).is_dir()):
        check_decoder(build_skeleton(model))


def check_compiler(accelerator: str) -> None:
    """Refuse a device for which nothing here makes code.

    Raises:
        WrongInput: No C++ compiler for a CPU, no Triton for CUDA, or another device.
    """
    if asks_for_cuda(accelerator):
        if importlib.util.find_spec("triton") is None:
            raise WrongInput("layers are compiled for CUDA by Triton", WHERE, "pip install triton, or set it to false")
    elif accelerator not in ("cpu", "auto"):
        raise WrongInput(f"layers are compiled for CPU and CUDA, not {accelerator}", WHERE, "set it to false")
    elif shutil.which(name := os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")) is None:
        mend = "install it, name another as CXX=, or set it to false"
        raise WrongInput(f"layers are compiled for a CPU by a C++ compiler, and there is no {name}", WHERE, mend)


def check_decoder(model: PreTrainedModel) -> None:
    """Refuse a model whose layers are not compiled.

    Raises:
        WrongInput: It does not tell them apart, or has an encoder.
    """
    if model.config.is_encoder_decoder or not layers_of(model):
        what = f"{type(model).__name__}: layers are compiled of decoders that tell them apart"
        raise WrongInput(what, WHERE, "set it to false, or use another family")
