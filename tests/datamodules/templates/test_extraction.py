import random

import pytest
import spacy
from spacy.language import Language
from spacy.tokens import Doc

from datamodules.templates import MASK, TemplateExtractor, template_words
from datamodules.templates import pipelines as pipelines_module
from datamodules.templates.extraction import lemmas_of
from datamodules.wrong_input import WrongInput

WORDS = (
    "who",
    "what",
    "is",
    "the",
    "did",
    "Ada",
    "of",
    "1875",
    "mill",
    "'s",
    "don't",
    "well-known",
    "(",
    ",",
    "a",
    "?",
)
PASSAGE = "The Almanac, with its oldest houses, was begun by Tobias Vell in 1873."


@pytest.mark.parametrize(
    ("question", "source", "template"),
    [
        ("Who founded the Almanac in 1873 ?", (PASSAGE, "Tobias Vell"), "Who founded [MASK] in [MASK] ?"),
        ("Who founded the Almanac in 1873?", (PASSAGE, "Tobias Vell"), "Who founded [MASK] in [MASK] ?"),
        ("Which house is old?", (PASSAGE, "1873"), "Which [MASK] is [MASK] ?"),  # by lemma: houses, oldest
        ("When did it begin?", (PASSAGE, "1873"), "When did it [MASK] ?"),  # by lemma: begun
        ("What is it ?", (PASSAGE, "1873"), "What is it ?"),
        ("When did they dance in a ring?", (PASSAGE, "1873"), "When did they dance in a ring ?"),
        ("Who wrote the Almanac's oldest entry?", (PASSAGE, ""), "Who wrote [MASK] entry ?"),
        ("What's the Almanac, then?", (PASSAGE, ""), "What's [MASK] , then ?"),
        ("Why doesn't Vell own two houses?", (PASSAGE, "two"), "Why doesn't [MASK] own [MASK] ?"),
        ("How many well-known houses?", (PASSAGE, ""), "How many well - known [MASK] ?"),
        ("", (PASSAGE, ""), ""),
    ],
)
def test_what_comes_from_the_passage_is_masked(question, source, template):
    assert TemplateExtractor().of(question, *source) == template


def test_without_a_passage_all_content_is_masked():
    extractor = TemplateExtractor()
    assert extractor.of("Who founded the Almanac in 1873?") == "Who [MASK] in [MASK] ?"
    assert extractor.of("What's a well-known house's price?") == "What's [MASK] ?"
    assert extractor.of("Did two or sixty houses fall?") == "Did [MASK] or [MASK] ?"


def test_words_are_compared_by_lemma_and_spelling_not_by_identity():
    """Tokens of two documents are never the same object: names and numbers, whose lemma is themselves, must match."""
    template = TemplateExtractor().of("Did Zorbla meet Qux in 1875 ?", "In 1875 Zorbla met one Qux.", "Qux")
    assert template == "Did [MASK] in [MASK] ?"
    assert TemplateExtractor().of("Did ZORBLA Meet QUX ?", "Zorbla met qux", "") == "Did [MASK] ?"


def test_what_masks_stood_for_is_told_without_articles():
    (made,) = TemplateExtractor().extract(["Did the Old Mill's owner see Ada in 1875?"])
    assert made.template == "Did [MASK] see [MASK] in [MASK] ?"
    assert made.masked == ("Old Mill's owner", "Ada", "1875")


def test_the_masks_and_their_words_give_the_question_back():
    rng = random.Random(0)
    extractor = TemplateExtractor()
    for _ in range(300):
        question = " ".join(rng.choices(WORDS, k=rng.randrange(1, 9)))
        (made,) = extractor.extract([question])
        assert made.template.count(MASK) == len(made.masked)
        assert f"{MASK} {MASK}" not in made.template
        filled = made.template
        for phrase in made.masked:
            filled = filled.replace(MASK, phrase, 1)
        assert template_words(question) - template_words(filled) <= {"a", "the"}
        assert template_words(filled) <= template_words(question)


def test_blank_english_is_loaded_once_however_much_is_asked(monkeypatch):
    made = []
    blank = spacy.blank
    monkeypatch.setattr(spacy, "blank", lambda name: made.append(name) or blank(name))
    pipelines_module.blank_english.cache_clear()
    pipelines_module.lemma_table.cache_clear()
    for _ in range(3):
        extractor = TemplateExtractor()
        for _ in range(3):
            list(extractor.extract(["Who is it?"] * 5, [(PASSAGE, "it")] * 5))
            lemmas_of(PASSAGE + " ")
    assert made == ["en"]


@Language.component("test_two_noun_phrases")
def two_noun_phrases(doc: Doc) -> Doc:
    """Parses "WH AUX DET NOUN VERB ADP DET ADJ NOUN ?", in which only a parse tells the phrases."""
    if len(doc) != 10:
        for token in doc:
            token.head, token.dep_ = doc[0], "dep"
        return doc
    heads = [4, 4, 3, 4, 4, 4, 8, 8, 5, 4]
    deps = ["dobj", "aux", "det", "nsubj", "ROOT", "prep", "det", "amod", "pobj", "punct"]
    pos = ["PRON", "AUX", "DET", "NOUN", "VERB", "ADP", "DET", "ADJ", "NOUN", "PUNCT"]
    for token, head, dep, tag in zip(doc, heads, deps, pos, strict=True):
        token.head, token.dep_, token.pos_ = doc[head], dep, tag
    return doc


@pytest.fixture
def with_entities(tmp_path):
    nlp = spacy.blank("en")
    entities = [{"label": "ENTITY", "pattern": name} for name in ("Silver Moon", "US")]
    nlp.add_pipe("entity_ruler").add_patterns(entities)  # type: ignore[attr-defined]
    nlp.to_disk(tmp_path / "entities")
    return str(tmp_path / "entities")


@pytest.fixture
def with_phrases(tmp_path):
    nlp = spacy.blank("en")
    nlp.add_pipe("test_two_noun_phrases")
    nlp.to_disk(tmp_path / "phrases")
    return str(tmp_path / "phrases")


def test_a_full_pipeline_adds_entities(with_entities):
    question, passage = "When did Silver Moon leave the US for good?", "A band played."
    assert TemplateExtractor().of(question, passage) == "When did Silver Moon leave the US for good ?"
    extractor = TemplateExtractor(with_entities)
    assert (
        extractor.of(question, passage) == "When did [MASK] leave [MASK] for good ?"
    )  # "us" is a stop word, US is not
    assert extractor.settings == {"spacy_pipeline": with_entities}


def test_a_full_pipeline_adds_noun_phrases(with_phrases):
    question = "What did the cooper sell in the old mill?"
    assert TemplateExtractor().of(question, "Nothing known.") == "What did the cooper sell in the old mill ?"
    assert TemplateExtractor(with_phrases).of(question, "Nothing known.") == "What did [MASK] sell in [MASK] ?"
    assert TemplateExtractor(with_phrases).of(question) == "What did [MASK] sell in [MASK] ?"  # verbs stay
    assert TemplateExtractor().of(question) == "What did [MASK] in [MASK] ?"


def test_a_pipeline_that_cannot_be_had_is_told_in_one_line(tmp_path):
    with pytest.raises(WrongInput, match="no spaCy pipeline can be loaded") as error:
        TemplateExtractor("en_no_such_pipeline")
    assert "spacy download en_no_such_pipeline" in str(error.value)
    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(WrongInput, match="neither entities nor noun phrases"):
        TemplateExtractor(str(tmp_path / "blank"))
