import json

import pytest

from datamodules.batches import Example
from datamodules.templates import (
    BankTemplate,
    TemplateBank,
    TemplateExtractor,
    bank_of_examples,
    open_bank,
    template_words,
    word_jaccard,
)
from datamodules.templates.bank import line_of
from datamodules.wrong_input import WrongInput

CONTEXT = "Ada Holm founded the mill in 1875. Carl Dale bought it."


def example(question: str, n: int = 0) -> Example:
    return Example(f"file:{n}", CONTEXT, "1875", CONTEXT.index("1875"), question)


def bank(*texts: str) -> TemplateBank:
    made = TemplateBank()
    made.add(BankTemplate(text, f"row {n}") for n, text in enumerate(texts))
    return made


def test_only_questions_that_ask_make_templates():
    questions = ["Who was Ada Holm?", "Name the year.", "In which year was it ? ", "Who was Carl Dale ?"]
    made = bank_of_examples([example(question, n) for n, question in enumerate(questions)], TemplateExtractor())
    assert made.templates == [
        BankTemplate("Who was [MASK] ?", "file:0"),
        BankTemplate("In which year was it ?", "file:2"),
    ]
    assert made.settings == {"spacy_pipeline": None, "passages": True}


def test_no_two_templates_of_a_bank_are_near_duplicates():
    texts = ["who was [MASK] ?", "Who Was [mask] ?", "who was [MASK] and [MASK] ?", "who was he, then ?", "[MASK]"]
    made = TemplateBank()
    added = made.add(BankTemplate(text, "x") for text in texts)
    assert tuple(added) == (3 - 1, 1, 1, 1)
    assert made.texts == ["who was [MASK] ?", "who was he, then ?"]
    assert word_jaccard(*map(template_words, made.texts)) <= 0.6


def test_greedy_removal_is_that_of_a_naive_loop():
    words = ("who", "what", "is", "was", "did", "in", "of", "the", "?")
    texts = [" ".join(words[i % 7 : i % 7 + 1 + i % 5]) + f" {i % 9}" for i in range(200)]
    kept: list[str] = []
    for text in texts:
        words = template_words(text)
        if all(word_jaccard(words, template_words(other)) <= 0.6 for other in kept):
            kept.append(text)
    assert bank(*texts).texts == kept
    assert 5 < len(kept) < 150


def test_adding_leaves_what_is_there_with_its_number():
    made = bank("who was [MASK] ?", "when did [MASK] begin ?")
    before = made.templates.copy()
    assert made.add([BankTemplate("WHEN did [MASK] begin ?", "y"), BankTemplate("why is it so ?", "y")]).kept == 1
    assert made.templates[:2] == before
    assert made.texts[2] == "why is it so ?"


def test_the_own_template_is_found_under_whatever_stands_for_it():
    made = bank("who was [MASK] ?", "when did [MASK] begin ?")
    asked = ["Who was [mask] ?", "and when did [MASK] begin ?", "why so ?", "[MASK]", ""]
    assert made.standing_for(asked) == [0, 1, -1, -1, -1]


def test_a_bank_is_the_same_after_saving(tmp_path):
    made = bank("who was [MASK] ?", "when did [MASK] begin ?", "où est-ce que [MASK] ?")
    made.settings["spacy_pipeline"] = None
    made.save(tmp_path / "bank.jsonl")
    loaded = TemplateBank.load(tmp_path / "bank.jsonl")
    assert (loaded.templates, loaded.settings) == (made.templates, made.settings)
    assert loaded.largest_similarity == made.largest_similarity
    assert tuple(loaded.add([BankTemplate("why so ?", "z"), BankTemplate("who was [MASK] ?", "z")])) == (1, 1, 0, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["bank.jsonl"]
    assert open_bank(tmp_path / "bank.jsonl", TemplateExtractor()).templates == made.templates


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "no bank of templates"),
        ([{"template": "who ?", "source": "x"}], "no bank of templates"),
        ([{"kind": "template bank"}, {"template": "who ?"}], "bank.jsonl:2"),
        ([{"kind": "template bank"}, {"template": "[MASK]", "source": "x"}], "bank.jsonl:2"),
    ],
)
def test_a_file_that_is_no_bank_is_told(tmp_path, lines, said):
    (tmp_path / "bank.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(WrongInput, match=said):
        TemplateBank.load(tmp_path / "bank.jsonl")


def test_a_users_text_file_of_templates_and_questions_is_a_bank(tmp_path):
    (tmp_path / "mine.txt").write_text("Who founded [mask]?\n\nname [MASK] .\nWhere is the castle?\nno question\n")
    made = open_bank(tmp_path / "mine.txt", TemplateExtractor())
    assert made.templates == [
        BankTemplate("Who founded [MASK] ?", "mine.txt:1"),
        BankTemplate("name [MASK] .", "mine.txt:3"),
        BankTemplate("Where is [MASK] ?", "mine.txt:4"),
    ]


def test_files_without_templates_are_refused(tmp_path):
    with pytest.raises(WrongInput, match="cannot be read"):
        open_bank(tmp_path / "none.txt", TemplateExtractor())
    (tmp_path / "latin.txt").write_bytes("où ?".encode("latin-1"))
    with pytest.raises(WrongInput, match="UTF-8"):
        open_bank(tmp_path / "latin.txt", TemplateExtractor())
    (tmp_path / "statements.txt").write_text("It rains.\n")
    with pytest.raises(WrongInput, match="no template can be had"):
        open_bank(tmp_path / "statements.txt", TemplateExtractor())
    with pytest.raises(WrongInput, match="no template can be had"):
        bank_of_examples([example("Name it.")], TemplateExtractor())


@pytest.mark.parametrize("wrong", [-0.1, 1.0])
def test_a_similarity_that_cannot_be(wrong):
    with pytest.raises(WrongInput, match="largest similarity"):
        TemplateBank(wrong)


def test_its_texts_cost_nothing_to_ask_for_and_grow_with_it():
    made = bank("who was [MASK] ?")
    texts = made.texts
    made.add([BankTemplate("why is it so ?", "y")])
    assert made.texts is texts
    assert list(texts) == [template.text for template in made.templates] == ["who was [MASK] ?", "why is it so ?"]


def test_a_template_is_found_on_the_line_that_its_number_tells(tmp_path):
    made = bank("who was [MASK] ?", "when did [MASK] begin ?")
    made.save(tmp_path / "bank.jsonl")
    lines = (tmp_path / "bank.jsonl").read_text().splitlines()
    assert [json.loads(lines[line_of(number) - 1])["template"] for number in range(2)] == list(made.texts)


def test_a_forgotten_mask_is_told_with_its_row_unless_the_template_was_made_of_a_question(tmp_path):
    rows = [{"template": text, "source": "x"} for text in ("Who founded [MASK] ?", "Why so ?")]
    for settings, refused in ((None, True), ({"spacy_pipeline": None, "passages": True}, False)):
        lines = [{"kind": "template bank", "settings": settings}, *rows]
        (tmp_path / "own.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        if refused:
            with pytest.raises(WrongInput, match=r"the template has no mask \(own.jsonl:3\)"):
                TemplateBank.load(tmp_path / "own.jsonl")
        else:
            assert len(TemplateBank.load(tmp_path / "own.jsonl")) == 2


def test_lines_that_make_no_template_are_counted_and_told(tmp_path, caplog):
    lines = ["Who founded [MASK] ?", "", "Tell me more.", "[MASK]", "Where is the castle?", "Who founded [mask]?"]
    (tmp_path / "mine.txt").write_text("\n".join(lines))
    made = open_bank(tmp_path / "mine.txt", TemplateExtractor())
    assert (len(made), made.dropped_lines) == (2, 2)
    assert [record.getMessage().split(":")[:2] for record in caplog.records] == [["mine.txt", " 2 of 5 lines dropped"]]


def test_a_saved_bank_keeps_to_what_it_was_made_with(tmp_path):
    made = TemplateBank(0.4, {"spacy_pipeline": "en_core_web_sm", "passages": True})
    made.add([BankTemplate("who was [MASK] ?", "x")])
    made.save(tmp_path / "bank.jsonl")
    with pytest.raises(WrongInput, match="made with the spaCy pipeline en_core_web_sm and not None"):
        open_bank(tmp_path / "bank.jsonl", TemplateExtractor(), 0.4)
    made.settings["spacy_pipeline"] = None
    made.save(tmp_path / "bank.jsonl")
    with pytest.raises(WrongInput, match=r"largest_similarity=0.4 and not 0.6 \(.*bank.jsonl\)"):
        open_bank(tmp_path / "bank.jsonl", TemplateExtractor(), 0.6)
    for wanted in (0.4, None):
        assert open_bank(tmp_path / "bank.jsonl", TemplateExtractor(), wanted).largest_similarity == 0.4
