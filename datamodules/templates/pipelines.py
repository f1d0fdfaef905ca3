"""spaCy's pipelines, each loaded once a process, and which words of English carry no content."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from datamodules.wrong_input import WrongInput

if TYPE_CHECKING:  # spaCy takes seconds to import: only where it is needed
    from spacy.language import Language

# fmt: off
QUESTION_WORDS = frozenset((
    "who", "whom", "whose", "what", "which", "when", "where", "why", "how", "whatever", "whichever", "whoever",
))
_AUXILIARIES = frozenset((
    "am", "is", "are", "was", "were", "be", "been", "being", "do", "does", "did", "have", "has", "had", "can", "could",
    "will", "would", "shall", "should", "may", "might", "must", "ought", "need", "dare", "wo", "ca", "sha", "'m", "'re",
    "'s", "'ve", "'ll", "'d", "n't", "not",
))
_NUMBERS = frozenset((
    "two", "three", "four", "five", "six", "eight", "nine", "ten", "eleven", "twelve", "fifteen", "twenty", "forty",
    "fifty", "sixty", "hundred",
))
# fmt: on
ARTICLES = frozenset(("a", "an", "the"))


@cache
def kept_words() -> frozenset[str]:
    """Lower-case words that a template keeps: stop words (numbers are content), question words, auxiliaries."""
    from spacy.lang.en.stop_words import STOP_WORDS

    stop_words = {word.replace("’", "'").replace("‘", "'") for word in STOP_WORDS}
    return frozenset((stop_words - _NUMBERS) | QUESTION_WORDS | _AUXILIARIES)


@cache
def blank_english() -> Language:
    """Blank English of spaCy, with the lookup lemmatizer of spacy-lookups-data: no model to download."""
    import spacy

    pipeline = spacy.blank("en")
    pipeline.add_pipe("lemmatizer", config={"mode": "lookup"})
    pipeline.initialize()
    return pipeline


@cache
def lemma_table() -> dict[str, str]:
    """Lower-case English word → lemma, from the same lemmatizer."""
    return blank_english().get_pipe("lemmatizer").lookups.get_table("lemma_lookup")  # type: ignore[attr-defined]


@cache
def full_pipeline(name: str) -> Language:
    """A user's own pipeline, which finds entities and noun phrases.

    Args:
        name: As ``spacy.load`` takes it: an installed package, or a folder.

    Raises:
        WrongInput: There is none, or it finds neither.
    """
    import spacy

    try:
        pipeline = spacy.load(name)
    except Exception as error:  # spaCy raises many kinds; the user's mend is the same
        reason = str(error).strip().splitlines()[0]
        mend = f"python -m spacy download {name}, or leave it out: templates need no pipeline"
        raise WrongInput(f"no spaCy pipeline can be loaded: {reason}", name, mend) from error
    sample = pipeline("Who founded the bakery in Paris in 1873?")
    if not (sample.has_annotation("DEP") or sample.has_annotation("ENT_IOB")):
        raise WrongInput("the spaCy pipeline finds neither entities nor noun phrases", name, "name one with a parser")
    return pipeline
