"""RASTModule: a style generator and a style retriever, trained by what their questions are worth (arXiv 2310.14503)."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from datamodules.batches import QuestionBatch
from datamodules.wrong_input import WrongInput
from lightning_modules.language_model import ModelSource
from lightning_modules.rast.advantages import Baseline, RewardMode, check_settings
from lightning_modules.rast.asking import Asked, marked
from lightning_modules.rast.methods import ask_styled
from lightning_modules.rast.models import RASTModels
from lightning_modules.rast.monitors import monitors
from lightning_modules.rast.objective import Objective, objective
from lightning_modules.rast.retriever import StyleRetriever
from lightning_modules.rast.rewards import RewardFunction, WeightedRewards
from lightning_modules.rast.rollout import QuestionEncoder, Questioner, Rollout, TemplateMaker
from lightning_modules.rast.samples import Sample, sample_table
from lightning_modules.rast.settings import check_rewards
from lightning_modules.sampling import Sampling
from lightning_modules.trainable import OptimizerFactory

SAMPLING = Sampling(temperature=1.0, top_p=0.95, top_k=30, max_new_tokens=32)


class _Step(NamedTuple):
    loss: Tensor
    rollout: Rollout
    monitors: dict[str, Tensor]


class RASTModule(RASTModels):
    """Style generator (the policy) and style retriever, each with its optimizer; all other models are frozen.

    A step: templates of first questions query the bank; one template a cluster is drawn; one question a template is
    sampled; rewards; one backward pass for both. Dropout is off throughout, so that what is sampled and what is
    differentiated is one distribution. Runs on one device or under DDP.

    Takes: ``QuestionBatch``. Logs: ``{name}/{train|val}/KEY``, the keys of ``monitors``, and of training also ``lr``,
    ``retriever_lr``, ``grad_norm``, ``retriever_grad_norm`` (before clipping). ``samples`` holds the last validation's.

    Args:
        generator: Where the policy starts; p_θ* is a copy of it.
        tokenizer: Of generator, QA model and vanilla generator.
        encoder: Makes their inputs.
        retriever: Makes the retriever.
        template_of: (question, context, answer) → template of a first question.
        rewards: Name → reward, see ``lightning_modules/rast/rewards.py``.
        reward_weights: Name → weight.
        qa: The reward's QA model. None: no reward may ask it.
        vanilla: Writes the first questions, greedily. None: the annotated questions are the first ones.
        templates_per_passage: K.
        sampling: Of the questions.
        baseline: ``self_critical``, ``group`` or ``none``.
        reward_mode: ``paper``, or ``authors`` as their code differs; see ``advantages``.
        kl_weight: β; both it and the reward's term are means over questions of sums over tokens.
        optimizer: Of the generator. Default: AdamW at 1e-6 with decay 0.1.
        retriever_optimizer: Of the retriever. Default: AdamW at 1e-7 with decay 0.1.
        train_retriever: False keeps it as it starts.
        frozen_dtype: Of p_θ*, QA model and vanilla generator; default: the policy's.
        sample_rows: Rows of the sample table.
        seed: Of drawing and sampling.
        name: The stage's name.
        accumulate: See ``TwoOptimizersModule``.
        clip: See ``TwoOptimizersModule``.
        warmup: See ``PolicyModule``; of both optimizers.
        dtype: See ``PolicyModule``.
        attn_implementation: See ``PolicyModule``.
        padded_vocabulary: See ``PolicyModule``.

    Raises:
        WrongInput: Settings that do not fit each other; told in one line.
    """

    def __init__(
        self,
        generator: ModelSource,
        tokenizer: PreTrainedTokenizerBase,
        encoder: QuestionEncoder,
        retriever: Callable[[], StyleRetriever],
        template_of: TemplateMaker,
        rewards: Mapping[str, RewardFunction],
        reward_weights: Mapping[str, float],
        *,
        qa: ModelSource | None = None,
        vanilla: ModelSource | None = None,
        templates_per_passage: int = 3,
        sampling: Sampling | None = None,
        baseline: Baseline = "self_critical",
        reward_mode: RewardMode = "paper",
        kl_weight: float = 0.014,
        optimizer: OptimizerFactory | None = None,
        retriever_optimizer: OptimizerFactory | None = None,
        train_retriever: bool = True,
        frozen_dtype: str | None = None,
        sample_rows: int = 20,
        seed: int = 0,
        name: str = "rast",
        accumulate: int = 1,
        clip: float = 0.5,
        warmup: float = 0.2,
        dtype: str = "float32",
        attn_implementation: str | None = None,
        padded_vocabulary: bool = False,
    ):
        super().__init__(
            name,
            generator,
            tokenizer,
            retriever,
            qa=qa,
            vanilla=vanilla,
            templates_per_passage=templates_per_passage,
            train_retriever=train_retriever,
            frozen_dtype=frozen_dtype,
            optimizer=optimizer or (lambda groups: torch.optim.AdamW(groups, lr=1e-6, weight_decay=0.1)),
            second_optimizer=retriever_optimizer
            or (lambda groups: torch.optim.AdamW(groups, lr=1e-7, weight_decay=0.1)),
            accumulate=accumulate,
            clip=clip,
            warmup=warmup,
            dtype=dtype,
            attn_implementation=attn_implementation,
            padded_vocabulary=padded_vocabulary,
        )
        self.sample_rows, self.seed = sample_rows, seed
        try:
            check_settings(baseline, reward_mode, templates_per_passage, kl_weight)
            weighted = WeightedRewards(rewards, reward_weights)
        except ValueError as error:
            raise WrongInput(str(error), f"stage {name}", "mend the setting") from error
        self.objective = Objective(weighted, baseline, reward_mode, kl_weight, train_retriever)
        check_rewards(weighted, qa is not None, reward_mode, name)
        self.questioner = Questioner(
            tokenizer,
            encoder,
            template_of,
            weighted,
            sampling or SAMPLING,
            templates_per_passage,
            greedy=baseline == "self_critical",
        )
        self.samples: list[Sample] = []

    def training_step(self, batch: QuestionBatch, batch_idx: int) -> None:
        """Ask, mark, learn."""
        progress: Any = self.trainer.fit_loop.epoch_loop
        step = self._step(batch, "train", progress.total_batch_idx)
        taken = self.learn(self.guard(step.loss, [example.id for example in batch.examples]), batch_idx)
        # Logged after the step: what is logged before its hooks log, Lightning drops in an epoch's first batch.
        self._log(step, "train")
        for part, (lr, norm) in zip(("", "retriever_"), taken, strict=False):
            self.log(f"{self.name}/train/{part}grad_norm", norm)
            if part:  # the policy's is logged for every module
                self.log(f"{self.name}/train/{part}lr", lr)

    def on_validation_epoch_start(self) -> None:
        """A new table for each validation."""
        self.samples = []

    def validation_step(self, batch: QuestionBatch, batch_idx: int) -> None:
        """The same on held-out passages, sampled alike each time, and rows for the table."""
        step = self._step(batch, "val", batch_idx)
        self._log(step, "val")
        room = self.sample_rows - len(self.samples)
        if room > 0:
            assert self._frozen is not None
            self.samples += sample_table(self.questioner, step.rollout, self._frozen.qa, room)

    def predict_step(self, batch: QuestionBatch, batch_idx: int, dataloader_idx: int = 0) -> Asked:
        """K + 1 questions a passage, written greedily: one without a template, then the best of each cluster."""
        assert self.retriever is not None
        assert self._frozen is not None
        self._frozen = frozen = self._frozen.to(self.device)
        policy, count = self.trained_policy, self.questioner.count + 1
        draft = ask_styled(batch, self.questioner, policy, frozen.vanilla or policy, self.retriever, count)
        return Asked(self.name, batch.examples, marked(draft, batch, self.questioner, frozen.qa))

    def _step(self, batch: QuestionBatch, split: str, number: int) -> _Step:
        """One batch; its randomness depends on seed, rank, split and number alone, not on what went before."""
        assert self.retriever is not None
        assert self._frozen is not None
        self._frozen = frozen = self._frozen.to(self.device)
        seed = (self.seed * 1_000_003 + number) * self.trainer.world_size + self.trainer.global_rank
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed((2 * seed + (split == "val")) % 2**63)
            rollout = self.questioner.roll_out(self.trained_policy, self.retriever, frozen, batch)
        loss, gain = objective(self.objective, self.trained_policy, frozen.reference, rollout, self.vocabulary)
        return _Step(loss.total, rollout, monitors(rollout, gain, loss))

    def _log(self, step: _Step, split: str) -> None:
        passages, gather = len(step.rollout.styles.templates), split == "val"
        for key, value in step.monitors.items():
            shown = key == "reward"
            self.log(f"{self.name}/{split}/{key}", value, batch_size=passages, sync_dist=gather, prog_bar=shown)
