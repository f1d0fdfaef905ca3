import pytest

from callbacks.questions import copied_words, distinct, question_word, template_adherence


def test_different_n_grams_among_all():
    questions = ["Who is it?", "who is it ?", "Who was it?"]
    assert distinct(questions, 1) == (5, 12)  # who is it ? was
    assert distinct(questions, 2) == (5, 9)  # who-is is-it it-? who-was was-it
    assert distinct(["Who"], 2) == (0, 0)


@pytest.mark.parametrize(
    ("question", "word"),
    [
        ("In which year did it begin?", "which"),
        ("What's the name of whoever it was?", "what"),
        ("To whom did it go?", "who"),
        ("Name the street.", "other"),
        ("Do you know how early it opens?", "how"),
        ("", "other"),
    ],
)
def test_the_word_that_asks(question, word):
    assert question_word(question) == word


def test_adherence_is_the_jaccard_of_words_without_masks():
    assert template_adherence("Did he die?", "did [MASK] die ?") == pytest.approx(3 / 4)
    assert template_adherence("Did he die ?", "Did [mask] die?") == pytest.approx(3 / 4)
    assert template_adherence("die?", "die ?") == 1


@pytest.mark.parametrize("template", ["", "[MASK]"])
def test_no_template_is_adhered_to_not_at_all(template):
    assert template_adherence("Did he die?", template) == 0


def test_words_that_stand_in_the_passage():
    assert copied_words("Who founded the Mill?", "Ada founded a mill, in 1875.") == (2, 4)
    assert copied_words("?", "Ada") == (0, 0)
