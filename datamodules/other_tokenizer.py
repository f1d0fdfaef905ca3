"""Texts in the tokens of a teacher whose tokenizer is not the student's.

What is scored then is the same text, not the same tokens: the teacher's log-probability of its own tokenisation of the
response, after the prompt as its own chat template writes it, summed over its own tokens. That is a lower bound of its
log-probability of the text (other tokenisations of it have some, too), and exactly the shared path's number where the
two tokenizers are one. The end of the turn is each tokenizer's own token, counted once on either side.
"""

import logging
from collections.abc import Iterable
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from datamodules.encoding import (
    EncodedResponse,
    Prompt,
    check_same_tokens,
    encode_prompt,
    encode_response,
    load_tokenizer,
)
from datamodules.wrong_input import WrongInput

log = logging.getLogger(__name__)
SHARED_MEND = "choose models of one family, or set teacher_tokenizer= to let the teacher read texts in its own tokens"
HALF_A_CHARACTER = "\ufffd"


def own_tokenizers(**sources: str | None) -> dict[str, PreTrainedTokenizerBase]:
    """The tokenizers of those models that have one of their own, by the models' names; None: the student's.

    Raises:
        WrongInput: See ``load_tokenizer``.
    """
    return {name: load_tokenizer(source) for name, source in sources.items() if source is not None}


def check_teacher(
    teacher: str, tokenizer: str, teacher_tokenizer: str | None, mode: str, output_dir: str | Path
) -> None:
    """Pass if the teacher can score what the student writes; called before any stage runs.

    Tokenizers that are not here yet (an earlier stage leaves them) pass; on the Hub only live mode looks, which would
    not find out later.

    Args:
        teacher: Model folder or Hub id.
        tokenizer: The student's.
        teacher_tokenizer: The teacher's own, or None where it shares the student's.
        mode: ``cached`` or ``live``.
        output_dir: Of the run, whose stages may still make models.

    Raises:
        WrongInput: Two vocabularies and no ``teacher_tokenizer``, or one in live mode, whose batches hold the student's
            tokens only.
    """
    if teacher_tokenizer is not None:
        if mode == "live":
            raise WrongInput(
                "live mode reads the student's tokens, and the teacher has a tokenizer of its own",
                "mode, teacher_tokenizer",
                "set mode=cached",
            )
        return
    sources = tokenizer, teacher
    here = all(Path(source).is_dir() for source in sources)
    to_come = any(Path(source).is_relative_to(output_dir) for source in sources)
    if here or (mode == "live" and not to_come):
        ours, theirs = (load_tokenizer(source) for source in sources)
        check_same_tokens(ours, theirs, f"the teacher, {teacher}", SHARED_MEND)


def check_belongs(tokenizer: PreTrainedTokenizerBase, teacher: str) -> None:
    """Pass if a given tokenizer has the vocabulary of the teacher's own, or the teacher's folder holds none.

    Raises:
        WrongInput: They differ: every score would be of other tokens than the teacher was trained on.
    """
    try:
        theirs = load_tokenizer(teacher)
    except WrongInput:
        return
    if theirs.get_vocab() != tokenizer.get_vocab():
        raise WrongInput(
            f"it is not the tokenizer of the teacher {teacher}", "teacher_tokenizer", f"set teacher_tokenizer={teacher}"
        )


def in_other_tokens(
    other: PreTrainedTokenizerBase,
    prompt: Prompt,
    response: str,
    ours: EncodedResponse,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> EncodedResponse:
    """The text of an encoded response in another tokenizer's tokens, ``truncated`` where more had to be cut.

    Of a response that was cut under the student's tokenizer the teacher reads what is left, and like it without an end.

    Args:
        other: The teacher's tokenizer; its chat template is applied to turns.
        prompt: Text, or turns.
        response: The whole text.
        ours: What became of it under the student's tokenizer.
        tokenizer: The student's.
        max_length: Of the teacher's tokens, prompt and response.

    Raises:
        WrongInput: See ``encode_response``; or characters that are left of a cut response cannot be told.
    """
    place = f"{ours.place}, in the teacher's tokens"
    start = encode_prompt(other, prompt, place, max_length)
    if not ours.truncated:
        return encode_response(other, prompt, response, place, max_length, start)
    text = _left_of(response, tokenizer, ours)
    encoded = encode_response(other, prompt, text, place, max_length + 1, start)  # with room for the end to take off
    ids = encoded.ids[:max_length] if encoded.truncated else encoded.ids[:-1]
    return EncodedResponse(place, ids, encoded.prompt_length, encoded.truncated)


def tell_of_other_tokens(pairs: Iterable[tuple[EncodedResponse, EncodedResponse]]) -> dict[str, float]:
    """What the teacher's tokens make of the responses: said, and as final metrics.

    ``teacher_truncated`` counts those of which the teacher scores less text than the student is trained on.

    Args:
        pairs: Each response in the student's tokens and in the teacher's.
    """
    count = ours = theirs = cut = 0
    for one, other in pairs:
        count, cut = count + 1, cut + other.truncated
        ours, theirs = ours + len(one.response), theirs + len(other.response)
    ratio = theirs / ours
    log.info(
        "the teacher scores the same texts in its own tokens (%.2f for each of the student's), under its own template:"
        " an approximation, see datamodules/other_tokenizer.py",
        ratio,
    )
    if cut:
        what = "%d of %d responses are cut in the teacher's tokens: it scores less of their text; raise max_length="
        log.warning(what, cut, count)
    return {"teacher_truncated": cut, "teacher_tokens_ratio": ratio}


def _left_of(response: str, tokenizer: PreTrainedTokenizerBase, ours: EncodedResponse) -> str:
    """The beginning of the text that the kept tokens stand for."""
    kept = str(tokenizer.decode(ours.response.tolist(), clean_up_tokenization_spaces=False)).rstrip(HALF_A_CHARACTER)
    indent = len(response) - len(response.lstrip())  # which some tokenizers and templates drop
    for start in {0, indent}:
        if kept.strip() and response.startswith(kept, start):
            return response[: start + len(kept)]
    raise WrongInput(
        "the response is cut, and its tokens do not tell at which character",
        ours.place,
        "raise max_length= so that it need not be cut, or drop the row",
    )
