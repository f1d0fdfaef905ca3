"""Scores of responses by a served teacher: token ids out, sums of log-probabilities back."""

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from datamodules.batches import PackedTokenBatch, TokenBatch
from datamodules.wrong_input import WrongInput
from lightning_modules.endpoint.client import CompletionsEndpoint, check_address
from lightning_modules.endpoint.reading import request_fields, response_token_logps

PROTOCOLS = ("prompt_logprobs", "echo")
SCORERS = ("local", "endpoint")
FILLED = 8
"""Requests a batch for each under way at once: the last of a batch, which others wait for, are few then."""


class EndpointScorer:
    """Log-probabilities of responses under a served model, as ``response_logps`` gives them of one in memory.

    Prompts go out as token ids, so that the server tokenises nothing; what it says of them is checked token by token
    (``prompt_logprobs``) or by their number (``echo``). Its softmax runs over all of its vocabulary rows, in the
    precision that it was started with.

    Args:
        url: Of the server, with or without ``/v1``.
        model: Its name there.
        revision: Names the weights: they cannot be seen, so the cache keys its scores on ``model`` and this.
        api_key_env: Name of the environment variable with the key; may be unset.
        protocol: ``prompt_logprobs`` (vLLM) or ``echo`` (the older form; vLLM, SGLang and others).
        concurrency: Requests under way at once, of one batch.
        max_retries: Of a request that met a busy or failing server, with growing pauses.
        timeout_s: Seconds until an unanswered request counts as failed.

    Raises:
        WrongInput: A setting is wrong, or the package ``openai`` is missing.
    """

    def __init__(
        self,
        url: str,
        model: str,
        revision: str,
        *,
        api_key_env: str = "OPENAI_API_KEY",
        protocol: str = "prompt_logprobs",
        concurrency: int = 8,
        max_retries: int = 6,
        timeout_s: float = 120.0,
    ):
        check_address(url)
        for name, value in (("model", model), ("revision", revision)):
            if value is None or not str(value).strip():
                what = "a served teacher has no model's name" if name == "model" else "nothing names the served weights"
                raise WrongInput(what, f"teacher_endpoint.{name}", f"give teacher_endpoint.{name}=NAME")
        if protocol not in PROTOCOLS:
            raise WrongInput(f"unknown protocol {protocol!r}", "teacher_endpoint.protocol", " or ".join(PROTOCOLS))
        whole = all(isinstance(value, int) and not isinstance(value, bool) for value in (concurrency, max_retries))
        if not whole or concurrency < 1 or max_retries < 0 or not timeout_s > 0:
            told = f"concurrency {concurrency}, max_retries {max_retries}, timeout_s {timeout_s}"
            raise WrongInput(f"no such settings: {told}", "teacher_endpoint", "set at least 1, 0 and above 0 s")
        self.protocol, self.concurrency = protocol, concurrency
        self.at_once = FILLED * concurrency
        settings: dict[str, Any] = {"api_key_env": api_key_env, "max_retries": max_retries, "timeout_s": timeout_s}
        self.endpoint = CompletionsEndpoint(url, str(model), **settings)

    def logps(self, batch: TokenBatch | PackedTokenBatch) -> list[float]:
        """Summed log-probability of each response (nats), in the order of ``row_ids``; see ``token_logps``."""
        return [math.fsum(each) for each in self.token_logps(batch)]

    def token_logps(self, batch: TokenBatch | PackedTokenBatch) -> list[list[float]]:
        """Log-probability of each response token (nats), response by response.

        Raises:
            WrongInput: The server fails, or answers about other tokens. The first failure drops what is waiting.
        """
        rows = batch.padded() if isinstance(batch, PackedTokenBatch) else batch
        seen, lengths = rows.attention_mask.bool().cpu(), rows.response_mask.sum(-1).tolist()
        ids = [row[mask].tolist() for row, mask in zip(rows.input_ids.cpu(), seen, strict=True)]
        with ThreadPoolExecutor(self.concurrency) as pool:
            try:
                return list(pool.map(self._logps, ids, lengths))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)  # leaving the `with` waits for those under way
                raise

    def _logps(self, ids: list[int], response_length: int) -> list[float]:
        answer = self.endpoint.complete(ids, request_fields(self.protocol))
        try:
            return response_token_logps(self.protocol, answer, ids, len(ids) - response_length)
        except ValueError as reason:
            raise self.endpoint.unreadable(str(reason)) from None


def endpoint_scorers(scorer: str, endpoint: Mapping[str, Any]) -> dict[str, EndpointScorer]:
    """The teacher's scorer where it is served, by the teacher's name; none where it is scored here.

    Raises:
        WrongInput: See ``EndpointScorer``; or another word than ``local`` and ``endpoint``.
    """
    if scorer not in SCORERS:
        raise WrongInput(f"unknown scorer {scorer!r}", "teacher_scorer", " or ".join(SCORERS))
    return {"teacher": EndpointScorer(**endpoint)} if scorer == "endpoint" else {}


def check_scorer(scorer: str, endpoint: Mapping[str, Any], mode: str) -> None:
    """Pass if the teacher can be scored so; called before any stage runs. No server is asked.

    Raises:
        WrongInput: See ``endpoint_scorers``; or a served teacher in live mode, which runs it in every step.
    """
    if endpoint_scorers(scorer, endpoint) and mode == "live":
        raise WrongInput("live mode runs the teacher here, and it is served", "mode, teacher_scorer", "set mode=cached")
