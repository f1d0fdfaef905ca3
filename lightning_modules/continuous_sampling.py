"""Answers by transformers' continuous batching: an answer that ends makes room for the next prompt at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from transformers import LogitsProcessorList, PreTrainedModel
from transformers.generation.configuration_utils import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessorList

from datamodules.wrong_input import WrongInput
from lightning_modules.serving.serve import unchanged
from lightning_modules.token_draws import DrawEachRequest

PAGE_TOKENS = 16
CPU_BATCH_TOKENS = 512
"""Of one forward pass on a CPU, prompts and answers together; on a GPU the engine measures what fits."""
POLL_S = 1.0


class Finished(NamedTuple):
    """An answer."""

    row: int
    tokens: list[int]
    """The one that ends the turn included."""


class CannotBatch(Exception):
    """The engine does not take this model."""


def continuous_answers(
    model: PreTrainedModel,
    prompts: list[list[int]],
    draw: DrawEachRequest,
    config: GenerationConfig,
    requests: int,
) -> Iterator[Finished]:
    """Answers in the order in which they end.

    Args:
        model: A causal language model.
        prompts: Token ids; request ``i`` is that of prompt ``i``.
        draw: Draws their tokens.
        config: Stop tokens and the most new tokens; decoding itself is greedy, of what ``draw`` leaves.
        requests: Answers under way at one time.

    Raises:
        CannotBatch: The engine does not start with this model; nothing has been answered.
        WrongInput: It died, or gave up a request.
    """
    most: int = config.max_new_tokens  # type: ignore[assignment]
    with unchanged(model), _engine(model, draw, config, _batching(model, prompts, most, requests)) as manager:
        for row, prompt in enumerate(prompts):
            manager.add_request(prompt, request_id=str(row), max_new_tokens=most)
        left = len(prompts)
        while left:
            output = manager.get_result(timeout=POLL_S)
            if output is None and not manager.is_running():
                raise _gave_up(str(manager.background_thread_status.fatal_error or "no reason given"))
            if output is None or not output.is_finished():
                continue
            if output.error is not None:
                raise _gave_up(output.error)
            left -= 1
            yield Finished(int(output.request_id), output.generated_tokens)


def _batching(model: PreTrainedModel, prompts: list[list[int]], most: int, requests: int) -> ContinuousBatchingConfig:
    longest = max(map(len, prompts))
    settings: dict[str, Any] = {"max_memory_percent": 0.8}
    if model.device.type == "cpu":
        pages = -(-(longest + most) // PAGE_TOKENS) + 1
        settings = {
            "page_size": PAGE_TOKENS,
            "num_blocks": min(requests, len(prompts)) * pages + 1,
            "max_batch_tokens": max(CPU_BATCH_TOKENS, requests),
        }
    return ContinuousBatchingConfig(
        max_requests_per_batch=requests,
        allow_block_sharing=False,
        auto_switch_to_flash=False,  # it would ask the Hub for kernels
        **settings,
    )


@contextmanager
def _engine(
    model: PreTrainedModel, draw: DrawEachRequest, config: GenerationConfig, batching: ContinuousBatchingConfig
) -> Iterator[Any]:
    manager: Any = None
    try:
        manager = model.init_continuous_batching(config, batching)  # type: ignore[operator]
        # the engine converts transformers' own processors only; each of ours brings one number a request
        manager.logit_processor = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([draw]))
        manager.logit_processor.tensors_required = 1
        manager.warmup()
        manager.start()
    except Exception as error:  # attention or caches that the engine does not know
        if manager is not None:
            manager.destroy()
        raise CannotBatch(str(error).partition("\n")[0]) from error
    try:
        with torch.no_grad():
            yield manager
    finally:
        manager.stop(block=True)
        manager.destroy()


def _gave_up(reason: str) -> WrongInput:
    first = reason.partition("\n")[0]
    return WrongInput(f"continuous batching gave up: {first}", "sampler", "set sampler=batched, or fewer requests")
