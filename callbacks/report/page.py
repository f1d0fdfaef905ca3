"""One page that shows a run: no script, no request, nothing beside the file itself."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, PackageLoader
from markupsafe import Markup


class Card(NamedTuple):
    """A key figure: what it is, its value with the unit, and what one should know beside it."""

    label: str
    value: str
    note: str = ""


class Table(NamedTuple):
    """Rows under a header, all text; the first column names the row. A cell's second line is written small."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


class Answer(NamedTuple):
    """What one model said; ``verdict`` is ``win``, ``tie``, ``lose``, ``invalid`` or empty."""

    name: str
    text: str
    verdict: str = ""


class Example(NamedTuple):
    """One chat (messages of ``role`` and ``content``) and several answers to it, side by side."""

    prompt: Sequence[Mapping[str, str]]
    answers: Sequence[Answer]


class Question(NamedTuple):
    """One question, how it came to be asked that way, and what a model answered to it.

    Attributes:
        text: The question.
        style: The template that it was asked by; empty without one.
        answered: The answer; None where nobody was asked.
        verdict: ``right``, ``partly``, ``wrong`` or empty.
        tag: A word beside it, e.g. that it was the first choice.
    """

    text: str
    style: str = ""
    answered: str | None = None
    verdict: str = ""
    tag: str = ""


class Passage(NamedTuple):
    """A text in three parts, the middle one marked, the true question about it, and who asked what."""

    before: str
    marked: str
    after: str
    reference: str
    asked: Sequence[tuple[str, Sequence[Question]]]


class Section(NamedTuple):
    """A part of the page, shown in this order.

    Attributes:
        title: Its heading.
        text: What there is to see; an empty line starts a new paragraph.
        figures: SVG elements from ``callbacks.report.figures``. They go into the page as they are, so never build one
            from text that came from outside.
        tables: Numbers to read off.
        examples: Chats to read.
        passages: Passages and questions to read.
    """

    title: str
    text: str = ""
    figures: Sequence[str] = ()
    tables: Sequence[Table] = ()
    examples: Sequence[Example] = ()
    passages: Sequence[Passage] = ()


def build_sections(builders: Sequence[Callable[[], Section | None]]) -> tuple[list[Section], list[str]]:
    """The sections that could be drawn, and a note on each that could not.

    A report comes after hours of work: odd data cost it a section, never the run.

    Args:
        builders: Each makes a section, or None where there is nothing to show.
    """
    shown: list[Section] = []
    notes: list[str] = []
    for build in builders:
        try:
            section = build()
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as broken:
            notes.append(f"A section could not be drawn: {type(broken).__name__} {broken}.")
        else:
            shown += [section] if section else []
    return shown, notes


def unread(notes: Sequence[str]) -> list[Section]:
    """What a page ends with where something could not be read or drawn."""
    return [Section("What could not be read", "\n\n".join(notes[:20]))] if notes else []


def write_page(
    path: Path, title: str, lead: str, cards: Sequence[Card], sections: Sequence[Section], config_yaml: str = ""
) -> None:
    """Write a self-contained HTML page, aside first and then renamed, so that there is never half a page.

    Args:
        path: The file, e.g. ``report.html``; its folder exists.
        title: What the page is about.
        lead: The outcome in one sentence.
        cards: Key figures.
        sections: The rest, in order.
        config_yaml: The resolved config, shown folded; empty leaves it out.

    Raises:
        OSError: Where the folder is missing, full or not writable.
    """
    numbered = iter(range(1_000_000))
    sections = [
        section._replace(figures=[_inline(figure, next(numbered)) for figure in section.figures])
        for section in sections
    ]
    environment = Environment(
        loader=PackageLoader("callbacks.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("page.html.jinja").render(
        title=title, lead=lead, cards=cards, sections=sections, config_yaml=config_yaml
    )
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # a lone surrogate, as a model's broken byte can leave behind, must not cost the whole page
        aside.write_text(page, encoding="utf-8", errors="replace")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _inline(svg: str, number: int) -> Markup:
    """The figure as part of the page: ids told apart from those of other figures, no namespace of its own."""
    svg = svg.replace(' xmlns="http://www.w3.org/2000/svg"', "", 1)
    return Markup(re.sub(r'(\bid="|url\(#|\bhref="#)', rf"\g<1>f{number}-", svg))  # noqa: S704
