"""From passages, templates and questions to the token ids of encoder-decoder models.

========== ====================================================
passage    ``left <hl> answer <hl> right </s>``
styled     ``left <hl> answer <hl> right <sep> template </s>``
qa         ``passage <sep> question </s>``
========== ====================================================

What is too long loses tokens at the outer ends of the passage, so that the answer keeps its surroundings: a marked
passage is cut evenly around its answer; one that a question is asked about is cut so that the answer stands anywhere.
The answer, the template and the question are never cut.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from datamodules.batches import Example
from datamodules.digest import text_share
from datamodules.question_tokens import HIGHLIGHT, SEPARATOR, check_question_tokens
from datamodules.templates.words import MASK, with_masks
from datamodules.wrong_input import WrongInput

KNOWN_TEXTS = 4096
"""How many texts an encoder remembers the ids of, and how many answers the places of."""
_AS_TEXT: dict[str, Any] = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}


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
        if not tokenizer.is_fast:
            raise WrongInput(
                f"a {type(tokenizer).__name__} does not say where its tokens stand in a text",
                f"tokenizer {tokenizer.name_or_path}".strip(),
                "use a fast tokenizer, one with a tokenizer.json",
            )
        self.tokenizer, self.max_length = tokenizer, max_length
        vocabulary = tokenizer.get_vocab()
        self._highlight, self._separator = vocabulary[HIGHLIGHT], vocabulary[SEPARATOR]
        self._end, self.pad_id = vocabulary[str(tokenizer.eos_token)], vocabulary[str(tokenizer.pad_token)]
        self._reserved = (self._end, self.pad_id)
        self._mask = vocabulary[MASK]
        allowed = (MASK, str(tokenizer.unk_token))  # any strange letter is unknown
        added: dict[int, Any] = tokenizer.added_tokens_decoder
        self._no_template = frozenset(n for n, token in added.items() if token.special and str(token) not in allowed)
        self._known: dict[str, tuple[int, ...]] = {}
        self._places: dict[tuple[str, tuple[int, int]], tuple[int, int]] = {}

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
            answer_span: Offsets of the characters that a cut passage is to keep, and that it tells nothing else about;
                None keeps the passage's beginning.

        Raises:
            WrongInput: The question, with what the span holds, is longer than ``max_length``.
        """
        return self.asked(context, question, answer_span).ids

    def marked(self, example: Example, template: str = "") -> Source:
        """As ``styled``, with the number of tokens that were cut."""
        start, end = example.answer_start, example.answer_start + len(example.answer)
        answer = [self._highlight, *self._text(f" {example.context[start:end]}"), self._highlight]
        written = with_masks(template)
        tail = [self._separator, *self._template(written)] if written else []
        return self._fitted(example.context, (start, end), answer, [*tail, self._end], example.id)

    def asked(self, context: str, question: str, answer_span: tuple[int, int] | None = None, place: str = "") -> Source:
        """As ``qa``, with the number of tokens that were cut; ``place`` names the row in messages.

        Nothing but the words tells where the answer is. The passage is tokenised as a whole: a piece that begins at
        the span would be spelt as the beginning of a text ("▁," for ","). And a passage that is cut has the answer
        anywhere, by a number drawn from the passage, for the middle of the input would give it away.
        """
        passage, tail = self._text(context), [self._separator, *self._text(question), self._end]
        room = self.max_length - len(tail)
        if len(passage) <= room:
            return Source([*passage, *tail], 0)
        first, last = self._tokens_within(context, answer_span) if answer_span else (0, 0)
        self._check_room(last - first + len(tail), place or question)
        earliest, latest = max(0, last - room), min(first, len(passage) - room)
        start = earliest + int(text_share(f"{first} {context}") * (latest - earliest + 1))
        return Source([*passage[start : start + room], *tail], len(passage) - room)

    def target(self, text: str, max_length: int) -> Source:
        """A question or an answer to be written, cut at its end where it is too long; it always ends."""
        ids = self._text(text)
        kept = ids[: max_length - 1]
        return Source([*kept, self._end], len(ids) - len(kept))

    def _fitted(self, context: str, span: tuple[int, int], kept: Sequence[int], tail: list[int], place: str) -> Source:
        """``left kept right tail``, of which left and right give way, the longer of them first."""
        self._check_room(len(kept) + len(tail), place)
        room = self.max_length - len(kept) - len(tail)
        left, right = self._text(context[: span[0]].rstrip()), self._text(context[span[1] :])
        from_left = min(len(left), max(room // 2, room - len(right)))
        from_right = min(len(right), room - from_left)
        ids = [*left[len(left) - from_left :], *kept, *right[:from_right], *tail]
        return Source(ids, len(left) + len(right) - from_left - from_right)

    def _check_room(self, tokens: int, place: str) -> None:
        if tokens > self.max_length:
            raise WrongInput(
                f"what must not be cut has {tokens} tokens and the maximum is {self.max_length}",
                place,
                "raise max_length= or drop the row",
            )

    def _tokens_within(self, text: str, span: tuple[int, int]) -> tuple[int, int]:
        """Which of the text's tokens have a part in the span: the first of them, and the one behind the last."""
        return _remembered(self._places, (text, span), lambda: self._look_for(text, span))

    def _look_for(self, text: str, span: tuple[int, int]) -> tuple[int, int]:
        written = self.tokenizer(text, **_AS_TEXT, return_offsets_mapping=True)
        offsets = [
            place
            for token, place in zip(written["input_ids"], written["offset_mapping"], strict=True)
            if token not in self._reserved
        ]
        within = [n for n, (start, end) in enumerate(offsets) if start < span[1] and end > span[0]]
        return (within[0], within[-1] + 1) if within else (0, 0)

    def _template(self, written: str) -> list[int]:
        """Ids of a template, in which only a mask is special: users write templates too, and what they like."""
        ids = self._ids(written)
        if self._no_template.isdisjoint(ids):
            return ids
        first, *others = (self._text(piece) for piece in written.split(MASK))
        return [*first, *(token for piece in others for token in (self._mask, *piece))]

    def _text(self, text: str) -> tuple[int, ...]:
        """Ids of text that was written by others: what looks like a special token in it is no special token.

        Many inputs are made of one passage, one after the other: what was read lately is not read again.
        """
        return _remembered(self._known, text, lambda: self._read(text))

    def _read(self, text: str) -> tuple[int, ...]:
        ids = self._ids(text, special=False) if text.strip() else []
        return tuple(token for token in ids if token not in self._reserved)

    def _ids(self, text: str, special: bool = True) -> list[int]:
        how: dict[str, Any] = _AS_TEXT | {"split_special_tokens": not special}
        return list(self.tokenizer(text, **how)["input_ids"])


def _remembered(table: dict[Any, Any], key: Any, make: Callable[[], Any]) -> Any:
    if key not in table:
        if len(table) >= KNOWN_TEXTS:
            table.clear()
        table[key] = make()
    return table[key]
