"""`trainer.strategy=fsdp2`: Lightning's ModelParallelStrategy for models that shard themselves (FSDP2)."""

import shutil
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.tensor import DTensor, distribute_tensor

from datamodules.wrong_input import WrongInput

NAME = "fsdp2"
WHERE = f"trainer.strategy={NAME}"


class FSDP2Strategy(ModelParallelStrategy):
    """All processes share one model's weights, gradients and optimizer states; each has rows of its own.

    The module shards its policy in ``configure_model`` over ``self.device_mesh``. Modules that train nothing keep
    their models whole, a copy a process. A checkpoint is a folder with a part a process; it appears whole or not at
    all, and any number of processes can go on from it.
    """

    def setup_environment(self) -> None:
        """Every process is of the one data-parallel group.

        Raises:
            WrongInput: There is one device only, or a module that optimises by hand.
        """
        check_devices(self.num_processes * self.num_nodes)
        module = self.lightning_module
        if module is not None and not module.automatic_optimization:
            raise WrongInput(f"{type(module).__name__} optimises by hand, and is not sharded", WHERE, "use trainer=ddp")
        self._data_parallel_size, self._tensor_parallel_size = self.num_processes * self.num_nodes, 1
        super().setup_environment()

    def setup(self, trainer: Trainer) -> None:
        """Check that what is trained is sharded.

        Raises:
            WrongInput: It is not.
        """
        module = self.lightning_module
        assert module is not None
        if trainer.state.fn == TrainerFn.FITTING:
            self._check_callbacks(trainer, module)
            if not any(isinstance(parameter, DTensor) for parameter in module.parameters()):
                raise WrongInput(f"{type(module).__name__} does not shard its model", WHERE, "use trainer=ddp")
            super().setup(trainer)
        else:
            self._set_up_whole(trainer, module)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        """Write the folder aside and rename it, so that one that is there is whole."""
        path = Path(self.broadcast(filepath))
        aside, before = (path.with_name(f".{path.name}.{state}") for state in ("partial", "replaced"))
        if self.is_global_zero:
            shutil.rmtree(aside, ignore_errors=True)  # of a run that was killed
        self.barrier()
        super().save_checkpoint(checkpoint, aside, storage_options)
        self.barrier()
        if self.is_global_zero:
            if path.exists():
                path.rename(before)
            aside.rename(path)
            shutil.rmtree(before, ignore_errors=True)
        self.barrier()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a folder, each process its part, or a file of a run that was not sharded.

        Lightning 2.6 takes the numbers of a file's parameters for those of ``named_parameters``; the optimizer's groups
        have an order of their own.
        """
        path = Path(self.broadcast(checkpoint_path))
        if path.is_dir():
            return super().load_checkpoint(path, weights_only)
        assert self.model is not None
        checkpoint = torch.load(path, mmap=True, map_location="cpu", weights_only=True)
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_model_state_dict(self.model, checkpoint.pop("state_dict"), options=options)
        for optimizer, state in zip(self.optimizers, checkpoint.pop("optimizer_states"), strict=True):
            trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            parts = {number: _part(moments, trained[number]) for number, moments in state["state"].items()}
            optimizer.load_state_dict(state | {"state": parts})
        return checkpoint

    def _check_callbacks(self, trainer: Trainer, module: LightningModule) -> None:
        from callbacks.goodput.callback import SmoothGoodputCallback

        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, SmoothGoodputCallback) and callback.log_file is None:
                name = getattr(module, "name", "NAME")
                raise WrongInput(
                    "a sharded policy is not served while it is trained",
                    f"{WHERE}, callbacks@stage.{name}.callbacks",
                    "leave smooth_goodput out, or use trainer=ddp",
                )

    def _set_up_whole(self, trainer: Trainer, module: LightningModule) -> None:
        """What ``setup`` does where nothing is trained: Lightning 2.6 refuses modules without ``configure_model``."""
        if is_overridden("configure_model", module):
            super().setup(trainer)
            return
        assert self.accelerator is not None
        self.accelerator.setup(trainer)
        self.model_to_device()
        self.barrier()
        self.setup_precision_plugin()


def check_devices(devices: int) -> None:
    """Refuse to shard over one device.

    Raises:
        WrongInput: There is one.
    """
    if devices < 2:
        raise WrongInput(
            "there is nothing to shard over with one device", WHERE, "set trainer.devices=2 or more, or use trainer=gpu"
        )


def _part(moments: dict[str, Any], parameter: DTensor) -> dict[str, Any]:
    """A sharded parameter's moments in its own shards; what is one number stays one."""
    mesh, places = parameter.device_mesh, parameter.placements
    return {
        name: distribute_tensor(value, mesh, places, src_data_rank=None) if value.shape == parameter.shape else value
        for name, value in moments.items()
    }


if NAME not in StrategyRegistry:
    StrategyRegistry.register(NAME, FSDP2Strategy, description="weights, gradients and optimizer states in shards")
