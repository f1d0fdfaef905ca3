"""A server of OpenAI's streaming chat protocol, looked at before and while it is under load."""

from __future__ import annotations

import http.client
import ipaddress
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from datamodules.wrong_input import WrongInput

_LIST_TIMEOUT_S = 10.0
_LOOK_TIMEOUT_S = 2.0
_SHOWN = 300  # characters of a server's own words in a message


class _NoRedirects(HTTPRedirectHandler):
    """A server on loopback must not send the load elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        """Follow none: the redirect then counts as an error status."""


class Endpoint:
    """One server.

    Args:
        url: ``http://HOST[:PORT]``, with or without ``/v1`` behind it.
        key: Sent as bearer token; empty for none. It is struck out of whatever the server says.
        allow_remote: Whether the server may be on another machine.
        timeout_s: Seconds that the first answer may keep still; servers that load their model only then need many.

    Raises:
        WrongInput: No such kind of address, or one of another machine.
    """

    def __init__(self, url: str, key: str = "", *, allow_remote: bool = False, timeout_s: float = 120.0):
        address = _address(url)
        self.host = str(address.hostname)
        self.port = address.port or {"http": 80, "https": 443}[address.scheme]
        self.url = f"{address.scheme}://{address.netloc}{address.path.rstrip('/').removesuffix('/v1')}"
        if not allow_remote and not _is_loopback(self.host):
            mend = "allow_remote=true if that server is yours to put under load"
            raise WrongInput(f"{self.host} is another machine", "url", mend)
        self.timeout_s = timeout_s
        self._key = key
        self._opener = (
            build_opener(ProxyHandler({}), _NoRedirects) if _is_loopback(self.host) else build_opener(_NoRedirects)
        )

    def strike(self, text: str) -> str:
        """The text without the key."""
        return text.replace(self._key, "***") if self._key else text

    def listening(self) -> bool:
        """Whether somebody listens at the address. Only a refusal says no: a busy server may keep still."""
        try:
            socket.create_connection((self.host, self.port), _LOOK_TIMEOUT_S).close()
        except ConnectionRefusedError:
            return False
        except OSError:
            return True
        return True

    def models(self) -> list[str] | None:
        """Names of the models that the server lists, None where it is there but has no such list.

        Raises:
            WrongInput: No server answers, or it refuses the key.
        """
        try:
            with self._answer("/v1/models", None, _LIST_TIMEOUT_S) as answer:
                return [str(model["id"]) for model in json.loads(answer.read())["data"]]
        except HTTPError as refused:
            if refused.code in (401, 403):
                raise self._refusal(refused, "") from None
            return None
        except (ValueError, LookupError, TypeError):
            return None

    def check(self, body: dict[str, Any]) -> None:
        """See that one request is answered by a stream.

        Args:
            body: Of the request, as all of them will be.

        Raises:
            WrongInput: The request is refused or breaks off, or the answer is no stream of chat chunks.
        """
        chunks = 0
        try:
            with self._answer("/v1/chat/completions", body, self.timeout_s) as answer:
                for line in answer:
                    chunks += self._is_chunk(line)
        except HTTPError as refused:
            raise self._refusal(refused, str(body.get("model"))) from None
        if not chunks:
            mend = "mend url=; the server has to stream at /v1/chat/completions"
            raise WrongInput("the answer is no stream of chat chunks", self.url, mend)

    @contextmanager
    def _answer(self, path: str, body: dict[str, Any] | None, timeout_s: float) -> Iterator[http.client.HTTPResponse]:
        """The answer to a request; HTTPError for a status that is an error."""
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = None if body is None else json.dumps(body).encode()
        try:
            with self._opener.open(Request(self.url + path, data, headers), timeout=timeout_s) as answer:
                yield answer
        except HTTPError:
            raise
        except (URLError, OSError, http.client.HTTPException) as broken:
            reason = self.strike(str(getattr(broken, "reason", None) or broken or type(broken).__name__))
            if isinstance(broken, URLError | ConnectionRefusedError) and not isinstance(broken, TimeoutError):
                raise WrongInput(f"no server answers: {reason}", self.url, "start it, or mend url=") from None
            mend = "see the server's own log; a model that loads slowly: probe_timeout_s="
            raise WrongInput(f"the server broke off or kept still: {reason}", self.url, mend) from None

    def _is_chunk(self, line: bytes) -> bool:
        """Whether a line of the stream is a chunk of an answer."""
        text = line.decode("utf-8", "replace").strip()
        try:
            event = json.loads(text.removeprefix("data:")) if text.startswith("data:") else None
        except ValueError:  # [DONE]
            return False
        if isinstance(event, dict) and event.get("error"):
            said = self.strike(json.dumps(event["error"]))[:_SHOWN]
            raise WrongInput(f"the server answers with an error: {said}", self.url, "see the server's own log")
        return isinstance(event, dict) and "choices" in event

    def _refusal(self, refused: HTTPError, model: str) -> WrongInput:
        """What a status means for the user."""
        said = self.strike(" ".join(refused.read(4096).decode("utf-8", "replace").split()))[:_SHOWN]
        status = f"status {refused.code}{f': {said}' if said else ''}"
        if refused.code in (401, 403):
            mend = "put a valid key in the environment variable that api_key_env= names"
            return WrongInput(f"the server refuses the API key ({status})", self.url, mend)
        if 300 <= refused.code < 400:
            where = f"to {refused.headers.get('Location')}"
            return WrongInput(f"the server sends requests elsewhere, {where}", self.url, "give that address as url=")
        if refused.code >= 500:
            return WrongInput(f"the server fails ({status})", self.url, "see the server's own log")
        known = self.models()
        mend = "mend model_name=, or what is sent: +request.FIELD=VALUE adds a field, null leaves one out"
        if known and model not in known:
            mend = f"model_name= may be one of {', '.join(known[:8])}; {mend.partition(', or ')[2]}"
        return WrongInput(f"the server refuses a request to {model} ({status})", self.url, mend)


def _address(url: str) -> SplitResult:
    """The parts of an address that load can be sent to."""
    mend = "give e.g. url=http://127.0.0.1:8000"
    try:
        address = urlsplit(url)
        address.port  # noqa: B018 - raises on one that is no number
    except ValueError as error:
        raise WrongInput(f"no address: {error}", "url", mend) from None
    if address.username or address.password:
        raise WrongInput("the address holds credentials", "url", "put the key in the environment instead")
    if address.scheme not in ("http", "https") or not address.hostname or address.query or address.fragment:
        raise WrongInput(f"no address of a server: {url!r}", "url", mend)
    return address


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
