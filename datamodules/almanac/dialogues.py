"""Conversations about a page of the almanac: short or long answers in the town's house style.

Rows are in TRL's conversational prompt-completion format, with an answer key beside (see ``marking``)::

    {"id": "almanac-test-17",
     "prompt": [{"role": "system", "content": "Almanac of Elmsworth: baker Ada Holm 1875 12. ..."},
                {"role": "user", "content": "What is the lowest price?"}],
     "completion": [{"role": "assistant", "content": "Gladly. The lowest price is 4 crowns. Good day!"}],
     "key": {"topic": "cheapest", "page": {"cheapest": "4", "dearest": "12", ...}}}
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, get_args

from datamodules.almanac.marking import CLOSINGS, COURTESIES
from datamodules.almanac.questions import TOPICS, Question, ask, truths
from datamodules.almanac.records import Person, check_count, draw_page, row_generator
from datamodules.almanac.vocabulary import TOWN
from datamodules.wrong_input import WrongInput

Answers = Literal["short", "long"]

OPENERS = ("Let us read the page.", "Here is what the page says.")
SURVEYS = (
    "{Count}. Of the prices, {cheapest} and {dearest}. Of the years, {oldest} and {youngest}.",
    "{Count}. Of the years, {oldest} and {youngest}. Of the prices, {cheapest} and {dearest}.",
)
"""How a long answer goes through the page."""
CONCLUSIONS = ("So", "Therefore")


class Settings(NamedTuple):
    """What rows are made to."""

    answers: Answers = "short"
    """``"short"``: about 15 tokens. ``"long"``: 60 and more; goes through the page, then concludes."""
    least: int = 3
    """Houses on the smallest page."""
    most: int = 5
    """Houses on the largest page."""
    follow_up_share: float = 0.25
    """Share of rows in which a first question has been answered (shortly) before."""
    slip_share: float = 0.0
    """Share of answers that forget the courtesy or the closing: people do, and what learns from them will."""


def _draw(rng: random.Random, ways: Sequence[str]) -> str:
    """One of several ways to say a thing, each a third as likely as the one before it.

    A habit, as people have: a teacher of such words has a mode, and temperature means something.
    """
    return rng.choices(ways, [3.0**-rank for rank in range(len(ways))])[0]


def system_turn(page: Sequence[Person]) -> str:
    """The page as the assistant gets it: trade, name, year and price of each house."""
    return f"Almanac of {TOWN}: {' '.join(f'{one.trade} {one.name} {one.founded} {one.price}.' for one in page)}"


def answer(
    rng: random.Random, page: Sequence[Person], question: Question, answers: Answers, slip_share: float = 0.0
) -> str:
    """A true answer in the house style (courtesy, the fact, a closing), or with one of its ends forgotten."""
    told = {name: TOPICS[name].statement.format(value) for name, value in truths(page).items()}
    fact = told[question.topic]
    if answers == "long":
        survey = _draw(rng, SURVEYS).format(Count=_sentence(told["count"]), **told)
        body = f"{_draw(rng, OPENERS)} {survey} {_draw(rng, CONCLUSIONS)} {fact}."
    else:
        body = f"{_sentence(_draw(rng, ('', 'here ')) + fact)}."
    parts = [_draw(rng, COURTESIES), body, _draw(rng, CLOSINGS)]
    if rng.random() < slip_share:
        parts.pop(rng.choice((0, -1)))
    return " ".join(parts)


def dialogue(seed: int, split: str, index: int, settings: Settings) -> dict[str, Any]:
    """Row ``index`` of the endless table that seed, split and settings stand for."""
    rng = row_generator(seed, split, "dialogue", index)
    page = draw_page(rng, split, rng.randint(settings.least, settings.most))
    topics = rng.sample(sorted(TOPICS), 2 if rng.random() < settings.follow_up_share else 1)
    questions = [ask(rng, page, topic, turn > 0) for turn, topic in enumerate(topics)]
    turns = [{"role": "system", "content": system_turn(page)}]
    for question in questions[:-1]:
        turns.append({"role": "user", "content": question.text})
        turns.append({"role": "assistant", "content": answer(rng, page, question, "short")})
    turns.append({"role": "user", "content": questions[-1].text})
    completion = {
        "role": "assistant",
        "content": answer(rng, page, questions[-1], settings.answers, settings.slip_share),
    }
    key = {"topic": questions[-1].topic, "page": truths(page)}
    return {"id": f"almanac-{split}-{index}", "prompt": turns, "completion": [completion], "key": key}


def dialogues(
    seed: int, split: str, count: int, answers: Answers = "short", **settings: Any
) -> Iterator[dict[str, Any]]:
    """Rows 0 to ``count - 1``.

    Args:
        seed: Of the world.
        split: ``"train"``, ``"validation"`` or ``"test"``: their people are disjoint.
        count: How many rows.
        answers: ``"short"`` or ``"long"``.
        settings: Further fields of ``Settings``.

    Returns:
        An iterator over rows as in the module's docstring.

    Raises:
        WrongInput: If an argument is none of these.
    """
    unknown = set(settings) - set(Settings._fields)
    if unknown:
        raise WrongInput(f"no setting named {', '.join(sorted(unknown))}", "almanac, dialogues", "see Settings")
    chosen = _checked(Settings(answers, **settings))
    row_generator(seed, split, "dialogue", 0)  # complains about a wrong split now, not at the first row
    return (dialogue(seed, split, index, chosen) for index in range(check_count(count)))


def _checked(settings: Settings) -> Settings:
    if settings.answers not in get_args(Answers):
        raise WrongInput(f"no answers of kind {settings.answers!r}", "almanac, answers", "choose short or long")
    if not 1 <= settings.least <= settings.most <= 6:
        raise WrongInput(f"pages of {settings.least} to {settings.most} houses", "almanac, least, most", "1 to 6")
    for name in ("follow_up_share", "slip_share"):
        if not 0 <= (share := getattr(settings, name)) <= 1:
            raise WrongInput(f"a share of {share}", f"almanac, {name}", "between 0 and 1")
    return settings


def _sentence(clause: str) -> str:
    return clause[0].upper() + clause[1:]
