"""The bank of templates: distinct styles of asking, each with the place it came from."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.responses import write_jsonl
from datamodules.rows import read_rows
from datamodules.templates.near_duplicates import NearDuplicates
from datamodules.templates.words import MASK, template_words, with_masks
from datamodules.wrong_input import WrongInput

KIND = "template bank"
LARGEST_SIMILARITY = 0.6
_LINES_BEFORE = 2  # the line of settings; and lines are counted from 1


class BankTemplate(NamedTuple):
    """A template and where it came from."""

    text: str
    source: str
    """``FILE:ROW`` or a row's id."""


class Added(NamedTuple):
    """What became of templates that were offered to a bank."""

    kept: int
    duplicates: int
    """The same text, upper or lower case, is there."""
    similar: int
    """A template more similar than the threshold is there."""
    empty: int
    """Nothing but masks."""


class TemplateBank:
    """Templates of which no two are more similar than a threshold; numbers never change, so vectors can be kept.

    Args:
        largest_similarity: Greatest word-Jaccard similarity of two templates, in [0, 1); of more similar ones the
            first is kept.
        settings: Of the extraction, kept with the bank.

    Attributes:
        dropped_lines: Of the text file that it was made of: how many made no template.
    """

    def __init__(self, largest_similarity: float = LARGEST_SIMILARITY, settings: dict[str, Any] | None = None):
        if not 0 <= largest_similarity < 1:
            raise WrongInput(f"largest similarity {largest_similarity}", "bank", "at least 0, below 1")
        self.templates: list[BankTemplate] = []
        self.settings = dict(settings or {})
        self.dropped_lines = 0
        self._texts: list[str] = []
        self._near = NearDuplicates(largest_similarity)
        self._numbers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.templates)

    @property
    def largest_similarity(self) -> float:
        """The threshold."""
        return self._near.threshold

    @property
    def texts(self) -> Sequence[str]:
        """The templates themselves, by number: always the same list, which costs nothing to ask for."""
        return self._texts

    def add(self, templates: Iterable[BankTemplate]) -> Added:
        """Put in what is not there yet, in order; what is there already stays as it is, with its number."""
        offered = [BankTemplate(with_masks(text), source) for text, source in templates]
        self._near.know(template_words(template.text) for template in offered)
        kept = duplicates = similar = empty = 0
        for template in offered:
            words = template_words(template.text)
            if template.text.lower() in self._numbers:
                duplicates += 1
            elif not words:
                empty += 1
            elif self._near.closest(words) >= 0:
                similar += 1
            else:
                self._put(template)
                kept += 1
        return Added(kept, duplicates, similar, empty)

    def standing_for(self, templates: Sequence[str]) -> list[int]:
        """Of each template the number under which the bank holds it, or the one it was left out for; −1: neither.

        In training this is the template that must not be retrieved: it would tell how the true question is asked.
        """
        found = []
        for text in templates:
            written = with_masks(text)
            number = self._numbers.get(written.lower(), -1)
            found.append(number if number >= 0 else self._near.closest(template_words(written)))
        return found

    def save(self, path: str | Path) -> None:
        """Write as JSON lines: a line of settings, then a template a line. Written aside, then renamed."""
        head = {"kind": KIND, "largest_similarity": self.largest_similarity, "settings": self.settings}
        write_jsonl(Path(path), [head, *({"template": text, "source": source} for text, source in self.templates)])

    @classmethod
    def load(cls, path: str | Path) -> "TemplateBank":
        """Read what ``save`` wrote; numbers stay what they were.

        A template without a mask is one where it was made of a question, whose words are none of the passage's; in a
        file that nothing was extracted for, it is a mask forgotten.

        Raises:
            WrongInput: It is no bank, or a line of it is no template.
        """
        rows = read_rows(str(path))
        head = next(rows, None)
        if head is None or head.fields.get("kind") != KIND:
            raise WrongInput(
                "the file is no bank of templates", str(path), "give one that was saved as such, or a .txt"
            )
        bank = cls(float(head.fields.get("largest_similarity", LARGEST_SIMILARITY)), head.fields.get("settings"))
        extracted = bool(bank.settings)
        for row in rows:
            text, source = row.fields.get("template"), row.fields.get("source")
            if not isinstance(text, str) or not isinstance(source, str) or not template_words(text):
                raise WrongInput("the row is no template", row.place, 'each is {"template": …, "source": …}')
            written = with_masks(text)
            if MASK not in written and not extracted:
                raise WrongInput("the template has no mask", row.place, f"write {MASK} for its content")
            bank._put(BankTemplate(written, source))
        return bank

    def _put(self, template: BankTemplate) -> None:
        self._numbers.setdefault(template.text.lower(), len(self.templates))
        self.templates.append(template)
        self._texts.append(template.text)
        self._near.add(template_words(template.text))


def line_of(number: int) -> int:
    """On which line of a saved bank the template of that number stands, as an editor shows it."""
    return number + _LINES_BEFORE
