"""Serves a workload with a model in memory, by transformers' continuous batching, and notes when each token came."""

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, cast

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from datamodules.batches import LoadRequest, Workload
from datamodules.wrong_input import WrongInput
from lightning_modules.language_model import stop_token_ids
from lightning_modules.serving.engine import Engine, check_schedulers

_POLL_S = 0.05  # how soon it is noticed that the engine has died


class Served(NamedTuple):
    """What became of one request. Its fields are the columns of a latency log."""

    request_id: str
    submit_s: float
    """Since the workload began."""
    token_s: list[float]
    """Seconds from the submission to each token's delivery."""
    input_tokens: int
    output_tokens: int
    expected_tokens: int | None
    """Where every answer has one length."""
    status: Literal["ok", "failed", "cancelled"]
    error: str


@dataclass
class _Open:
    """A request under way."""

    request: LoadRequest
    stamps: list[float] = field(default_factory=list)

    def served(self, engine: Engine, start: float, status: Any, error: str = "") -> Served:
        sent = start + self.request.arrival_s
        return Served(
            request_id=self.request.request_id,
            submit_s=self.request.arrival_s,
            token_s=[stamp - sent for stamp in self.stamps],
            input_tokens=len(self.request.input_ids),
            output_tokens=len(self.stamps),
            expected_tokens=self.request.max_new_tokens if engine.ignore_eos else None,
            status=status,
            error=error,
        )


def serve(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, workload: Workload, engine: Engine
) -> list[Served]:
    """Serve a workload, and leave no trace in the model or the process.

    Arrivals go by the clock: a slow engine does not slow them, and latency counts from the time at which a request was
    due, even if it was handed over late. A token counts as delivered when the engine hands it out. Modes of all
    submodules, attention implementation, gradient checkpointing and random states are afterwards as they were.

    Args:
        model: Any causal language model that transformers' continuous batching takes, on any device.
        tokenizer: Gives the stop tokens.
        workload: See ``Workload``; measured and warm-up requests alike are sent.
        engine: Its limits.

    Returns:
        The measured requests in the order in which they ended; those that an engine's death has left open are
        ``failed``, those that were open when the time was up ``cancelled``, both with the tokens that had come.

    Raises:
        WrongInput: The scheduler is unknown, or a request is too long for the engine or the model.
    """
    _check(model, workload, engine)
    stops = [-1] if engine.ignore_eos else stop_token_ids(model, tokenizer)
    decoding = GenerationConfig(
        do_sample=engine.temperature > 0,
        temperature=engine.temperature or None,
        eos_token_id=stops,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else max(stops[0], 0),
    )
    batching = engine.batching(workload.scheduler, workload.seed)
    with (
        unchanged(model),
        cast(Any, model).continuous_batching_context_manager(decoding, continuous_batching_config=batching) as manager,
    ):
        return [served for served, measured in _exchange(manager, workload, engine) if measured]


def _exchange(manager: Any, workload: Workload, engine: Engine) -> Iterator[tuple[Served, bool]]:
    """Send what is due and take what comes, in one thread, until nothing is open."""
    ahead = list(reversed(workload.requests))
    under_way: dict[str, _Open] = {}
    start = time.perf_counter()
    limit = float("inf") if engine.time_limit_s is None else engine.time_limit_s
    while (ahead or under_way) and manager.is_running() and time.perf_counter() - start < limit:
        while ahead and start + ahead[-1].arrival_s <= time.perf_counter():
            request = ahead.pop()
            under_way[request.request_id] = _Open(request)
            manager.add_request(
                request.input_ids,
                request_id=request.request_id,
                max_new_tokens=request.max_new_tokens,
                streaming=True,
                record_timestamps=True,
            )
        until = start + ahead[-1].arrival_s - time.perf_counter() if ahead else _POLL_S
        output = manager.get_result(timeout=min(max(until, 1e-4), _POLL_S))
        if output is None or output.request_id not in under_way:
            continue
        one = under_way[output.request_id]
        if len(output.generated_tokens) > len(one.stamps):
            one.stamps.append(output.timestamps[-1])  # the list itself begins anew when a request had to make room
        if output.is_finished():
            del under_way[output.request_id]
            status = "failed" if output.error else "ok"
            yield one.served(engine, start, status, output.error or ""), one.request.measured
    over = manager.is_running()
    status, error = ("cancelled", "the time was up") if over else ("failed", _death(manager))
    for one in [*under_way.values(), *(_Open(request) for request in reversed(ahead))]:
        manager.cancel_request(one.request.request_id)
        yield one.served(engine, start, status, error), one.request.measured


def _death(manager: Any) -> str:
    error = manager.background_thread_status.fatal_error
    return f"the engine stopped: {error}".splitlines()[0] if error else "the engine stopped"


@contextmanager
def unchanged(model: PreTrainedModel) -> Iterator[None]:
    """Keeps the model's modes, its config and generation config, and the process's random states as they are."""
    modes = {module: module.training for module in model.modules()}
    generation = copy.deepcopy(model.generation_config)
    attention = model.config._attn_implementation
    # The engine's tensors are made here and changed in its own thread, which inference mode does not reach.
    with isolate_rng(), torch.inference_mode(False), torch.no_grad():
        try:
            yield
        finally:
            for module, training in modes.items():
                module.training = training
            model.generation_config = generation
            if attention is not None and model.config._attn_implementation != attention:
                model.set_attn_implementation(attention)


def _check(model: PreTrainedModel, workload: Workload, engine: Engine) -> None:
    check_schedulers([workload.scheduler])
    room = min(engine.cache_tokens, getattr(model.config.get_text_config(), "max_position_embeddings", 1 << 62))
    for request in workload.requests:
        if (length := len(request.input_ids) + request.max_new_tokens) > room:
            raise WrongInput(
                f"request {request.request_id} needs {length} tokens, there is room for {room}",
                f"workload {workload.name}",
                "lower max_length, or raise engine.cache_tokens",
            )
