"""From a question to its template: what comes from the passage is masked, the way of asking is kept.

Masked is each word whose lemma stands in the passage or the answer; with a full spaCy pipeline also each named entity
and noun phrase. Kept, whatever the passage says, are stop words, question words, auxiliaries and punctuation. Then:

- an article before a mask, a possessive between two masks and a compound with a masked part are masked as well;
- runs of masks become one, and punctuation is split off.

Where no passage is known every word of content counts as taken from it (a full pipeline's noun phrases, where there are
some), so that a bank made of bare questions brings no content along.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple

from datamodules.templates.pipelines import (
    ARTICLES,
    QUESTION_WORDS,
    blank_english,
    full_pipeline,
    kept_words,
    lemma_table,
)
from datamodules.templates.words import MASK, with_masks

if TYPE_CHECKING:
    from spacy.tokens import Doc

Source = Sequence[str]
"""Texts that a question's content may come from."""
JOINING = ("-", "–", "/")
CLITICS = frozenset(("'s", "'re", "'ve", "'ll", "'d", "'m", "n't"))


class Extracted(NamedTuple):
    """A template, and what its masks stood for."""

    template: str
    masked: tuple[str, ...]
    """The words under each mask, as the question had them, articles left out."""


class TemplateExtractor:
    """Makes templates of questions.

    Args:
        pipeline: Name of a full spaCy pipeline that adds entities and noun phrases; None needs no model.

    Raises:
        WrongInput: There is no such pipeline.
    """

    def __init__(self, pipeline: str | None = None):
        self.pipeline = pipeline
        if pipeline is not None:
            full_pipeline(pipeline)  # complains now, not at the first question

    @property
    def settings(self) -> dict[str, Any]:
        """What templates depend on, for a bank's provenance."""
        return {"spacy_pipeline": self.pipeline}

    def extract(self, questions: Iterable[str], sources: Iterable[Source | None] = repeat(None)) -> Iterator[Extracted]:
        """Templates of many questions, in order.

        Args:
            questions: Questions.
            sources: Of each the texts that its content may come from (passage and answer), or None: not known.
        """
        nlp = blank_english().tokenizer if self.pipeline is None else full_pipeline(self.pipeline)
        texts = (" ".join(question.split()) for question in questions)
        for doc, source in zip(nlp.pipe(texts), sources, strict=False):
            yield _template(doc, None if source is None else frozenset().union(*map(lemmas_of, source)))

    def of(self, question: str, *source: str) -> str:
        """The template of one question; ``source`` are passage and answer, left out where they are not known."""
        return next(self.extract([question], [source or None])).template


def template_maker(pipeline: str | None = None) -> Callable[..., str]:
    """``TemplateExtractor(pipeline).of``, by a name that a config can give."""
    return TemplateExtractor(pipeline).of


@lru_cache(maxsize=1 << 10)  # questions on one passage mostly come in a row
def lemmas_of(text: str) -> frozenset[str]:
    """Lemmas of all words of a text, lower-cased."""
    doc = blank_english().tokenizer(text)
    strings = doc.vocab.strings
    return frozenset(_lemma(strings[word]) for word in set(doc.to_array("ORTH").tolist()))


@lru_cache(maxsize=1 << 18)
def _lemma(word: str) -> str:
    lower = word.lower()
    return lemma_table().get(lower, lower)


@lru_cache(maxsize=1 << 18)
def _is_content(word: str) -> bool:
    lower = word.lower().replace("’", "'").replace("‘", "'")
    return lower not in kept_words() and any(character.isalnum() for character in lower)


def _template(doc: Doc, lemmas: frozenset[str] | None) -> Extracted:
    words = [token.text for token in doc]
    glued = [not space for space in doc.to_array("SPACY").tolist()]  # to the token after it
    phrases = _phrases(doc)
    if lemmas is None:
        masked = [place in phrases if phrases is not None else _is_content(word) for place, word in enumerate(words)]
    else:
        masked = [
            (_is_content(word) and _lemma(word) in lemmas) or place in (phrases or ())
            for place, word in enumerate(words)
        ]
    return _write(words, glued, _whole_phrases(words, glued, masked))


def _phrases(doc: Doc) -> set[int] | None:
    """Places of entities and noun phrases, but for question words; None if the pipeline knows none."""
    if not (doc.has_annotation("DEP") or doc.has_annotation("ENT_IOB")):
        return None
    noun_phrases = doc.noun_chunks if doc.has_annotation("DEP") else ()
    telling = (span for span in noun_phrases if any(_is_content(token.text) for token in span))  # "he" is not
    return {
        token.i
        for span in (*doc.ents, *telling)
        for token in span
        if token.lower_ not in QUESTION_WORDS and not token.is_punct
    }


def _whole_phrases(words: list[str], glued: list[bool], masked: list[bool]) -> list[bool]:
    """Masks grown over what only holds them together."""
    grown = list(masked)
    for place in range(1, len(words) - 1):
        before, after = grown[place - 1], grown[place + 1]
        if not glued[place - 1] or grown[place] or not (before or after):
            continue
        if glued[place] and words[place] in JOINING:
            grown[place - 1 : place + 2] = [True] * 3
        elif before and after:
            possessive = words[place].lower() in ("'s", "’s", "'", "’")
            grown[place] = possessive or (glued[place] and not words[place][0].isalnum())
    for place in range(len(words) - 1):
        if grown[place + 1] and words[place].lower() in ARTICLES:
            grown[place] = True
    return grown


def _write(words: list[str], glued: list[bool], masked: list[bool]) -> Extracted:
    parts: list[str] = []
    phrases: list[str] = []
    for place, word in enumerate(words):
        follows = place > 0
        if not masked[place]:
            clitic = (
                follows and glued[place - 1] and not masked[place - 1] and word.lower().replace("’", "'") in CLITICS
            )
            parts.append(word if clitic or not parts else f" {word}")
            continue
        if not (follows and masked[place - 1]):
            parts.append(f" {MASK}")
            phrases.append("")
        if not (phrases[-1] == "" and word.lower() in ARTICLES):
            phrases[-1] += word + ("" if glued[place] else " ")
    return Extracted(with_masks("".join(parts)), tuple(phrase.strip() for phrase in phrases))
