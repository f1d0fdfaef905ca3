"""Models in shards, one a process (torch's FSDP2): a block's weights are gathered when it runs, and let go again.

The root of a sharded model holds what lies in no block: embeddings, last norm and output head, tied or not. Log-
probabilities are made from hidden states and the head, outside of any module's forward, so whoever computes with a
model's weights does so inside ``whole``: there the root is gathered, its gradients reach every process's shard, and
blocks gather themselves as they run.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from types import MethodType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from datamodules.wrong_input import WrongInput
from lightning_modules.language_model import ModelSource, build_skeleton
from lightning_modules.layers import layers_of
from lightning_modules.loading import config_of

T = TypeVar("T")
WHERE = "trainer.strategy=fsdp2"


def build_over(mesh: DeviceMesh, build: Callable[..., PreTrainedModel]) -> PreTrainedModel:
    """``build(weights=…)``: with weights on the first process of a mesh, on the others without.

    Raises:
        WrongInput: The first process could not build it, on the others; else they would wait for its weights.
    """
    over = _data_parallel(mesh)
    failed = torch.ones((), device=over.device_type)
    try:
        model = build(weights=over.get_local_rank() == 0)
        failed.zero_()
    finally:
        dist.broadcast(failed, group=over.get_group(), group_src=0)
    if failed:
        raise WrongInput("the first process could not build the model", WHERE, "see what it says")
    return model


def shard(model: PreTrainedModel, mesh: DeviceMesh, precision: str = "32-true") -> PreTrainedModel:
    """Shard a model over the processes of a mesh: block by block, then the root. Weights are the first process's.

    They are handed out one at a time, so that all of the model is in the main memory of that process alone.

    With ``bf16-mixed`` the blocks are gathered in bfloat16, half the traffic, and gradients are averaged in float32.
    The root is gathered as it is: Lightning's autocast then computes what it does on one device, up to the rounding of
    the blocks' vectors.

    Args:
        model: On any device, in processes but the first also on torch's meta device; its weights move to the mesh's.
            Frozen: the root too is let go after each forward.
        mesh: Of Lightning's ``ModelParallelStrategy``, with a dimension ``data_parallel``.
        precision: The trainer's: ``32-true`` or ``bf16-mixed``.

    Returns:
        The same model.

    Raises:
        WrongInput: A mesh with tensor parallelism, another precision, weights in several dtypes, or a model that tells
            no blocks apart or shares weights among them.
    """
    over = _data_parallel(mesh)
    narrow = _narrow_dtype(precision)
    blocks = _blocks(model)
    _check_weights(model, blocks)
    weights = {name: tensor.detach() for name, tensor in _tensors(model)}  # sharding makes parameters others'
    for block in blocks:
        policy = MixedPrecisionPolicy(narrow, narrow and torch.float32, cast_forward_inputs=False)
        fully_shard(block, mesh=over, mp_policy=policy)
    trained = any(p.requires_grad for p in model.parameters())
    fully_shard(model, mesh=over, reshard_after_forward=None if trained else True)
    if any(tensor.is_meta for _, tensor in _tensors(model)):
        model.to_empty(device=over.device_type)
    _hand_out(weights, model, over)
    model.in_one_piece = MethodType(_call, model)  # type: ignore[assignment]
    register_fsdp_forward_method(model, "in_one_piece")
    return model


def check_sharding(
    *,
    strategy: str,
    precision: str = "32-true",
    model: ModelSource | None = None,
    lora: Any = None,
    by_hand: bool = False,
) -> None:
    """Refuse before any stage runs what ``shard`` would refuse after hours, as far as settings and a config tell.

    Args:
        strategy: The trainer's; only ``fsdp2`` shards.
        precision: The trainer's.
        model: What the stage trains, if it is there already.
        lora: Its adapter; None: none.
        by_hand: Whether the module optimises by hand.

    Raises:
        WrongInput: It cannot be sharded.
    """
    if strategy != "fsdp2":
        return
    if by_hand:
        raise WrongInput("modules that optimise by hand are not sharded", WHERE, "use trainer=ddp for this stage")
    check_unadapted(lora)
    _narrow_dtype(precision)
    if isinstance(model, Mapping) or (model is not None and Path(model).is_dir()):
        config = config_of(model)
        if config is not None and not config.is_encoder_decoder:
            skeleton = build_skeleton(model)
            _check_weights(skeleton, _blocks(skeleton))


def check_unadapted(lora: Any) -> None:
    """Refuse adapters: what they leave to share out is little, and checkpoints of shards hold the frozen base too.

    Raises:
        WrongInput: There is one.
    """
    if lora is not None:
        raise WrongInput("adapters are not sharded", f"{WHERE}, lora", "use trainer=ddp, or lora=none")


def is_sharded(model: nn.Module | None) -> bool:
    """Whether ``shard`` has been over it."""
    return isinstance(model, FSDPModule)


def whole(model: PreTrainedModel, function: Callable[[PreTrainedModel], T]) -> T:
    """``function(model)``, which may use the output head's weight and call the model's parts.

    On a sharded model every process must come here equally often: gathering is something they do together. Calls may
    be nested.

    Args:
        model: Sharded, or not: then this is the plain call.
        function: Returns a tensor, or (named) tuples and dicts of them; gradients come back through these.
    """
    if not is_sharded(model) or model.__dict__.get("_in_one_piece"):
        return function(model)
    model.__dict__["_in_one_piece"] = True
    try:
        return model.in_one_piece(function)  # type: ignore[operator]
    finally:
        model.__dict__["_in_one_piece"] = False


def full_weights(model: nn.Module) -> dict[str, Tensor]:
    """The gathered weights of a sharded model on the first process, in its main memory; on the others none.

    Every process must ask for them.
    """
    gathered: Any = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return gathered


def _call(model: PreTrainedModel, function: Callable[[PreTrainedModel], Any]) -> Any:
    return function(model)


def _data_parallel(mesh: DeviceMesh) -> DeviceMesh:
    names = mesh.mesh_dim_names or ()
    if "data_parallel" not in names or any(mesh[name].size() > 1 for name in names if name != "data_parallel"):
        raise WrongInput("models are sharded over data_parallel only", WHERE, "set tensor_parallel_size to 1")
    return mesh["data_parallel"]


def _narrow_dtype(precision: str) -> torch.dtype | None:
    if precision not in ("32-true", "bf16-mixed"):
        raise WrongInput(
            f"nothing is sharded in precision {precision}", f"{WHERE}, trainer.precision", "32-true or bf16-mixed"
        )
    return torch.bfloat16 if precision == "bf16-mixed" else None


def _blocks(model: PreTrainedModel) -> list[nn.Module]:
    """The layers, inner ones first."""
    blocks = list(layers_of(model).values())
    if not blocks:
        raise WrongInput(
            f"{type(model).__name__} cannot be sharded: it does not tell its blocks apart",
            WHERE,
            "use trainer=ddp, or another family",
        )
    return blocks[::-1]


def _check_weights(model: PreTrainedModel, blocks: list[nn.Module]) -> None:
    dtypes = sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters()})
    if len(dtypes) > 1:
        raise WrongInput(
            f"{type(model).__name__} has weights in {' and '.join(dtypes)}",
            WHERE,
            "load all of them in one dtype, e.g. policy_dtype=float32 dtype=float32",
        )
    units: dict[nn.Module, nn.Module] = {}
    for block in blocks:
        for module in block.modules():
            units.setdefault(module, block)
    owners: dict[Tensor, nn.Module] = {}
    for module in model.modules():
        unit = units.get(module, model)
        if any(owners.setdefault(p, unit) is not unit for p in module.parameters(recurse=False)):
            raise WrongInput(
                f"{type(model).__name__} cannot be sharded: its blocks share weights",
                WHERE,
                "use trainer=ddp, or another family",
            )


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return chain(model.named_parameters(), model.named_buffers())


@torch.no_grad()
def _hand_out(weights: Mapping[str, Tensor], model: nn.Module, mesh: DeviceMesh) -> None:
    """Fill every process's shards, and its buffers, with the first one's weights, as DDP does."""
    for name, tensor in _tensors(model):
        full = torch.empty(tensor.shape, dtype=tensor.dtype, device=mesh.device_type)
        if mesh.get_local_rank() == 0:
            full.copy_(weights[name])
        if isinstance(tensor, DTensor):
            tensor.to_local().copy_(distribute_tensor(full, mesh, tensor.placements, src_data_rank=0).to_local())
        else:
            dist.broadcast(full, group=mesh.get_group(), group_src=0)
            tensor.copy_(full)
