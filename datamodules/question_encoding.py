"""From passages, templates and questions to the token ids of encoder-decoder models.

========== ====================================================
passage    ``left <hl> answer <hl> right </s>``
styled     ``left <hl> answer <hl> right <sep> template </s>``
qa         ``passage <sep> question </s>``
========== ====================================================

What is too long loses tokens at the outer ends of the passage, so that the answer keeps its surroundings. The answer,
the template and the question are never cut.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from datamodules.batches import Example
from datamodules.question_tokens import HIGHLIGHT, SEPARATOR, check_question_tokens
from datamodules.templates.words import with_masks
from datamodules.wrong_input import WrongInput

KNOWN_TEXTS = 4096
"""How many texts an encoder remembers the ids of."""


class Source(NamedTuple):
    """Token ids of an encoder's input."""

    ids: list[int]
    cut: int
    """Tokens of the passage that found no room."""


class QuestionEncoder:
    """Writes the inputs and targets of all stages with one tokenizer.

    Args:
        tokenizer: Knows ``QUESTION_TOKENS``, an end of text and padding.
        max_length: Most tokens of an input, the end of text included.

    Attributes:
        pad_id: Fills up a batch; the first token of every decoder's input, too.

    Raises:
        WrongInput: The tokenizer lacks one of them.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int):
        check_question_tokens(tokenizer)
        self.tokenizer, self.max_length = tokenizer, max_length
        vocabulary = tokenizer.get_vocab()
        self._highlight, self._separator = vocabulary[HIGHLIGHT], vocabulary[SEPARATOR]
        self._end, self.pad_id = vocabulary[str(tokenizer.eos_token)], vocabulary[str(tokenizer.pad_token)]
        self._reserved = (self._end, self.pad_id)
        self._known: dict[str, tuple[int, ...]] = {}

    def passage(self, example: Example) -> list[int]:
        """The passage with its answer marked.

        Raises:
            WrongInput: The answer alone is longer than ``max_length``.
        """
        return self.marked(example).ids

    def styled(self, example: Example, template: str) -> list[int]:
        """The marked passage and a template; the marked passage alone where the template is empty.

        Raises:
            WrongInput: Answer and template together are longer than ``max_length``.
        """
        return self.marked(example, template).ids

    def qa(self, context: str, question: str, answer_span: tuple[int, int] | None = None) -> list[int]:
        """The passage, unmarked, and a question about it.

        Args:
            context: The passage.
            question: The question.
            answer_span: Offsets of the characters that a cut passage is to keep and to be cut around; None keeps the
                passage's beginning.

        Raises:
            WrongInput: The question, with what the span holds, is longer than ``max_length``.
        """
        return self.asked(context, question, answer_span).ids

    def marked(self, example: Example, template: str = "") -> Source:
        """As ``styled``, with the number of tokens that were cut."""
        start, end = example.answer_start, example.answer_start + len(example.answer)
        answer = [self._highlight, *self._text(f" {example.context[start:end]}"), self._highlight]
        written = with_masks(template)
        tail = [self._separator, *self._ids(written)] if written else []
        return self._fitted(example.context, (start, end), answer, [*tail, self._end], example.id)

    def asked(self, context: str, question: str, answer_span: tuple[int, int] | None = None, place: str = "") -> Source:
        """As ``qa``, with the number of tokens that were cut; ``place`` names the row in messages."""
        start, end = answer_span or (0, 0)
        tail = [self._separator, *self._text(question), self._end]
        return self._fitted(context, (start, end), self._text(f" {context[start:end]}"), tail, place or question)

    def target(self, text: str, max_length: int) -> Source:
        """A question or an answer to be written, cut at its end where it is too long; it always ends."""
        ids = self._text(text)
        kept = ids[: max_length - 1]
        return Source([*kept, self._end], len(ids) - len(kept))

    def _fitted(self, context: str, span: tuple[int, int], kept: Sequence[int], tail: list[int], place: str) -> Source:
        """``left kept right tail``, of which left and right give way, the longer of them first."""
        room = self.max_length - len(kept) - len(tail)
        if room < 0:
            raise WrongInput(
                f"what must not be cut has {len(kept) + len(tail)} tokens and the maximum is {self.max_length}",
                place,
                "raise max_length= or drop the row",
            )
        left, right = self._text(context[: span[0]].rstrip()), self._text(context[span[1] :])
        from_left = min(len(left), max(room // 2, room - len(right)))
        from_right = min(len(right), room - from_left)
        ids = [*left[len(left) - from_left :], *kept, *right[:from_right], *tail]
        return Source(ids, len(left) + len(right) - from_left - from_right)

    def _text(self, text: str) -> tuple[int, ...]:
        """Ids of text that was written by others: what looks like a special token in it is no special token.

        Many inputs are made of one passage, one after the other: what was read lately is not read again.
        """
        known = self._known.get(text)
        if known is None:
            ids = self._ids(text, special=False) if text.strip() else []
            known = tuple(token for token in ids if token not in self._reserved)
            if len(self._known) >= KNOWN_TEXTS:
                self._known.clear()
            self._known[text] = known
        return known

    def _ids(self, text: str, special: bool = True) -> list[int]:
        settings: dict[str, Any] = {"add_special_tokens": False, "split_special_tokens": not special, "verbose": False}
        return list(self.tokenizer(text, **settings)["input_ids"])
