"""Where the time of RASTModule's step goes: its parts, timed from outside."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from lightning_modules import RASTModule
from lightning_modules.rast import objective as objective_file
from lightning_modules.rast import rollout as rollout_file
from lightning_modules.rast.retriever import StyleRetriever


class Stopwatch:
    """Processor time of the parts of a step; within a part that is timed, no other counts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.inside = False

    def timed(self, function: Callable, name: str | Callable[..., str]) -> Callable:
        """The function, its time counted under a name, or under what a name is made of its arguments."""

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if self.inside:
                return function(*args, **kwargs)
            self.inside, started = True, time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[name(*args) if callable(name) else name] += time.process_time() - started
                self.inside = False

        return wrapper


@contextmanager
def parts_timed(watch: Stopwatch, module: RASTModule) -> Iterator[None]:
    """Count the parts of the module's steps while inside."""

    def whose(model: Any, *_: Any) -> str:
        return "log-probabilities of the policy" if model is module.policy else "p_θ*, for the KL"

    parts = [
        (rollout_file.Questioner, "first_templates", "first questions and their templates"),
        (StyleRetriever, "draw", "retrieval, clusters, drawing"),
        (rollout_file, "encode", "the policy's encoder"),
        (rollout_file, "write_ways", "sampling and greedy decoding"),
        (rollout_file.Questioner, "mark", "QA model and rewards"),
        (objective_file, "encoder_states", "p_θ*, for the KL"),
        (objective_file, "label_states", whose),
        (objective_file, "token_divergence", "p_θ*, for the KL"),
        (RASTModule, "learn", "backward pass and update"),
    ]
    patches = [patch.object(holder, name, watch.timed(getattr(holder, name), part)) for holder, name, part in parts]
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in patches:
            one.stop()
