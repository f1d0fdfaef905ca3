"""What the backward pass needs of the layers, kept in the host's memory until then (``activation_offload=true``).

Autograd hands over each tensor that it would keep (``torch.autograd.graph.saved_tensors_hooks``). What a layer has
saved is copied to the host while the next one computes, and leaves the device when the one after that begins. In the
backward pass what the layer before has saved comes back while a layer computes: two layers' share is on the device at
any time, and that of the last two layers never leaves it. With gradient checkpointing autograd keeps the layers' inputs
only, and these alone move. Values are copied as they are, so gradients are the same to the bit.

What stays: weights, their narrow copies under autocast, masks and positions (leaves of the graph: others have them
anyway), what is smaller than ``SMALLEST`` or repeats itself (strides of 0), and what lies outside of the layers' stack:
the output head's share is needed at once.

The idea is that of torch's ``save_on_cpu`` and torchtune's ``OffloadActivations``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import PreTrainedModel

from datamodules.wrong_input import WrongInput, check_switch
from lightning_modules.devices import asks_for_cuda
from lightning_modules.host_copies import COPIES, HostCopies
from lightning_modules.language_model import build_skeleton
from lightning_modules.layers import layers_of, stacks_of
from lightning_modules.loading import ModelSource
from lightning_modules.saved_tensors import Group, Kept, View, dense, of_a_weight, seen_as

SMALLEST = 2**18
"""Bytes; what is smaller travels no faster than this."""
WHERE = "activation_offload"


class ActivationOffload:
    """Moves what the layers of one model save, in training forward passes with gradients.

    Args:
        model: Hooks are put on its layers and on what runs them.
        smallest: Bytes of the smallest tensor that moves. Default: ``SMALLEST``.

    Raises:
        WrongInput: The model does not tell its layers apart, or (at its first such forward pass) it is on a device
            whose memory is the host's.
    """

    def __init__(self, model: PreTrainedModel, smallest: int | None = None):
        self.smallest = SMALLEST if smallest is None else smallest
        self.copies: Any = None  # HostCopies, of the device that the model turns out to be on
        self._hooks: saved_tensors_hooks | None = None  # while a stack runs
        self._here: list[Group] = []  # forward: on the device still, the newest last
        self._now: Group | None = None  # backward: whose turn it is
        self._next: Group | None = None  # on its way
        check_layers(model)
        for stack in stacks_of(model):
            stack.register_forward_pre_hook(self._begin)
            stack.register_forward_hook(self._end, always_call=True)
        for layer in layers_of(model).values():
            layer.register_forward_pre_hook(self._begin_layer)

    def _begin(self, stack: nn.Module, args: Any) -> None:
        if self._hooks is not None or not (stack.training and torch.is_grad_enabled()):
            return
        device = next(stack.parameters()).device
        if self.copies is None:
            self.copies = copies_for(device)
        self._forget()
        self._here = [Group()]
        self._hooks = saved_tensors_hooks(self._pack, self._unpack)
        self._hooks.__enter__()

    def _begin_layer(self, layer: nn.Module, args: Any) -> None:
        if self._hooks is None:  # no training, or made again in the backward pass
            return
        self._here[-1].mark = self.copies.mark()
        if len(self._here) == 2:
            self._let_go(self._here.pop(0))
        self._here.append(Group(self._here[-1]))

    def _end(self, stack: nn.Module, args: Any, result: Any) -> None:
        if self._hooks is not None:
            self._here[-1].mark = self.copies.mark()
            self._hooks.__exit__()
            self._hooks = None

    def _pack(self, tensor: Tensor) -> Tensor | View:
        if tensor.is_leaf:
            return tensor
        alias = tensor.detach()  # the tensor itself would own the node that owns it
        if not self._moves(tensor):
            return alias
        seen = (tensor.shape, tensor.stride(), dense(tensor))
        key = (tensor.data_ptr(), tensor.numel(), tensor.dtype, tensor._version, None if seen[-1] else seen)
        for group in self._here:
            if key in group.leaving:
                return View(group.leaving[key][1], *seen)
        group = self._here[-1]
        kept = Kept(group, self.copies.out(alias), alias)
        group.kept.append(ref(kept))
        group.leaving[key] = (alias, kept)
        return View(kept, *seen)

    def _unpack(self, packed: Tensor | View) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        kept = packed.kept
        if self._now is not kept.group:
            self._turn_to(kept.group)
        assert kept.device is not None
        return seen_as(kept.device, packed)

    def _moves(self, tensor: Tensor) -> bool:
        size = tensor.nbytes
        single = tensor.untyped_storage().nbytes() >= size  # nothing in it repeats itself
        return type(tensor) is Tensor and size >= self.smallest and single and not of_a_weight(tensor)

    def _let_go(self, group: Group) -> None:
        """Of the device, once it is on the host."""
        self.copies.wait(group.mark)
        for _, kept in group.leaving.values():
            kept.device = None
        group.leaving = {}

    def _turn_to(self, group: Group) -> None:
        """Have a group on the device, send the one before it after, and drop the one that was there."""
        self._forget(group)
        self._bring(group)
        self.copies.wait(group.mark)
        group.coming = []
        self._now, self._next = group, group.before
        if group.before is not None:
            self._bring(group.before)

    def _bring(self, group: Group) -> None:
        away = [kept for one in group.kept if (kept := one()) is not None and kept.device is None]
        for kept in away:
            kept.device = coming = self.copies.back(kept.host)
            group.coming.append(coming)
        if away:
            group.mark = self.copies.mark()

    def _forget(self, but: Group | None = None) -> None:
        """What the backward pass has on the device, or on its way there, and needs no more."""
        for group in (self._now, self._next):
            if self.copies is not None and group is not None and group is not but:
                self.copies.wait(group.mark)
                for one in group.kept:
                    if (kept := one()) is not None:  # autograd retains the graph
                        kept.device = None
                group.leaving, group.coming = {}, []
        self._now = self._next = None


def check_offload(*, offload: bool, accelerator: str, model: ModelSource | None = None) -> None:
    """Refuse the setting before any stage runs where it could do nothing.

    Args:
        offload: The setting.
        accelerator: The trainer's.
        model: What the stage trains, if it is there already.

    Raises:
        WrongInput: No true or false, a device without memory of its own, or a model that does not tell its layers.
    """
    check_switch(offload, WHERE)
    if not offload:
        return
    if not asks_for_cuda(accelerator):
        copies_for(torch.device("cpu"))
    if isinstance(model, Mapping) or (model is not None and Path(model).is_dir()):
        check_layers(build_skeleton(model))


def check_layers(model: PreTrainedModel) -> None:
    """Refuse a model without layers that could be told apart.

    Raises:
        WrongInput: It is one.
    """
    if not layers_of(model):
        what = f"{type(model).__name__} does not tell its layers apart, by which activations go to the host"
        raise WrongInput(what, WHERE, "set it to false, or use another family")


def copies_for(device: torch.device) -> HostCopies:
    """How tensors get to the host and back.

    Raises:
        WrongInput: The device's memory is the host's, or it is not known how.
    """
    if device.type not in COPIES:
        mend = "set it to false, or train on CUDA (trainer=gpu)"
        raise WrongInput(f"on {device.type} activations are in the host's memory already", WHERE, mend)
    return COPIES[device.type](device)
