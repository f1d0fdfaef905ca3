"""`trainer.strategy=fsdp2`: Lightning's ModelParallelStrategy for models that shard themselves (FSDP2)."""

import shutil
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.distributed.tensor import DTensor

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


if NAME not in StrategyRegistry:
    StrategyRegistry.register(NAME, FSDP2Strategy, description="weights, gradients and optimizer states in shards")
