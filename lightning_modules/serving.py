"""Serves a workload with a model in memory, by transformers' continuous batching, and notes when each token came."""

import copy
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, cast, get_args

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from datamodules.batches import LoadRequest, Workload
from datamodules.wrong_input import WrongInput
from lightning_modules.frozen import FrozenModelsModule
from lightning_modules.language_model import ModelSource, stop_token_ids

Scheduler = Literal["fifo", "prefill_first"]

_POLL_S = 0.05  # how soon it is noticed that the engine has died


@dataclass(frozen=True)
class Engine:
    """The serving engine's limits, and how it decodes.

    Args:
        max_batch_tokens: Tokens of one forward pass, prompts and answers together: longer prompts go in by chunks.
        max_requests: Requests in one forward pass; further ones wait.
        cache_tokens: Tokens whose keys and values have room.
        page_tokens: Tokens in a page of that room.
        prefix_sharing: Prompts that begin alike share what was computed for their beginning.
        temperature: 1 samples from the model's own distribution, 0 decodes greedily.
        ignore_eos: Every answer is as long as it may be: a load that does not depend on what the model says.
        time_limit_s: Requests still open then are cancelled (None: none are).
    """

    max_batch_tokens: int = 512
    max_requests: int = 64
    cache_tokens: int = 32768
    page_tokens: int = 16
    prefix_sharing: bool = False
    temperature: float = 1.0
    ignore_eos: bool = False
    time_limit_s: float | None = None

    def __post_init__(self) -> None:
        """Refuse what no engine can be run with."""
        counts = (self.max_batch_tokens, self.max_requests, self.cache_tokens)
        limit = self.time_limit_s
        if min(counts) < 1 or self.page_tokens < 4 or self.temperature < 0 or (limit is not None and limit <= 0):
            mend = "sizes ≥ 1, page_tokens ≥ 4, temperature ≥ 0, time_limit_s above 0 or null"
            raise WrongInput(f"no such engine: {self}", "engine", mend)

    def batching(self, scheduler: str, seed: int) -> ContinuousBatchingConfig:
        """In transformers' words; neither memory nor kernels are looked for beyond what is set here."""
        return ContinuousBatchingConfig(
            scheduler_type=scheduler,
            page_size=self.page_tokens,
            num_blocks=-(-self.cache_tokens // self.page_tokens),
            max_batch_tokens=self.max_batch_tokens,
            max_requests_per_batch=self.max_requests,
            allow_block_sharing=self.prefix_sharing,
            seed=seed,
            auto_switch_to_flash=False,  # it would ask the Hub for kernels
        )


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
        _unchanged(model),
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
def _unchanged(model: PreTrainedModel) -> Iterator[None]:
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
    if workload.scheduler not in get_args(Scheduler):
        raise WrongInput(
            f"unknown scheduler {workload.scheduler!r}", "schedulers", f"one of {', '.join(get_args(Scheduler))}"
        )
    room = min(engine.cache_tokens, getattr(model.config.get_text_config(), "max_position_embeddings", 1 << 62))
    for request in workload.requests:
        if (length := len(request.input_ids) + request.max_new_tokens) > room:
            raise WrongInput(
                f"request {request.request_id} needs {length} tokens, there is room for {room}",
                f"workload {workload.name}",
                "lower max_length, or raise engine.cache_tokens",
            )


class ServingModule(FrozenModelsModule):
    """Serves workloads with one or several frozen models.

    Takes: ``Workload``. ``predict_step`` returns ``list[Served]``, in the order in which the requests ended.

    Args:
        models: Name → model; see ``FrozenModelsModule``.
        tokenizer: Shared by all.
        engine: Of all models.
        **settings: See ``FrozenModelsModule``.
    """

    def __init__(
        self, models: Mapping[str, ModelSource], tokenizer: PreTrainedTokenizerBase, engine: Engine, **settings: Any
    ):
        super().__init__(models, tokenizer, **settings)
        self.engine = engine

    def predict_step(self, batch: Workload, batch_idx: int, dataloader_idx: int = 0) -> list[Served]:
        """Serve one workload."""
        return serve(self.model(batch.model), self.tokenizer, batch, self.engine)
