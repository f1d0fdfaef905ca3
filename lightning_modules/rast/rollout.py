"""One step but its gradient: styles retrieved and drawn, questions written by them, rewards given."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from datamodules.batches import Example, QuestionBatch
from datamodules.wrong_input import WrongInput
from lightning_modules.rast.models import Frozen
from lightning_modules.rast.retriever import StyleRetriever
from lightning_modules.rast.rewards import Asked, RewardError, WeightedRewards
from lightning_modules.rast.styles import Styles
from lightning_modules.rast.writing import Encoded, Written, answer_nlls, encode, write, write_ways
from lightning_modules.sampling import Sampling
from lightning_modules.seq2seq import encoder_states

TemplateMaker = Callable[[str, str, str], str]
"""(question, context, answer) → the question's template."""


class QuestionEncoder(Protocol):
    """Turns text into token ids of a model's input; what is too long is cut around the answer."""

    def passage(self, example: Example) -> list[int]:
        """The marked passage alone."""
        ...

    def styled(self, example: Example, template: str) -> list[int]:
        """The marked passage and a template."""
        ...

    def qa(self, context: str, question: str, answer_span: tuple[int, int] | None = None) -> list[int]:
        """A passage and a question about it; what is too long is cut around the characters of the span."""
        ...


class Rollout(NamedTuple):
    """What was asked and what it is worth. B passages, K templates each; N = B·K, a passage's K in a row."""

    encoded: Encoded
    """What the policy's encoder made of passages with templates, with its gradient."""
    written: Written
    """N sampled questions."""
    asked: Asked
    """The same, as rewards see them."""
    styles: Styles
    parts: dict[str, Tensor]
    """Name → (B, K) reward, not weighted."""
    greedy_parts: dict[str, Tensor] | None
    """The same of the greedily decoded questions, where a baseline needs them."""


def answer_span(example: Example) -> tuple[int, int]:
    """Where the marked answer stands, in characters: what the QA model was taught to see, however long the passage."""
    return example.answer_start, example.answer_start + len(example.answer)


class Questioner:
    """Asks questions and has them marked.

    Args:
        tokenizer: Of generator, QA model and vanilla generator.
        encoder: Makes their inputs.
        template_of: Makes the template of a first question.
        rewards: Mark the questions.
        sampling: Of the questions.
        count: K.
        greedy: Whether the greedy questions are written and marked too.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        encoder: QuestionEncoder,
        template_of: TemplateMaker,
        rewards: WeightedRewards,
        sampling: Sampling,
        count: int,
        *,
        greedy: bool,
    ):
        self.tokenizer, self.encoder, self.template_of, self.rewards = tokenizer, encoder, template_of, rewards
        self.sampling, self.count, self.greedy = sampling, count, greedy
        self.greedily = replace(sampling, temperature=0.0, top_p=1.0, top_k=0)
        self._first: dict[Example, str] = {}

    def roll_out(
        self, policy: PreTrainedModel, retriever: StyleRetriever, frozen: Frozen, batch: QuestionBatch
    ) -> Rollout:
        """Retrieve, write, mark; from torch's own random state.

        The policy's encoder runs once: sampling, greedy decoding and (later) the gradient share what it made.

        Raises:
            WrongInput: A reward is no number; names the reward and the example.
        """
        styles = retriever.draw(self.queries(frozen.vanilla, batch), batch.own_template, self.count)
        examples = [example for example in batch.examples for _ in range(self.count)]
        templates = [template for row in styles.templates for template in row]
        rows = [self.encoder.styled(e, t) for e, t in zip(examples, templates, strict=True)]
        encoded = encode(policy, rows, self.pad_id)
        ways = (self.sampling, self.greedily) if self.greedy else (self.sampling,)
        both = write_ways(policy, self.tokenizer, encoded.detached(), ways)
        written, questions = both[0], [text for one in both for text in one.texts]
        times = len(questions) // len(examples)
        marks, nlls = self.mark(questions, templates * times, examples * times, frozen.qa)
        marks = {name: mark.to(encoded.states.device) for name, mark in marks.items()}
        sampled = {name: mark[: len(examples)].view(-1, self.count) for name, mark in marks.items()}
        baseline = {name: mark[len(examples) :].view(-1, self.count) for name, mark in marks.items()}
        asked = Asked(written.texts, templates, examples, None if nlls is None else nlls[: len(examples)])
        return Rollout(encoded, written, asked, styles, sampled, baseline if self.greedy else None)

    def first_templates(
        self, vanilla: PreTrainedModel | None, batch: QuestionBatch, rows: Sequence[int] | None = None
    ) -> list[str]:
        """z0 of each passage: the template of the vanilla generator's question, or of the annotated one without it.

        Args:
            vanilla: The generator.
            batch: Passages.
            rows: Of the batch; None: all.
        """
        rows = range(len(batch.examples)) if rows is None else rows
        examples = [batch.examples[row] for row in rows]
        questions: Sequence[str] = [example.question for example in examples]
        if vanilla is not None:
            with torch.no_grad():
                inputs = batch.input_ids[list(rows)], batch.attention_mask[list(rows)]
                encoded = Encoded(*inputs, encoder_states(vanilla, *inputs))
            questions = write(vanilla, self.tokenizer, encoded, self.greedily).texts
        pairs = zip(questions, examples, strict=True)
        return [self.template_of(question, example.context, example.answer) for question, example in pairs]

    def queries(self, vanilla: PreTrainedModel | None, batch: QuestionBatch) -> list[str]:
        """``first_templates``, each example's made once: nothing in it changes while the policy learns."""
        new = [row for row, example in enumerate(batch.examples) if example not in self._first]
        if new:
            made = self.first_templates(vanilla, batch, new)
            self._first |= {batch.examples[row]: template for row, template in zip(new, made, strict=True)}
        return [self._first[example] for example in batch.examples]

    def answers(self, qa: PreTrainedModel, examples: Sequence[Example], questions: Sequence[str]) -> list[str]:
        """What the QA model answers, greedily."""
        pairs = zip(examples, questions, strict=True)
        rows = [self.encoder.qa(e.context, question, answer_span(e)) for e, question in pairs]
        with torch.no_grad():
            return write(qa, self.tokenizer, encode(qa, rows, self.pad_id), self.greedily).texts

    def mark(
        self, questions: list[str], templates: Sequence[str | None], examples: list[Example], qa: PreTrainedModel | None
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Every reward of every question, and what the QA model pays for the gold answers, in one batch."""
        nlls = None
        if qa is not None:
            # Questions are often alike, the greedy ones most of all: each is asked once.
            asked = list(zip(examples, questions, strict=True))
            place = {one: number for number, one in enumerate(dict.fromkeys(asked))}
            rows = [self.encoder.qa(e.context, question, answer_span(e)) for e, question in place]
            different = answer_nlls(qa, self.tokenizer, rows, [example.answer for example, _ in place], self.pad_id)
            nlls = different[[place[one] for one in asked]]
        try:
            marks = self.rewards(Asked(questions, templates, examples, nlls))
        except RewardError as error:
            where = "rewards" if error.row is None else f"example {examples[error.row].id}, {questions[error.row]!r}"
            raise WrongInput(str(error), where, f"mend the reward {error.reward}, or leave it out") from error
        return marks, nlls

    @property
    def pad_id(self) -> int:
        """Fills up a batch."""
        pad = self.tokenizer.pad_token_id
        return pad if isinstance(pad, int) else int(self.tokenizer.eos_token_id)  # type: ignore[arg-type]
