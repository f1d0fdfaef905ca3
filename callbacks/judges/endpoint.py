"""One question, one reply, over OpenAI's chat protocol; what goes wrong is told in one line."""

import os
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from datamodules.wrong_input import WrongInput

_KEPT = "what was judged so far is kept; start again"
_SHOWN = 300  # characters of an endpoint's own words in a message


class QuestionRefused(Exception):
    """The endpoint works but will not take this one question, e.g. because it is too long for the model."""


def client_and_key(base_url: str | None, api_key_env: str) -> tuple[Any, str]:
    """The package ``openai`` and the key, empty where an endpoint of one's own may do without.

    Raises:
        WrongInput: The package or the key is missing.
    """
    try:
        import openai  # an extra, and slow to import: only a run that asks needs it
    except ImportError as absent:
        mend = "pip install 'smoothtalk[judge]'"
        raise WrongInput("the openai judge needs the package `openai`", "judge", mend) from absent
    key = os.environ.get(api_key_env, "").strip()
    if not key and base_url is None:
        mend = "set it, or the judge's `base_url` to an endpoint that needs none"
        raise WrongInput("the judge has no API key", f"environment variable {api_key_env}", mend)
    return openai, key


class ChatEndpoint:
    """A client that the threads of a judge share.

    The key is read when the client is made, kept nowhere else, and struck out of whatever the endpoint echoes.

    Args:
        model: The model's name at the endpoint.
        base_url: The endpoint, e.g. ``http://localhost:8000/v1``; None is OpenAI's own.
        api_key_env: Name of the environment variable with the key; may be unset where ``base_url`` is given.
        options: What else goes into each request.
        max_retries: Of a request that met a busy or failing endpoint, with growing pauses (the client's own).
        timeout_s: Seconds until an unanswered request counts as failed.

    Raises:
        WrongInput: Where the package ``openai`` or the key is missing.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None,
        api_key_env: str,
        options: Mapping[str, Any],
        max_retries: int,
        timeout_s: float,
    ):
        openai, key = client_and_key(base_url, api_key_env)
        self.model, self.options, self.api_key_env = model, dict(options), api_key_env
        self.errors = openai
        self.client = openai.OpenAI(
            api_key=key or "none", base_url=base_url, max_retries=max_retries, timeout=timeout_s
        )
        address = urlsplit(str(self.client.base_url))
        self.where = f"judge {model} at {address.hostname}{f':{address.port}' if address.port else ''}{address.path}"
        self._strike: Callable[[str], str] = lambda text: text.replace(key, "***") if key else text

    def ask(self, question: str) -> str:
        """The model's words, empty where it gave none.

        Raises:
            QuestionRefused: Where only this question is refused (status 400, 413 or 422).
            WrongInput: Where the endpoint is not there, refuses the key or the model, keeps failing after all retries,
                or does not speak the protocol.
        """
        try:
            answer = self.client.chat.completions.create(
                model=self.model, messages=[{"role": "user", "content": question}], **self.options
            )
        except self.errors.APIStatusError as refused:
            raise self._told(refused.status_code, str(refused.message)) from None  # its chain may quote the key
        except self.errors.APIConnectionError as unreached:
            what = f"the judge's endpoint does not answer ({unreached.__cause__ or unreached})"
            raise WrongInput(what, self.where, f"see that it runs and that `base_url` is right; {_KEPT}") from unreached
        except ValueError as garbled:  # no JSON
            raise self._foreign() from garbled
        if not hasattr(answer, "choices"):  # a web page, which the client hands on as text
            raise self._foreign()
        return (answer.choices[0].message.content or "") if answer.choices else ""

    def _told(self, status: int, message: str) -> Exception:
        """What a refusal means for the user."""
        said = self._strike(" ".join(message.split()))[:_SHOWN]
        if status in (400, 413, 422):
            return QuestionRefused(said)
        if status in (401, 403):
            mend = f"put a valid key in the environment variable {self.api_key_env}"
            return WrongInput(f"the judge's endpoint refuses the API key (status {status})", self.where, mend)
        if status == 404:
            mend = "mend the judge's `model` or `base_url`"
            return WrongInput(f"the judge's endpoint knows no such model or address: {said}", self.where, mend)
        return WrongInput(f"the judge's endpoint keeps failing after all retries: {said}", self.where, f"{_KEPT} later")

    def _foreign(self) -> WrongInput:
        """An endpoint that answers something else."""
        mend = "mend the judge's `base_url`; it usually ends in /v1"
        return WrongInput("the judge's endpoint does not speak OpenAI's chat protocol", self.where, mend)
