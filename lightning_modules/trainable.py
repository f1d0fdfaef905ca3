"""What every module that trains one policy shares: how it is built, optimised, guarded and exported."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from datamodules.batches import Workload
from datamodules.wrong_input import WrongInput
from lightning_modules.accumulation import Accumulation
from lightning_modules.activation_offload import ActivationOffload
from lightning_modules.adapters import Adaptation
from lightning_modules.compiling import compile_layers
from lightning_modules.exporting import export
from lightning_modules.language_model import ModelSource, build_language_model
from lightning_modules.ranks import clip_gradients
from lightning_modules.schedule import cosine_schedule
from lightning_modules.serving import Engine, Served, serve
from lightning_modules.sharding import build_over, check_unadapted, full_weights, is_sharded, shard

OptimizerFactory = Callable[[Iterable[Any]], Optimizer]


def parameter_groups(parameters: Iterable[Parameter]) -> list[dict[str, Any]]:
    """What is trained, for an optimizer: matrices, and vectors (biases and norms), which do not decay."""
    trained = [p for p in parameters if p.requires_grad]
    matrices, vectors = [p for p in trained if p.ndim >= 2], [p for p in trained if p.ndim < 2]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


class PolicyModule(LightningModule):
    """A module whose one trained part is ``self.policy``, in ``train()`` mode: with dropout, if its config has any.

    Args:
        name: The stage's name: the first part of every log key.
        model: Where the policy starts: a Hugging Face folder or Hub id, or a new model's config fields.
        tokenizer: Goes with the model; it is exported beside it, and its length is the real vocabulary.
        optimizer: Makes the optimizer from parameter groups. Default: AdamW at 1e-5.
        warmup: Share of the steps in which the learning rate rises from 0; it then falls to 0 along a cosine.
        part: Which part of the schedule this training is, and of how many; see ``cosine_schedule``.
        dtype: Of the policy's weights.
        attn_implementation: As transformers names it (None: the best that the family has here).
        gradient_checkpointing: Less memory for about a third more time.
        activation_offload: Keep what the backward pass needs in the host's memory; CUDA only.
        compile: Have the policy's layers compiled; see ``compiling.py``.
        logits_chunk: Response tokens whose logits exist at one time (None: by device).
        padded_vocabulary: Let the softmax run over the padded rows too, instead of the tokenizer's real vocabulary.
        lora: Train an adapter, whose settings these are (``LoRA``), and freeze the weights. None: train them.
        quantization: Of the frozen weights; see ``Adaptation``.
        export_as: What is written in the end; see ``Adaptation``.
    """

    build_policy = staticmethod(build_language_model)
    """What makes the policy of its source; a subclass that serves other kinds of models names another."""

    def __init__(
        self,
        name: str,
        model: ModelSource,
        tokenizer: PreTrainedTokenizerBase,
        *,
        optimizer: OptimizerFactory | None = None,
        warmup: float = 0.1,
        part: tuple[int, int] = (1, 1),
        dtype: str = "float32",
        attn_implementation: str | None = None,
        gradient_checkpointing: bool = False,
        activation_offload: bool = False,
        compile: bool = False,
        logits_chunk: int | None = None,
        padded_vocabulary: bool = False,
        lora: Mapping[str, Any] | None = None,
        quantization: str | None = None,
        export_as: str = "merged",
    ):
        super().__init__()
        if not 0 <= warmup <= 1:
            raise WrongInput(f"warmup is a share of the steps, got {warmup}", f"{name}: warmup", "between 0 and 1")
        self.name, self.source, self.tokenizer = name, model, tokenizer
        self.make_optimizer: OptimizerFactory = optimizer or (lambda groups: torch.optim.AdamW(groups, lr=1e-5))
        self.warmup, self.part, self.logits_chunk = warmup, part, logits_chunk
        self.vocabulary = None if padded_vocabulary else len(tokenizer)
        self.build: dict[str, Any] = {
            "dtype": dtype,
            "attn_implementation": attn_implementation,
            "gradient_checkpointing": gradient_checkpointing,
        }
        self.activation_offload, self.compiled = activation_offload, compile
        self.adaptation = Adaptation(lora, quantization, export_as)
        self.accumulation = Accumulation()
        self.policy: PreTrainedModel | None = None

    def configure_model(self) -> None:
        """Build the policy once, when the trainer (or a caller) asks for it."""
        if self.policy is None:
            # Loaded models come in eval mode, and Lightning leaves it so: no gradient checkpointing, no dropout.
            self.adaptation.check_source(self.source)
            if self.device_mesh is not None:
                check_unadapted(self.adaptation.lora)
            quantized: dict[str, Any] = {"quantization": self.adaptation.quantization}
            policy = self.built(self.build_policy, self.source, **self.build, **quantized).train()
            self.adaptation.adapt(policy, self.source)
            if self.activation_offload:
                ActivationOffload(policy)
            if self.compiled:
                compile_layers(policy)
            self.policy = self.spread(policy)

    def built(self, build: Callable[..., PreTrainedModel], source: ModelSource, **settings: Any) -> PreTrainedModel:
        """``build(source, tokenizer, **settings)``: with weights, or, to be sharded, with them on the first process."""
        make = partial(build, source, self.tokenizer, **settings)
        return make() if self.device_mesh is None else build_over(self.device_mesh, make)

    def spread(self, model: PreTrainedModel, precision: str | None = None) -> PreTrainedModel:
        """The model as the trainer's strategy has it: sharded over a device mesh if there is one, else as it is.

        Args:
            model: As ``built``, to be computed with.
            precision: See ``shard``; default: the trainer's.
        """
        if self.device_mesh is None:
            return model
        return shard(model, self.device_mesh, precision or str(self.trainer.precision))

    def on_fit_start(self) -> None:
        """Forget the batches of an update that a training before has broken off in."""
        self.accumulation = Accumulation()

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW-style groups (no decay on biases and norms), linear warm-up, cosine decay a step at a time.

        Raises:
            WrongInput: The trainer has no last step, so that nothing can decay towards it.
        """
        total = self.trainer.estimated_stepping_batches
        if total == float("inf"):
            raise WrongInput("training has no end", "trainer", "set max_epochs or max_steps")
        optimizer = self.make_optimizer(parameter_groups(self.parameters()))
        scheduler = cosine_schedule(optimizer, self.warmup, total, self.part)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Make the gradient that of all the update's items, and log the learning rate that this step is taken with."""
        self.accumulation.finish(self, self.parameters())
        self.log(f"{self.name}/train/lr", optimizer.param_groups[0]["lr"])

    def configure_gradient_clipping(self, optimizer: Optimizer, *limits: Any, **named_limits: Any) -> None:
        """As the trainer says."""
        clip_gradients(self, optimizer, *limits, **named_limits)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what is trained: a base under an adapter is frozen, and there to be loaded again."""
        if self.adaptation.lora is not None:
            trained = self._trained_names()
            checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let the frozen base be missing, and nothing else.

        Raises:
            WrongInput: The checkpoint is not of this adapter.
        """
        if self.adaptation.lora is not None:
            if checkpoint["state_dict"].keys() != self._trained_names():
                where = f"stage {self.name}: checkpoint"
                raise WrongInput("its weights are not those of this adapter", where, "begin anew: remove it")
            self.strict_loading = False

    def _trained_names(self) -> set[str]:
        return {name for name, p in self.named_parameters() if p.requires_grad}

    def guard(self, loss: Tensor, row_ids: Iterable[str]) -> Tensor:
        """The loss itself, if it is finite.

        Raises:
            WrongInput: It is not; names the rows of the batch.
        """
        if torch.isfinite(loss.detach()).all():
            return loss
        raise WrongInput(
            f"the loss is {loss.detach().mean().item()} at step {self.global_step}",
            f"stage {self.name}, rows {', '.join(row_ids)}",
            "look at these rows, or lower the learning rate",
        )

    def export(self, folder: str | Path) -> None:
        """Write the policy as a Hugging Face folder, or its adapter as peft's.

        A sharded policy is gathered: every process must come here.

        Raises:
            RuntimeError: There is no policy yet.
        """
        if self.policy is None:
            raise RuntimeError("nothing to export: the policy has not been built")
        if is_sharded(self.policy):
            if weights := full_weights(self.policy):  # the first process has them
                export(self.policy, self.tokenizer, Path(folder), weights=weights)
            return
        base = partial(self.build_policy, self.source, self.tokenizer, **self.build)
        self.adaptation.export(self.policy, self.tokenizer, Path(folder), self.source, base)

    def serve(self, workload: Workload, engine: Engine) -> list[Served]:
        """Serve a workload with the policy as it is now, in the middle of training, and leave it unchanged.

        Raises:
            WrongInput: It is sharded: processes that serve streams of their own cannot gather blocks together.
        """
        if is_sharded(self.policy):
            raise WrongInput("a sharded policy is not served while it is trained", self.name, "export it first")
        # Layers are not compiled for its caches. Without ``compile`` the engine compiles what it will.
        with torch.compiler.set_stance("force_eager") if self.compiled else nullcontext():
            return serve(self.trained_policy, self.tokenizer, workload, engine)

    @property
    def trained_policy(self) -> PreTrainedModel:
        """The policy, built if it has not been yet."""
        self.configure_model()
        assert self.policy is not None
        return self.policy
