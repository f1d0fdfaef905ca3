"""One request, one answer, over OpenAI's completions protocol; what goes wrong is told in one line."""

import os
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from datamodules.wrong_input import WrongInput

_KEPT = "what was scored so far is kept; start again"
_SHOWN = 300  # characters of a server's own words in a message


def check_address(url: object) -> str:
    """The address with the path that such servers have: ``http://HOST:PORT`` becomes ``http://HOST:PORT/v1``.

    Raises:
        WrongInput: No address, or one that holds credentials, which would stand in configs and logs.
    """
    where, mend = "teacher_endpoint.url", "give e.g. teacher_endpoint.url=http://127.0.0.1:8000"
    try:
        address = urlsplit(str(url or ""))
        address.port  # noqa: B018 - raises on one that is no number
    except ValueError as error:
        raise WrongInput(f"no address: {error}", where, mend) from None
    if address.username or address.password:
        raise WrongInput("the address holds credentials", where, "put the key in the environment instead")
    if address.scheme not in ("http", "https") or not address.hostname or address.query or address.fragment:
        raise WrongInput(f"no address of a server: {url!r}", where, mend)
    return f"{address.scheme}://{address.netloc}{address.path.rstrip('/') or '/v1'}"


class CompletionsEndpoint:
    """A client that threads share.

    The key is read when the client is made, kept nowhere else, and struck out of whatever the server echoes.

    Args:
        url: Of the server; see ``check_address``.
        model: The model's name there.
        api_key_env: Name of the environment variable with the key; may be unset.
        max_retries: Of a request that met a busy or failing server, with growing pauses (the client's own).
        timeout_s: Seconds until an unanswered request counts as failed.

    Raises:
        WrongInput: The package ``openai`` is missing, or there is no such address.
    """

    def __init__(self, url: str, model: str, *, api_key_env: str, max_retries: int, timeout_s: float):
        try:
            import openai  # an extra, and slow to import: only a run that asks needs it
        except ImportError as absent:
            mend = "pip install 'smoothtalk[judge]'"
            raise WrongInput("a served teacher needs the package `openai`", "teacher_scorer", mend) from absent
        key = os.environ.get(api_key_env, "").strip()
        address = check_address(url)
        self.model, self.api_key_env, self.where = model, api_key_env, f"teacher {model} at {address}"
        self.errors = openai
        settings: dict[str, Any] = {"max_retries": max_retries, "timeout": timeout_s}
        self.client = openai.OpenAI(api_key=key or "none", base_url=address, **settings)
        self._strike: Callable[[str], str] = lambda text: text.replace(key, "***") if key else text

    def complete(self, ids: list[int], fields: Mapping[str, Any]) -> object:
        """The server's JSON to a prompt of token ids.

        Args:
            ids: The prompt.
            fields: What else goes into the request.

        Raises:
            WrongInput: The server is not there, refuses the request, the key or the model, keeps failing after all
                retries, or does not speak the protocol.
        """
        body = {"model": self.model, "prompt": ids, **fields}
        try:
            answer = self.client.post("/completions", cast_to=object, body=body)
        except self.errors.APIStatusError as refused:
            raise self._told(
                refused.status_code, str(refused.message), len(ids)
            ) from None  # its chain may quote the key
        except self.errors.APIConnectionError as unreached:
            reason = self._strike(str(unreached.__cause__ or unreached))
            what = f"the teacher's server does not answer ({reason})"
            raise WrongInput(
                what, self.where, f"see that it runs and that teacher_endpoint.url is right; {_KEPT}"
            ) from None
        except ValueError:  # no JSON
            raise self._foreign() from None
        if not isinstance(answer, Mapping):  # a web page, which the client hands on as text
            raise self._foreign()
        return answer

    def unreadable(self, reason: str) -> WrongInput:
        """An answer that gives no score."""
        mend = "see that it serves this very model and tokenizer, and teacher_endpoint.protocol (prompt_logprobs, echo)"
        return WrongInput(f"the teacher's server cannot be taken at its word: {self._strike(reason)}", self.where, mend)

    def _told(self, status: int, message: str, tokens: int) -> WrongInput:
        """What a refusal means for the user."""
        said = self._strike(" ".join(message.split()))[:_SHOWN]
        if status in (400, 413, 422):
            mend = f"lower max_length= below its window, or see its settings; {_KEPT}"
            return WrongInput(f"the teacher's server refuses {tokens} tokens: {said}", self.where, mend)
        if status in (401, 403):
            mend = f"put a valid key in the environment variable {self.api_key_env}"
            return WrongInput(f"the teacher's server refuses the API key (status {status})", self.where, mend)
        if status == 404:
            mend = "mend teacher_endpoint.model or teacher_endpoint.url"
            return WrongInput(f"the teacher's server knows no such model or address: {said}", self.where, mend)
        what = f"the teacher's server keeps failing after all retries (status {status}): {said}"
        return WrongInput(what, self.where, f"{_KEPT} later")

    def _foreign(self) -> WrongInput:
        mend = "mend teacher_endpoint.url; it usually ends in /v1"
        return WrongInput("the teacher's server does not speak OpenAI's completions protocol", self.where, mend)
