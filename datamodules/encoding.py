"""From conversations to token ids: the chat template applied once, checked, and cut where it must be."""

import hashlib
from dataclasses import dataclass

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from datamodules.rows import Messages
from datamodules.wrong_input import WrongInput

Prompt = str | Messages


@dataclass(frozen=True, slots=True)
class EncodedResponse:
    """Token ids of a prompt and one response to it."""

    place: str
    ids: np.ndarray
    """(L,) int32: prompt, then response, its end-of-turn token included."""
    prompt_length: int
    truncated: bool
    """The response was cut to fit ``max_length``."""

    @property
    def prompt(self) -> np.ndarray:
        """(prompt_length,) int32."""
        return self.ids[: self.prompt_length]

    @property
    def response(self) -> np.ndarray:
        """(L − prompt_length,) int32."""
        return self.ids[self.prompt_length :]

    @property
    def prompt_share(self) -> float:
        """A number in [0, 1) that depends on the prompt's tokens alone: what is held out is decided by it."""
        digest = hashlib.blake2b(self.prompt.tobytes(), digest_size=6).digest()
        return int.from_bytes(digest, "little") / 2**48


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hugging Face folder or Hub id.

    Raises:
        WrongInput: There is none, or it has no tokens, or none that ends a turn.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except Exception as error:  # the libraries below raise many kinds; the user's mend is the same
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WrongInput(
            f"no tokenizer can be loaded: {reason}", source, "name a Hugging Face model folder or a Hub id"
        ) from error
    if not tokenizer("a", add_special_tokens=False)["input_ids"]:  # made up beside a config without tokenizer files
        raise WrongInput("the tokenizer has no tokens", source, "put the tokenizer's files beside the model")
    if tokenizer.eos_token_id is None:
        raise WrongInput("the tokenizer has no end-of-turn token", source, "set eos_token in tokenizer_config.json")
    return tokenizer


def pad_id_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """What fills up a batch: the padding token, or the end-of-turn token where there is none (it is masked anyway)."""
    pad = tokenizer.pad_token_id
    return tokenizer.eos_token_id if pad is None else pad  # type: ignore[return-value]


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, place: str, max_length: int) -> list[int]:
    """Token ids that a model answers: text as it is, turns through the chat template with its opening of an answer.

    Raises:
        WrongInput: No chat template for turns, no tokens, or no room for a response below ``max_length``.
    """
    if isinstance(prompt, str):
        ids = list(tokenizer(prompt)["input_ids"])
        if ids and ids[-1] == tokenizer.eos_token_id:
            ids.pop()  # some tokenizers close every text; the answer is still to come
        if ids[:2] == [tokenizer.bos_token_id] * 2:
            ids = ids[1:]  # the text brought its own
    else:
        ids = _ids_of(tokenizer, _render(tokenizer, prompt, place, opening=True))
    if not ids:
        raise WrongInput("the prompt has no tokens", place, "drop the row or fill it in")
    if len(ids) >= max_length:
        raise WrongInput(
            f"the prompt has {len(ids)} tokens and the maximum is {max_length}, a response included",
            place,
            "raise max_length= or drop the row",
        )
    return ids


def encode_response(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    response: str,
    place: str,
    max_length: int,
    start: list[int] | None = None,
) -> EncodedResponse:
    """Token ids of prompt and response, the response ending with its end-of-turn token.

    What a template puts behind the end of the turn (Qwen's line break) is never generated, so it is cut off.

    Args:
        tokenizer: Its chat template is applied to turns.
        prompt: Text, or turns.
        response: Its text.
        place: Names the row in messages.
        max_length: Tokens of prompt and response; a longer response is cut.
        start: What ``encode_prompt`` makes of the prompt, where that is known already.

    Raises:
        WrongInput: Empty response, too long a prompt, a template whose prompt is no prefix of the conversation, or
            that ends turns with another token than the tokenizer.
    """
    start = encode_prompt(tokenizer, prompt, place, max_length) if start is None else start
    end: int = tokenizer.eos_token_id  # type: ignore[assignment]
    body = [] if not response.strip() else _body(tokenizer, prompt, start, response, place)
    while body and body[-1] == end:
        body.pop()  # the template's, or what the text brought along; one is put back
    if not body:
        raise WrongInput("the response is empty", place, "drop the row or fill it in")
    body.append(end)
    room = max_length - len(start)
    ids = np.asarray(start + body[:room], dtype=np.int32)
    return EncodedResponse(place, ids, len(start), truncated=len(body) > room)


def check_same_tokens(
    student: PreTrainedTokenizerBase,
    other: PreTrainedTokenizerBase,
    name: str,
    mend: str = "choose models of one family",
) -> None:
    """Pass if both tokenizers give the same ids to the same tokens; the student's chat template is used for both.

    Raises:
        WrongInput: They differ, with the first token in which they do.
    """
    ours, theirs = student.get_vocab(), other.get_vocab()
    if ours != theirs:
        token = min(t for t in ours.keys() | theirs.keys() if ours.get(t) != theirs.get(t))
        raise WrongInput(
            f"its tokenizer is not the student's: {token!r} is {theirs.get(token)} there and {ours.get(token)} here",
            name,
            mend,
        )
    if student.eos_token_id != other.eos_token_id:
        raise WrongInput(
            f"its turns end with {other.eos_token!r} and the student's with {student.eos_token!r}",
            name,
            "set one end-of-turn token in both tokenizers",
        )


def _body(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, start: list[int], response: str, place: str) -> list[int]:
    """Token ids of the response, up to what the template puts behind its end."""
    if isinstance(prompt, str):
        return _ids_of(tokenizer, response)
    end: int = tokenizer.eos_token_id  # type: ignore[assignment]
    text = _render(tokenizer, [*prompt, {"role": "assistant", "content": response}], place, opening=False)
    opening = _render(tokenizer, prompt, place, opening=True)
    if not text.startswith(opening):
        raise WrongInput(
            "the chat template of the prompt is no prefix of that of prompt and response",
            place,
            "use a template that only appends (no stripping or rewriting of earlier turns)",
        )
    ids = _ids_of(tokenizer, text)
    # A response that begins with a line break may melt into the template's: the prompt's tokens stay as they are.
    body = ids[len(start) :] if ids[: len(start)] == start else _ids_of(tokenizer, text[len(opening) :])
    if end in body:
        return body[: len(body) - body[::-1].index(end)]
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    if other := [token for token in body if token in special]:
        raise WrongInput(
            f"the chat template ends turns with {tokenizer.decode(other[-1:])!r} and the tokenizer"
            f" with {tokenizer.eos_token!r}",
            place,
            "set eos_token in tokenizer_config.json to the template's",
        )
    return body


def _render(tokenizer: PreTrainedTokenizerBase, turns: Messages, place: str, *, opening: bool) -> str:
    if tokenizer.chat_template is None:
        raise WrongInput("the tokenizer has no chat template", place, "give text prompts, or a chat model")
    try:
        return str(tokenizer.apply_chat_template(turns, add_generation_prompt=opening, tokenize=False))
    except Exception as error:  # Jinja templates raise their own kinds
        raise WrongInput(f"the chat template refuses this conversation: {error}", place, "mend the turns") from error


def _ids_of(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
