"""A language model as the judge, behind any endpoint that speaks OpenAI's chat protocol."""

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from callbacks.judges.endpoint import ChatEndpoint, QuestionRefused, client_and_key
from callbacks.judges.pairwise_prompt import PAIRWISE_TEMPLATE, agree, check_template, read_choice, render_both_orders
from callbacks.judges.reply_cache import ReplyCache, content_key
from callbacks.judges.verdict import Comparison, Verdict
from datamodules.wrong_input import WrongInput

log = logging.getLogger(__name__)

_SHOWN = 400  # characters of a reply that a verdict's `why` keeps


class OpenAIJudge:
    """Asks about each comparison twice, with the answers in both orders; a preference must survive the swap.

    Both orders for the student is a win, both for the teacher a loss, anything else a tie; identical answers are a tie
    without asking. A reply without a readable verdict makes the comparison invalid and stands in its ``why``. Readable
    replies are cached by model, options, template and texts (not by endpoint): a run that was cut off asks only the
    rest, and what could not be read is asked again.

    Args:
        model: The judge's name at the endpoint.
        cache_dir: Folder of ``judge.sqlite3``; jobs may share it.
        base_url: The endpoint, e.g. ``http://localhost:8000/v1``; None is OpenAI's own.
        api_key_env: Name of the environment variable with the key. An endpoint of one's own may do without.
        template: The question, with ``{conversation}``, ``{answer_a}`` and ``{answer_b}``; the reply is read for its
            last ``[[A]]``, ``[[B]]`` or ``[[C]]``.
        options: What else goes into each request, e.g. ``max_tokens``; may override ``temperature: 0``, or leave it out
            of the request with None, for models that take none.
        concurrency: Requests under way at once.
        max_retries: Of a request that met a busy or failing endpoint, with growing pauses.
        timeout_s: Seconds until an unanswered request counts as failed.
        progress: Whether to draw a progress bar on standard error.

    Raises:
        WrongInput: On a template that lacks a placeholder.
    """

    def __init__(
        self,
        model: str,
        cache_dir: str | Path,
        base_url: str | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        template: str = PAIRWISE_TEMPLATE,
        options: Mapping[str, Any] | None = None,
        concurrency: int = 8,
        max_retries: int = 6,
        timeout_s: float = 120.0,
        progress: bool = True,
    ):
        self.model, self.base_url, self.api_key_env = model, base_url, api_key_env
        self.cache_path = Path(cache_dir) / "judge.sqlite3"
        self.template = check_template(template)
        options = {"temperature": 0, **(options or {})}
        self.options = {name: value for name, value in options.items() if value is not None}
        self.concurrency, self.max_retries, self.timeout_s = max(1, concurrency), max_retries, timeout_s
        self.progress = progress

    def check(self) -> None:
        """Pass if it could ask. Nothing is asked.

        Raises:
            WrongInput: The package or the key is missing.
        """
        client_and_key(self.base_url, self.api_key_env)

    def compare(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """One verdict a comparison, in the same order.

        Raises:
            WrongInput: Where the package, the key or the endpoint is missing, or the endpoint refuses or keeps failing;
                what was judged until then is in the cache.
        """
        asked = [
            ()
            if comparison.student_answer == comparison.teacher_answer
            else render_both_orders(self.template, comparison)
            for comparison in comparisons
        ]
        replies = self._replies(list(dict.fromkeys(question for both in asked for question in both)))
        verdicts = [
            _verdict(comparison.id, [replies[question] for question in both])
            for comparison, both in zip(comparisons, asked, strict=True)
        ]
        invalid = [verdict for verdict in verdicts if verdict.outcome == "invalid"]
        if invalid:
            first = f"{invalid[0].id}: {invalid[0].why}"
            log.warning("%d of %d verdicts cannot be read and count as invalid; %s", len(invalid), len(verdicts), first)
        return verdicts

    def _replies(self, questions: Sequence[str]) -> dict[str, str]:
        """The judge's words to each distinct question, from the cache where it has them."""
        if not questions:
            return {}
        cache = ReplyCache(self.cache_path)
        try:
            keys = {question: content_key(self.model, self.options, question) for question in questions}
            replies = {question: kept for question, key in keys.items() if (kept := cache.get(key)) is not None}
            missing = [question for question in questions if question not in replies]
            return replies | self._ask(missing, lambda question, reply: cache.put(keys[question], reply))
        finally:
            cache.close()

    def _ask(self, questions: Sequence[str], keep: Callable[[str, str], None]) -> dict[str, str]:
        """Ask the endpoint, keeping each readable reply as it comes."""
        if not questions:
            return {}
        endpoint = ChatEndpoint(
            self.model, self.base_url, self.api_key_env, self.options, self.max_retries, self.timeout_s
        )
        refused: list[str] = []

        def ask(question: str) -> str:
            try:
                reply = endpoint.ask(question)
            except QuestionRefused as refusal:
                refused.append(str(refusal))
                return f"(refused by the endpoint) {refusal}".replace("[[", "[")  # it may quote what we asked
            if read_choice(reply):
                keep(question, reply)
            return reply

        replies = self._in_parallel(ask, questions)
        if len(refused) == len(questions):  # not a question's fault, then
            mend = "mend the judge's `model` or `options`"
            raise WrongInput(f"the judge's endpoint refuses every question: {refused[0]}", endpoint.where, mend)
        return replies

    def _in_parallel(self, ask: Callable[[str], str], questions: Sequence[str]) -> dict[str, str]:
        """Ask with bounded concurrency; the first failure drops what is waiting and lets what is under way end."""
        bar = Progress(console=Console(stderr=True), disable=not self.progress)
        with bar, ThreadPoolExecutor(self.concurrency) as pool:
            under_way = {pool.submit(ask, question): question for question in questions}
            try:
                done = bar.track(as_completed(under_way), total=len(under_way), description=f"judge {self.model}")
                return {under_way[future]: future.result() for future in done}
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)  # leaving the `with` waits for those under way
                raise


def _verdict(name: str, replies: Sequence[str]) -> Verdict:
    """One verdict from the replies to both orders, none where nothing had to be asked."""
    if not replies:
        return Verdict(name, "tie", "the two answers are the same text")
    choices = [read_choice(reply) for reply in replies]
    outcome = agree(choices)
    shown = [" ".join(reply.split())[-_SHOWN:] or "(no words)" for reply in replies]
    if outcome == "invalid":
        unread = [text for text, choice in zip(shown, choices, strict=True) if choice is None]
        return Verdict(name, outcome, f"no verdict in: {' | '.join(unread)}")
    return Verdict(name, outcome, f"student first: {shown[0]} | teacher first: {shown[1]}")
