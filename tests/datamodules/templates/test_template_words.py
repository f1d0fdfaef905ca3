import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.templates import MASK, template_words, word_jaccard
from datamodules.templates.words import with_masks


def test_masks_are_written_in_one_way_and_never_are_words():
    assert MASK == "[MASK]"
    assert with_masks("who [mask] [Mask] did[MASK]it [MASK][mask] ?") == "who [MASK] did [MASK] it [MASK] ?"
    assert template_words("Who [mask] did [MASK] ?") == {"who", "did", "?"}
    assert template_words("[mask] [MASK]") == frozenset()


@pytest.mark.parametrize(
    ("glued", "apart"),
    [
        ("Did it die?", "did it die ?"),
        ("What's that, then?", "What 's that , then ?"),
        ("Why don't you?", "Why do n't you ?"),
        ("Why don’t you?", "why don't you?"),
        ("Who cannot go?", "Who can not go ?"),
        ("who's “Ada”?", "who 's “ Ada ” ?"),
    ],
)
def test_punctuation_and_clitics_are_words_of_their_own_however_they_are_spaced(glued, apart):
    assert template_words(glued) == template_words(apart)
    assert word_jaccard(template_words(glued), template_words(apart)) == 1


def test_die_with_a_question_mark_is_die():
    assert template_words("die?") == {"die", "?"}
    assert "?" in template_words("die ?")


words = st.frozensets(st.sampled_from("abcdefgh"))


@given(words, words)
def test_jaccard_is_a_similarity(a, b):
    assert 0 <= word_jaccard(a, b) == word_jaccard(b, a) <= 1
    assert (word_jaccard(a, b) == 1) == (a == b and bool(a))


def test_an_absent_template_is_like_nothing():
    assert word_jaccard(template_words(""), template_words("")) == 0
