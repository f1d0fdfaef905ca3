"""Ways of asking N questions about a passage: RAST's, and without templates; each makes a draft, not yet marked."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from transformers import PreTrainedModel

from datamodules.batches import QuestionBatch
from lightning_modules.language_model import ModelSource
from lightning_modules.rast.decoding import Decoding
from lightning_modules.rast.retriever import StyleRetriever
from lightning_modules.rast.rollout import Questioner
from lightning_modules.rast.writing import Encoded, encode, mean_logps, write
from lightning_modules.seq2seq import encoder_states

NO_TEMPLATE_SCORE = 1.0
"""Retrieval score of a question without a template: its own template is what is searched with, and the product of a
vector of length 1 with itself is 1."""


class Draft(NamedTuple):
    """Questions before they are marked; n of them."""

    rows: list[int]
    """n: which passage of the batch."""
    texts: list[str]
    logps: list[float]
    templates: list[str | None]
    template_numbers: list[int | None]
    """Positions in the bank."""
    retrieval_scores: list[float | None]
    clusters: list[int | None]


Asker = Callable[[QuestionBatch, Questioner], Draft]
Build = Callable[[ModelSource], PreTrainedModel]
"""Makes a frozen model on the device."""


class Method(Protocol):
    """A way of asking: makes its models when it is its turn."""

    def prepare(self, build: Build, count: int) -> Asker:
        """The asker of ``count`` questions a passage."""
        ...


class Plain:
    """Asks without templates.

    Args:
        generator: The vanilla generator.
        decoding: How it gets to N questions.
    """

    def __init__(self, generator: ModelSource, decoding: Decoding):
        self.generator, self.decoding = generator, decoding

    def prepare(self, build: Build, count: int) -> Asker:
        """See ``Method``."""
        model = build(self.generator)

        def ask(batch: QuestionBatch, questioner: Questioner) -> Draft:
            inputs = batch.input_ids, batch.attention_mask
            encoded = Encoded(*inputs, encoder_states(model, *inputs))
            written = self.decoding(model, questioner.tokenizer, encoded, count)
            logps = mean_logps(model, questioner.tokenizer, encoded.repeated(count), written.labels)
            rows = [row for row in range(len(batch.examples)) for _ in range(count)]
            nothing: list[Any] = [None] * len(rows)
            return Draft(rows, written.texts, logps.tolist(), nothing, nothing, nothing, nothing)

        return ask


class Styled:
    """Asks once without a template, then by the best template of each cluster (arXiv 2310.14503), greedily.

    Args:
        generator: The style generator.
        retriever: Makes its retriever.
        vanilla: Writes the first questions, whose templates are the queries. None: the style generator does, without
            a template; nothing annotated is looked at.
        no_template_score: Retrieval score of the question without a template.
    """

    def __init__(
        self,
        generator: ModelSource,
        retriever: Callable[[], StyleRetriever],
        *,
        vanilla: ModelSource | None = None,
        no_template_score: float = NO_TEMPLATE_SCORE,
    ):
        self.generator, self.make_retriever, self.vanilla = generator, retriever, vanilla
        self.no_template_score = no_template_score

    def prepare(self, build: Build, count: int) -> Asker:
        """See ``Method``.

        Raises:
            WrongInput: The bank is empty, or bank or candidates are too few.
        """
        model = build(self.generator)
        vanilla = model if self.vanilla is None else build(self.vanilla)
        retriever = self.make_retriever().requires_grad_(False).to(model.device)
        retriever.check_count(max(count - 1, 1), "questions")

        def ask(batch: QuestionBatch, questioner: Questioner) -> Draft:
            return ask_styled(batch, questioner, model, vanilla, retriever, count, self.no_template_score)

        return ask


@torch.no_grad()
def ask_styled(
    batch: QuestionBatch,
    questioner: Questioner,
    model: PreTrainedModel,
    vanilla: PreTrainedModel | None,
    retriever: StyleRetriever,
    count: int,
    no_template_score: float = NO_TEMPLATE_SCORE,
) -> Draft:
    """``count`` questions a passage: one without a template, then one for the best template of each cluster."""
    queries = questioner.first_templates(vanilla, batch)
    chosen = retriever.best(queries, batch.own_template, count - 1) if count > 1 else [[] for _ in queries]
    rows = [row for row, styles in enumerate(chosen) for _ in range(1 + len(styles))]
    templates: list[str | None] = [t for styles in chosen for t in (None, *(one.template for one in styles))]
    numbers: list[int | None] = [n for styles in chosen for n in (None, *(one.number for one in styles))]
    scores: list[float | None] = [s for styles in chosen for s in (no_template_score, *(one.score for one in styles))]
    clusters: list[int | None] = [c for styles in chosen for c in (None, *(one.cluster for one in styles))]
    examples = [batch.examples[row] for row in rows]
    sources = [questioner.encoder.styled(e, t or "") for e, t in zip(examples, templates, strict=True)]
    encoded = encode(model, sources, questioner.pad_id)
    written = write(model, questioner.tokenizer, encoded, questioner.greedily)
    logps = mean_logps(model, questioner.tokenizer, encoded, written.labels)
    return Draft(rows, written.texts, logps.tolist(), templates, numbers, scores, clusters)
