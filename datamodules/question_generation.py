"""The supervised stages of question generation: asking, asking in a given style, and answering."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from datamodules.batches import Example, Seq2SeqBatch
from datamodules.collate import collate_seq2seq
from datamodules.pairs import RowSource
from datamodules.question_data import QuestionData
from datamodules.question_encoding import Source
from datamodules.templates import Noise, TemplateExtractor, noised_templates
from datamodules.templates.opening import extract_examples
from datamodules.wrong_input import WrongInput


class EncodedQuestion(NamedTuple):
    """A source and its target."""

    place: str
    source: np.ndarray
    """(L,) int32."""
    target: np.ndarray
    """(T,) int32."""
    source_cut: bool
    """Tokens of the passage found no room."""
    target_cut: bool
    """Nor did tokens of the target."""


class QuestionGenerationDataModule(QuestionData):
    """Rows for one of the encoder-decoder stages, as ``Seq2SeqBatch``es.

    ========= ============================================ ========
    task      source                                       target
    ========= ============================================ ========
    vanilla   marked passage                               question
    style     marked passage, ``<sep>``, a template        question
    qa        passage, ``<sep>``, question                 answer
    ========= ============================================ ========

    In the style stage the template is the question's own one. In training it is disturbed (see ``Noise``), and a share
    of the examples is repeated without a template, so that the generator can also ask freely.

    Args:
        data: As in ``QuestionData``.
        tokenizer: Of the model.
        task: The stage.
        max_target_length: Tokens of a target, its end included; longer ones are cut and counted.
        spacy_pipeline: Of the templates; None needs no model.
        noise: How often templates are disturbed in training.
        repeated_without_template: Share of the training examples that is repeated without a template.
        settings: The other settings of ``QuestionData``.
    """

    def __init__(
        self,
        data: RowSource,
        tokenizer: PreTrainedTokenizerBase,
        *,
        task: str,
        max_target_length: int = 64,
        spacy_pipeline: str | None = None,
        noise: Noise | None = None,
        repeated_without_template: float = 0.5,
        **settings,
    ):
        super().__init__(data, tokenizer, **settings)
        if max_target_length < 1:
            raise WrongInput(f"{max_target_length} tokens of a target", "max_new_tokens", "1 or more")
        if task not in ("vanilla", "style", "qa"):
            raise WrongInput(f"there is no task {task!r}", "task", "choose vanilla, style or qa")
        if task != "style" and (spacy_pipeline is not None or noise is not None):
            raise WrongInput(f"the {task} task uses no templates", "spacy_pipeline, noise", "leave them out")
        if not 0 <= repeated_without_template <= 1:
            raise WrongInput(f"a share of {repeated_without_template}", "repeated_without_template", "from 0 to 1")
        self.task, self.max_target_length, self.noise = task, max_target_length, noise
        self.repeated_without_template = repeated_without_template
        self.extractor = TemplateExtractor(spacy_pipeline) if task == "style" else None

    @property
    def final_metrics(self) -> dict[str, float]:
        """Rows made, passages and targets cut, and rows of the data without an answer."""
        rows = [*self.train_rows, *self.val_rows]
        return {
            "rows": len(rows),
            "cut_passages": sum(row.source_cut for row in rows),
            "cut_targets": sum(row.target_cut for row in rows),
            "unanswerable": self.unanswerable,
        }

    @property
    def collate(self) -> Callable[[list[EncodedQuestion]], Seq2SeqBatch]:
        """From rows to a ``Seq2SeqBatch``."""
        return partial(_collate, pad_id=self.encoder.pad_id)

    def encode(self, examples: Sequence[Example], *, training: bool) -> list[EncodedQuestion]:
        """Sources and targets of the task."""
        if self.task == "qa":
            return [self._row(example, self._asked(example), example.answer) for example in examples]
        if self.task == "vanilla":
            return [self._row(example, self.encoder.marked(example), example.question) for example in examples]
        return [
            self._row(example, self.encoder.marked(example, template), example.question)
            for example, template in self._with_templates(examples, training)
        ]

    def _with_templates(self, examples: Sequence[Example], training: bool) -> list[tuple[Example, str]]:
        assert self.extractor is not None
        extracted = extract_examples(examples, self.extractor)
        templates = [one.template for one in extracted]
        if not training:
            return list(zip(examples, templates, strict=True))
        entities = [phrase for one in extracted for phrase in one.masked]
        noised = noised_templates(templates, entities, self.seed, self.noise)
        repeats = round(self.repeated_without_template * len(examples))
        repeated = random.Random(f"{self.seed}/repeated").sample(range(len(examples)), repeats)
        return [*zip(examples, noised, strict=True), *((examples[place], "") for place in sorted(repeated))]

    def _asked(self, example: Example) -> Source:
        span = example.answer_start, example.answer_start + len(example.answer)
        return self.encoder.asked(example.context, example.question, span, example.id)

    def _row(self, example: Example, source: Source, text: str) -> EncodedQuestion:
        target = self.encoder.target(text, self.max_target_length)
        source_ids, target_ids = (np.asarray(one.ids, dtype=np.int32) for one in (source, target))
        return EncodedQuestion(example.id, source_ids, target_ids, source.cut > 0, target.cut > 0)


def _collate(rows: list[EncodedQuestion], pad_id: int) -> Seq2SeqBatch:
    return collate_seq2seq([row.source for row in rows], [row.target for row in rows], pad_id)
