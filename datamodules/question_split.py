"""A file of questions in two parts, by passage: to learn from, and to be tested on."""

from collections.abc import Iterator
from typing import Any, Literal

from datamodules.digest import text_share
from datamodules.pairs import RowSource
from datamodules.question_rows import read_examples
from datamodules.wrong_input import WrongInput


def part_of(data: RowSource, part: Literal["train", "test"], test_share: float) -> Iterator[dict[str, Any]]:
    """The rows of one part; all questions on a passage are in the same one, whatever order the rows come in.

    Development passages are taken from the other end (see ``QuestionData``), so the three parts are disjoint as long as
    the two shares sum to less than 1.

    Args:
        data: See ``question_rows``.
        part: Which.
        test_share: Share of the passages that are tested on.

    Raises:
        WrongInput: No such part or share, or no row in it.
    """
    if part not in ("train", "test") or not 0 <= test_share < 1:
        raise WrongInput(f"part {part!r} with a share of {test_share}", "test_share", "at least 0, below 1")
    kept = 0
    for example in read_examples(data).examples:
        if (text_share(example.context) >= 1 - test_share) == (part == "test"):
            kept += 1
            yield example._asdict()
    if not kept:
        raise WrongInput(
            f"no passage falls into the {part} part", f"test_share {test_share}", "give eval_data=, or another share"
        )
