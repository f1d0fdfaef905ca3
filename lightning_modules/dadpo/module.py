"""DaDPOModule: a student trained on preference pairs under the eye of its teacher (arXiv 2506.15717)."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from datamodules.batches import PackedPairBatch, PackingSetting, PairBatch, PairScores, Workload
from datamodules.wrong_input import WrongInput
from lightning_modules.adapters import switched_off
from lightning_modules.dadpo.diagnostics import diagnostics
from lightning_modules.dadpo.loss import DaDPOLoss
from lightning_modules.dadpo.settings import PAPER, Both, Variants, check_dadpo, share_done
from lightning_modules.dadpo.variants import sft_loss
from lightning_modules.language_model import ModelSource, build_language_model, freeze
from lightning_modules.packing import Packing
from lightning_modules.precision import as_held
from lightning_modules.ranks import in_mean, over_ranks
from lightning_modules.response_logps import response_lengths, response_logps
from lightning_modules.serving import Engine, Served
from lightning_modules.trainable import PolicyModule


class DaDPOModule(PolicyModule):
    """Policy, reference and teacher; only the policy is trained, kept in checkpoints and synchronised.

    In ``cached`` mode batches bring the frozen models' log-probabilities along (``PairBatch.scores``), and neither
    model is in memory. In ``live`` mode both are loaded and run in every step; the loss is the same.

    Takes: ``PackedPairBatch`` or ``PairBatch``. Logs: ``{name}/{train|val}/KEY``, the keys of the README's
    table. Over several batches, quantiles are means of the batches'.

    Args:
        student: Where the policy starts.
        tokenizer: The student's, which the teacher must share in live mode.
        beta_ref: β1, weight of the reference.
        beta_teacher: β2, weight of the teacher's distribution; 0 is plain DPO on the same pairs.
        variants: What is done otherwise than in the paper.
        mode: ``cached`` or ``live``.
        teacher: Needed in live mode.
        reference: In live mode; default: the student as it starts. (A student made from config fields starts anew
            in each process: to resume live training from a checkpoint, save it and name its folder.) Where the student
            trains an adapter, that start is the policy with the adapter switched off, in the policy's own dtype.
        frozen_dtype: Of reference and teacher in live mode, and of what they compute; default: the policy's.
        packing: How packed rows are read; see ``Packing``.
        name: The stage's name.
        **policy_settings: See ``PolicyModule``.

    Raises:
        WrongInput: Wrong betas or mode, or live mode without a teacher.
    """

    def __init__(
        self,
        student: ModelSource,
        tokenizer: PreTrainedTokenizerBase,
        *,
        beta_ref: float = 0.05,
        beta_teacher: float = 0.05,
        variants: Variants = PAPER,
        mode: Literal["cached", "live"] = "cached",
        teacher: ModelSource | None = None,
        reference: ModelSource | None = None,
        frozen_dtype: str | None = None,
        packing: PackingSetting = "auto",
        name: str = "dadpo",
        **policy_settings: Any,
    ):
        super().__init__(name, student, tokenizer, **policy_settings)
        check_dadpo(beta_ref=beta_ref, beta_teacher=beta_teacher, mode=mode, variants=variants, stage=name)
        if mode == "live" and teacher is None:
            raise WrongInput("live mode needs a teacher", f"{name}: teacher", "give one, or use mode=cached")
        self.beta_ref, self.beta_teacher, self.variants, self.mode = beta_ref, beta_teacher, variants, mode
        self.reference_source, self.teacher_source = student if reference is None else reference, teacher
        self.frozen_dtype, self.packing = frozen_dtype, Packing(packing)
        # A tuple is no submodule: the frozen models stay out of the optimizer, the checkpoint, `train()` and DDP.
        self._frozen: tuple[PreTrainedModel, ...] = ()

    def setup(self, stage: str) -> None:
        """Set the betas by the scores of the training pairs, where ``target_scale`` asks for it."""
        if stage == "fit" and self.variants.target_scale is not None:
            data = getattr(self.trainer, "datamodule", None)
            self.beta_ref, self.beta_teacher = self.variants.scaled(self.beta_ref, self.beta_teacher, data)

    @property
    def betas(self) -> tuple[float, float]:
        """β1 and β2 of the present step; outside training those at its end."""
        return self.variants.betas(self.beta_ref, self.beta_teacher, share_done(self._trainer, self.part))

    def configure_model(self) -> None:
        """Build the policy and, in live mode, reference and teacher."""
        super().configure_model()
        if self.mode == "live" and not self._frozen:
            settings: dict[str, Any] = self.build | {
                "gradient_checkpointing": False,
                "dtype": self.frozen_dtype or self.build["dtype"],
            }
            assert self.teacher_source is not None
            sources = (*([] if self.reference_is_policy else [self.reference_source]), self.teacher_source)
            built = (self.built(build_language_model, source, **settings) for source in sources)
            self._frozen = tuple(self.spread(freeze(model), "32-true") for model in built)  # gathered as they are
            if isinstance(self.reference_source, Mapping) and self.reference_source == self.source:
                # A student made from nothing has no folder to load again: the reference is a copy of its start.
                self._frozen[0].load_state_dict(self.trained_policy.state_dict())

    def training_step(self, batch: PairBatch | PackedPairBatch, batch_idx: int) -> Tensor:
        """Mean daDPO loss over the pairs of the batch."""
        return self.guard(self._step(batch, "train"), batch.row_ids)

    def validation_step(self, batch: PairBatch | PackedPairBatch, batch_idx: int) -> None:
        """Loss and diagnostics on held-out pairs."""
        self._step(batch, "val")

    def policy_logps(self, batch: PairBatch | PackedPairBatch) -> Both:
        """Log-probabilities (B,) of chosen and rejected responses under the policy, in one forward pass."""
        assert self.policy is not None
        return self._both_logps(self.policy, batch)

    def losses(self, batch: PairBatch | PackedPairBatch) -> DaDPOLoss:
        """Loss and diagnostics of each pair."""
        return self._losses(self.policy_logps(batch), self.frozen_scores(batch), self._lengths(batch))

    def frozen_scores(self, batch: PairBatch | PackedPairBatch) -> PairScores:
        """The four frozen log-probabilities of each pair: from the batch, or computed now.

        Raises:
            WrongInput: Cached mode, and the batch brings none.
        """
        if self.mode == "cached":
            if batch.scores is None:
                raise WrongInput(
                    "the batch has no scores", f"stage {self.name}", "run the scores stage first, or set mode=live"
                )
            return batch.scores
        *others, teacher = (model.to(self.device) for model in self._frozen)  # type: ignore[arg-type]
        with torch.no_grad():
            with as_held(self.device):  # as the cached ones are made
                frozen = [self._both_logps(model, batch) for model in (*others, teacher)]
            if not others:
                with switched_off(self.trained_policy) as reference:  # which runs as the policy does
                    frozen.insert(0, self._both_logps(reference, batch))
            return PairScores(*frozen[0], *frozen[1])

    @property
    def reference_is_policy(self) -> bool:
        """Whether the reference is the policy with its adapter switched off: no copy is in memory."""
        return self.adaptation.lora is not None and str(self.reference_source) == str(self.source)

    def serve(self, workload: Workload, engine: Engine) -> list[Served]:
        """As ``PolicyModule.serve``, with the attention that the policy came with."""
        self.packing.restore(self.trained_policy)
        return super().serve(workload, engine)

    def _both_logps(self, model: PreTrainedModel, batch: PairBatch | PackedPairBatch) -> Both:
        settings = {"vocabulary": self.vocabulary, "chunk": self.logits_chunk, "packing": self.packing}
        chosen, rejected = response_logps(model, batch.stacked(), **settings).chunk(2)
        return chosen, rejected

    def target_margins(self, scores: PairScores, lengths: Both) -> Tensor:
        """β2·δ_te (n,) of scored pairs with n chosen and n rejected responses of these lengths, at the run's end."""
        return self.beta_teacher * self.variants.delta_te(scores, lengths)

    def overshoot_factor(self, lengths: Both) -> float:
        """How far past the reference, in units of δ_te, the present step asks the student to go."""
        return self.variants.overshoot_factor(self.betas, lengths)

    def _losses(self, policy: Both, frozen: PairScores, lengths: Both) -> DaDPOLoss:
        return self.variants.losses(policy, frozen, lengths, self.betas)

    def _lengths(self, batch: PairBatch | PackedPairBatch) -> Both:
        chosen, rejected = response_lengths(batch.stacked()).chunk(2)
        return chosen, rejected

    def _step(self, batch: PairBatch | PackedPairBatch, split: str) -> Tensor:
        policy = self.policy_logps(batch)
        lengths = self._lengths(batch)
        result = self._losses(policy, self.frozen_scores(batch), lengths)
        loss, sft, training = result.loss.mean(), sft_loss(policy[0], lengths[0]), split == "train"
        means = {"loss": loss.detach(), **self._diagnostics(batch, result, policy, lengths)}
        of_tokens, pairs = {"sft_loss": sft.detach()}, len(batch.row_ids)
        weight = tokens_weight = share = 1.0
        if training:  # one mean is over pairs, the other over tokens, of all ranks; an update's batches count by pairs
            means, weight, of_all = over_ranks(self, means, pairs)
            of_tokens, tokens_weight, _ = over_ranks(self, of_tokens, lengths[0].sum())
            share = self.accumulation.weight(self, of_all)
        if sft_weight := self.variants.sft_weight:
            means["loss"] = means["loss"] + sft_weight * of_tokens["sft_loss"]
        tokens = in_mean(float(lengths[0].sum()), gather=not training)
        self.log(f"{self.name}/{split}/sft_loss", of_tokens["sft_loss"], **tokens)
        settings = in_mean(pairs, gather=not training)
        self.log(f"{self.name}/{split}/loss", means.pop("loss"), prog_bar=True, **settings)
        self.log_dict({f"{self.name}/{split}/{key}": value for key, value in means.items()}, **settings)
        return (loss * weight + (sft_weight * sft * tokens_weight if sft_weight else 0.0)) * share

    def _diagnostics(
        self, batch: PairBatch | PackedPairBatch, result: DaDPOLoss, policy: Both, lengths: Both
    ) -> dict[str, Tensor]:
        useful = batch.tokens_needed() / self.packing.computed(self.trained_policy, batch.stacked())
        settings = {"beta_teacher": self.betas[1], "overshoot_factor": self.overshoot_factor(lengths)}
        told = {key: result.margin.new_tensor(value) for key, value in settings.items()}
        return diagnostics(result, policy, lengths) | told | {"useful_token_share": useful}
