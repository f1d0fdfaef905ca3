"""One ``vllm serve`` on loopback, from its start to its end."""

import http.client
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from datamodules.wrong_input import WrongInput
from lightning_modules.vllm import guard
from lightning_modules.vllm.settings import VLLMSettings

TICK_S = 0.2
LOOK_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 3600.0
"""Until a request without an answer counts as lost."""
_ATTEMPTS = 3
_SHOWN = 300  # characters of vLLM's own words in a message
_RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
_COMPLAINT = re.compile(r"\b(?:\w*(?:Error|Exception)|error): \S.*")
_NO_REASON = "Engine core initialization failed"
_KEPT = "what it answered so far is kept; start again"


class VLLMServer:
    """A running server. It ends with ``close``, and with this process, however that ends (``guard``).

    Args:
        settings: How it is started.
        model: Folder or Hub id.
        tokenizer: Its folder.
        dtype: Of the forward passes.
        window: Tokens of prompt and answer, at most.
        log: Gets what it says, behind what is there.

    Raises:
        OSError: The log cannot be written.
    """

    def __init__(self, settings: VLLMSettings, model: str, tokenizer: Path, dtype: str, window: int, log: Path):
        self.startup_s, self.log = settings.startup_s, log
        self.name, key, port = f"smoothtalk-{secrets.token_hex(4)}", secrets.token_hex(16), _free_port()
        self.url, self.headers = f"http://127.0.0.1:{port}", {"Authorization": f"Bearer {key}"}
        self._opener = build_opener(ProxyHandler({}))  # loopback needs no proxy, whatever the environment says
        told = {
            "--host": "127.0.0.1",
            "--port": port,
            "--served-model-name": self.name,  # so that no other server can be taken for it
            "--tokenizer": tokenizer,
            "--dtype": dtype,
            "--max-model-len": window,
            "--generation-config": "vllm",  # what is not asked for is off, whatever the model's own says
        }
        options = [str(part) for pair in told.items() for part in pair]
        command = [settings.path(), "serve", model, *options, "--disable-uvicorn-access-log", *settings.args]
        kept = {name: value for name, value in os.environ.items() if name not in _RANKS}
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._said_before = output.tell()
            held, ours = os.pipe()
            self._let_go = weakref.finalize(self, os.close, ours)  # at this object's end, too, if nobody closes it
            self._process = subprocess.Popen(
                [sys.executable, "-I", guard.__file__, *command],
                stdin=held,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=kept | _QUIET | {"VLLM_API_KEY": key},
                start_new_session=True,  # Ctrl-C is ours to hand on, once
            )
            os.close(held)

    def wait(self, look: Callable[[], None]) -> None:
        """Wait until it has loaded the model.

        Args:
            look: Called a few times a second; what it raises ends the wait.

        Raises:
            WrongInput: It died, or takes longer than ``startup_s``.
        """
        deadline = time.monotonic() + self.startup_s
        while not self._ready():
            self.check("before it was ready", "see there; options of vLLM's: vllm.args=[…]")
            look()
            if time.monotonic() > deadline:
                mend = "see there, or raise vllm.startup_s="
                raise WrongInput(f"vLLM is not ready after {self.startup_s:g} s", str(self.log), mend)
            time.sleep(TICK_S)

    def _ready(self) -> bool:
        try:
            listed = self._ask("/v1/models", None, LOOK_TIMEOUT_S)
            return any(model["id"] == self.name for model in listed["data"])
        except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
            return False

    def check(self, when: str = "under way", mend: str = _KEPT) -> None:
        """Pass if it runs.

        Args:
            when: Of the message.
            mend: Of the message.

        Raises:
            WrongInput: It has ended.
        """
        if (code := self._process.poll()) is not None:
            raise WrongInput(f"vLLM ended {when} (exit code {code}): {self._last_words()}", str(self.log), mend)

    def complete(self, fields: Mapping[str, Any]) -> object:
        """Its answer to one request of OpenAI's completions protocol; threads may ask at once.

        A connection that breaks is made anew: asked twice with one seed it answers the same.

        Raises:
            WrongInput: It refuses the request, is gone, or keeps breaking off.
        """
        reason: object = None
        for _ in range(_ATTEMPTS):
            try:
                return self._ask("/v1/completions", {"model": self.name, **fields}, ANSWER_TIMEOUT_S)
            except HTTPError as refused:
                said = " ".join(refused.read(4096).decode("utf-8", "replace").split())[:_SHOWN]
                what = f"vLLM refuses a request (status {refused.code}): {said}"
                raise WrongInput(what, str(self.log), f"see there; {_KEPT}") from None
            except ValueError:
                raise WrongInput("vLLM's answer is no JSON", str(self.log), "see there") from None
            except (OSError, http.client.HTTPException) as broken:
                reason = getattr(broken, "reason", None) or broken
                time.sleep(3 * guard.TICK_S)  # its guard, too, has to see it if it is gone
                self.check()
        raise WrongInput(f"vLLM keeps breaking off: {reason}", str(self.log), f"see there; {_KEPT}")

    def _ask(self, path: str, body: Mapping[str, Any] | None, timeout_s: float) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = self.headers | {"Content-Type": "application/json"}
        with self._opener.open(Request(self.url + path, data, headers), timeout=timeout_s) as answer:
            return json.loads(answer.read())

    def _last_words(self) -> str:
        """The last complaint that it put into its log since it started, or else the last line."""
        with self.log.open("rb") as stream:
            stream.seek(self._said_before)
            lines = [line.strip() for line in stream.read().decode("utf-8", "replace").splitlines() if line.strip()]
        found = [match[0] for line in lines if (match := _COMPLAINT.search(line)) and _NO_REASON not in line]
        return (found or lines or ["it said nothing"])[-1][:_SHOWN]

    def close(self) -> None:
        """End it and all that it has started; harmless when repeated."""
        self._let_go()  # which its guard waits for
        self._process.wait()


def _free_port() -> int:
    """One that nobody listens at. Who takes it in between makes vLLM die at once, and be told of."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
