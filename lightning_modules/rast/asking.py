"""N questions about each passage, by RAST or by a baseline, each with what is known of it."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from lightning import LightningModule
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from datamodules.batches import Example, QuestionBatch
from datamodules.wrong_input import WrongInput
from lightning_modules.language_model import ModelSource, build_seq2seq_model, freeze
from lightning_modules.rast.methods import Asker, Draft, Method
from lightning_modules.rast.rewards import RewardFunction, WeightedRewards, consistency
from lightning_modules.rast.rollout import QuestionEncoder, Questioner, TemplateMaker
from lightning_modules.sampling import Sampling


class Question(NamedTuple):
    """One generated question."""

    question: str
    template: str | None
    """None: asked without one."""
    template_number: int | None
    """Its position in the bank."""
    score: float
    """Mean token log-probability (nats) of the generator, plus the retrieval score where there is one."""
    retrieval_score: float | None
    """Of the template; what is stated for none; None where the method retrieves nothing."""
    cluster: int | None
    rewards: dict[str, float]
    """Name → reward, not weighted."""


class Asked(NamedTuple):
    """What one method asked about a batch of passages."""

    method: str
    examples: list[Example]
    questions: list[list[Question]]
    """Of each example: N, or fewer where there are fewer templates."""


def marked(
    draft: Draft, batch: QuestionBatch, questioner: Questioner, qa: PreTrainedModel | None
) -> list[list[Question]]:
    """The drafted questions of each passage, with their rewards and scores."""
    examples = [batch.examples[row] for row in draft.rows]
    marks, _ = questioner.mark(draft.texts, draft.templates, examples, qa)
    found: list[list[Question]] = [[] for _ in batch.examples]
    for place, row in enumerate(draft.rows):
        retrieval = draft.retrieval_scores[place]
        found[row].append(
            Question(
                draft.texts[place],
                draft.templates[place],
                draft.template_numbers[place],
                draft.logps[place] + (retrieval or 0.0),
                retrieval,
                draft.clusters[place],
                {name: mark[place].item() for name, mark in marks.items()},
            )
        )
    return found


class AskingModule(LightningModule):
    """Asks N questions about each passage with each of several methods; one method's models in memory at a time.

    Takes: ``QuestionBatch``, a loader a method. ``predict_step`` returns ``Asked``.

    Args:
        methods: Name → method, in the order of the datamodule's loaders.
        tokenizer: Of all generators and of the QA model.
        encoder: Makes their inputs.
        template_of: (question, context, answer) → template of a first question.
        rewards: Name → reward: what the questions are marked by; each stands in the output as it is.
        qa: The rewards' QA model; None where none of them asks it.
        questions: N.
        max_new_tokens: Of a question that is written greedily.
        dtype: Of all models.
        seed: Of all sampling; the same passages get the same questions wherever a run was interrupted.

    Raises:
        WrongInput: No question wanted, or no reward.
    """

    def __init__(
        self,
        methods: Mapping[str, Method],
        tokenizer: PreTrainedTokenizerBase,
        encoder: QuestionEncoder,
        template_of: TemplateMaker,
        rewards: Mapping[str, RewardFunction],
        *,
        qa: ModelSource | None = None,
        questions: int = 5,
        max_new_tokens: int = 32,
        dtype: str = "float32",
        seed: int = 0,
    ):
        super().__init__()
        if questions < 1:
            raise WrongInput(f"{questions} questions a passage", "questions", "ask for 1 or more")
        if qa is None and consistency in rewards.values():
            raise WrongInput("the consistency reward asks a QA model", "qa", "name one, or leave the reward out")
        try:
            weighted = WeightedRewards(rewards, dict.fromkeys(rewards, 1.0))
        except ValueError as error:
            raise WrongInput(str(error), "rewards", "mend the setting") from error
        self.methods, self.tokenizer, self.qa_source, self.count = dict(methods), tokenizer, qa, questions
        self.dtype_name, self.seed = dtype, seed
        how = Sampling(max_new_tokens=max_new_tokens)
        self.questioner = Questioner(tokenizer, encoder, template_of, weighted, how, questions, greedy=False)
        # Tuples are no submodules: nothing of them is checkpointed, wrapped or moved behind our back.
        self._asker: tuple[str, Asker] | None = None
        self._qa: tuple[PreTrainedModel] | None = None

    def predict_step(self, batch: QuestionBatch, batch_idx: int, dataloader_idx: int = 0) -> Asked:
        """Ask with the method that the loader belongs to, from a seed that depends on the batch alone."""
        name = list(self.methods)[dataloader_idx]
        if self._asker is None or self._asker[0] != name:
            self._asker = None
            self._asker = name, self.methods[name].prepare(self._build, self.count)
        if self._qa is None and self.qa_source is not None:
            self._qa = (self._build(self.qa_source),)
        qa = None if self._qa is None else self._qa[0]
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []), torch.no_grad():
            torch.manual_seed(_seed_of(self.seed, name, batch.examples))
            draft = self._asker[1](batch, self.questioner)
            return Asked(name, batch.examples, marked(draft, batch, self.questioner, qa))

    def _build(self, source: ModelSource) -> PreTrainedModel:
        model = freeze(build_seq2seq_model(source, self.tokenizer, dtype=self.dtype_name))
        return model.to(self.device)  # type: ignore[arg-type]


def _seed_of(seed: int, name: str, examples: Sequence[Example]) -> int:
    text = "\n".join([str(seed), name, *(example.id for example in examples)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "little")
