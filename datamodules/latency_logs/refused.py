"""Logs without a time for each token: refused, because the times would have to be invented."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from datamodules.latency_logs.records import LatencyLog
from datamodules.wrong_input import WrongInput

_IMPOSSIBLE = "user idle latency, smooth goodput, TBT, tokens on time, QoE and fluidity cannot exist"


def open_llmperf(path: Path) -> Iterator[LatencyLog]:
    """Refuses LLMPerf's ``*_individual_responses.json``."""
    raise WrongInput(
        "an LLMPerf log has no time of each token, only their average a request (`inter_token_latency_s`): without "
        f"per-token times {_IMPOSSIBLE}",
        str(path),
        "measure again with a tool that writes them: vLLM `bench serve --save-detailed`, AIPerf, SGLang "
        "`--output-details`, inference-perf or Etalon",
    )


def open_lifecycle(path: Path) -> Iterator[LatencyLog]:
    """Refuses vLLM's request lifecycle records."""
    raise WrongInput(
        "vLLM lifecycle records have no time of each token, only of the first and the last (`first_token_ts`, "
        f"`last_token_ts`): without per-token times {_IMPOSSIBLE}",
        str(path),
        "measure again with `vllm bench serve --save-result --save-detailed`, which writes `ttfts` and `itls`",
    )
