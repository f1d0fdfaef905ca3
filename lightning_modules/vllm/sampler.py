"""Answers by vLLM, one model after the other."""

import gc
import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from transformers import PreTrainedTokenizerBase

from datamodules.batches import PromptBatch
from datamodules.wrong_input import WrongInput
from lightning_modules.continuous_sampling import Finished
from lightning_modules.loading import ModelSource
from lightning_modules.token_draws import answer_key
from lightning_modules.vllm.reading import answer_tokens, request_fields, seed_of
from lightning_modules.vllm.served_model import ServedModel, served_model
from lightning_modules.vllm.server import VLLMServer
from lightning_modules.vllm.settings import VLLMSettings, check_processes

log = logging.getLogger(__name__)
POLL_S = 0.5


class VLLMSampler(Callback):
    """Starts vLLM for a model, has it answer, and ends it: with the next model, and with the loop, however that ends.

    Of the same model, seed and settings vLLM draws the same answer, up to the rounding that the company of other
    requests brings; they are other answers than the other samplers', which draw by themselves (``token_draws``).

    Args:
        settings: See ``VLLMSettings``.

    Raises:
        WrongInput: See ``VLLMSettings``.
    """

    def __init__(self, settings: Mapping[str, Any]):
        self.settings = VLLMSettings(**settings)
        self._trainer: Trainer | None = None
        self._name: str | None = None
        self._model: ServedModel | None = None
        self._server: VLLMServer | None = None
        self._folder = Path()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to be one of several."""
        check_processes(trainer.world_size)
        self._trainer, self._folder = trainer, Path(trainer.default_root_dir)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See ``close``."""
        self.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """See ``close``."""
        self.close()

    def answers(
        self,
        name: str,
        source: ModelSource,
        tokenizer: PreTrainedTokenizerBase,
        dtype: str,
        sampling: Any,
        batch: PromptBatch,
    ) -> Iterator[tuple[int, list[int], list[int]]]:
        """Row, tokens and the tokens that end a turn, of each answer to the batch, in the order in which they end.

        Args:
            name: Of the model; its log is ``vllm/NAME.log`` in the trainer's folder.
            source: The model.
            tokenizer: Its own.
            dtype: Of the forward passes.
            sampling: A ``Sampling``.
            batch: The prompts.

        Raises:
            WrongInput: The model cannot be served, vLLM does not start or dies, refuses a request, or cannot be taken
                at its word. It is ended then.
        """
        try:
            model = self._serve(name, source, tokenizer, dtype, sampling.max_new_tokens)
            fields = request_fields(**asdict(sampling), stops=model.stops, unused=model.unused)
            for row, tokens in self._answers(batch, fields, len(tokenizer)):
                yield row, tokens, model.stops
        except BaseException:
            self.close()
            raise

    def _serve(
        self, name: str, source: ModelSource, tokenizer: PreTrainedTokenizerBase, dtype: str, max_new_tokens: int
    ) -> ServedModel:
        """Have the named model served, unless it is; the one before it is let go."""
        if self._name == name and self._model is not None:
            return self._model
        self.close()
        gc.collect()  # an earlier stage's models are to leave the card to vLLM
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        start, self._name = time.monotonic(), name
        window = self.settings.max_length + max_new_tokens
        model = served_model(name, source, tokenizer, dtype, window, self._written())
        path = self._folder / "vllm" / f"{name}.log"
        log.info("%s: vLLM loads it → %s", name, path)
        self._server = VLLMServer(self.settings, model.source, model.tokenizer, dtype, model.window, path)
        self._server.wait(self._look)
        log.info("%s: served by vLLM after %.0f s", name, time.monotonic() - start)
        self._model = model
        return model

    def _answers(self, batch: PromptBatch, fields: Mapping[str, Any], vocabulary: int) -> Iterator[Finished]:
        server = self._server
        assert server is not None
        filled = zip(batch.input_ids.cpu(), batch.attention_mask.bool().cpu(), strict=True)
        prompts: list[list[int]] = [ids[mask].tolist() for ids, mask in filled]

        def ask(row: int) -> Finished:
            seed = seed_of(answer_key(batch.seed, batch.row_ids[row]))
            answer = server.complete({"prompt": prompts[row], "seed": seed, **fields})
            try:
                tokens = answer_tokens(answer, prompts[row], fields["stop_token_ids"], fields["max_tokens"], vocabulary)
            except ValueError as reason:
                what = f"vLLM cannot be taken at its word: {reason}"
                raise WrongInput(what, str(server.log), "use another version of vLLM, or sampler=auto") from None
            return Finished(row, tokens)

        pool = ThreadPoolExecutor(self.settings.requests)
        try:
            left: set[Future[Finished]] = {pool.submit(ask, row) for row in range(len(prompts))}
            while left:
                done, left = wait(left, POLL_S, FIRST_COMPLETED)
                for one in sorted(done, key=lambda one: one.exception() is not None):  # what is there is kept
                    yield one.result()
                if not done:
                    server.check()
                self._look()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # what is under way ends with vLLM

    def close(self) -> None:
        """End vLLM, if it runs, and remove what was written for it."""
        server, self._server, self._model = self._server, None, None
        if server is not None:
            server.close()
        if self._name is not None:
            shutil.rmtree(self._written(), ignore_errors=True)
        self._name = None

    def _written(self) -> Path:
        return self._folder / "vllm" / f"{self._name}.written"

    def _look(self) -> None:
        """Lightning ends no predict loop by itself when it is asked to end."""
        if self._trainer is not None and self._trainer.received_sigterm:
            raise SIGTERMException(143)
