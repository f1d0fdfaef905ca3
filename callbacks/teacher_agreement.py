"""An approximated teacher (in fewer bits, or served) held against its own full weights before it scores."""

import json
import logging
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning import Callback, LightningModule, Trainer

from callbacks.agreement import Agreement, Tokens, agreement
from datamodules.batches import TokenBatch
from datamodules.digest import data_digest, local_model, model_digest
from datamodules.responses import replace_file
from datamodules.wrong_input import WrongInput

log = logging.getLogger(__name__)
PAIRS = 16
"""Compared where nothing else is said: some thousands of tokens."""
AUTO = "auto"


class ScoresTokens(Protocol):
    """What ``ScoringModule`` has."""

    def approximation(self, name: str) -> str | None:
        """In words; None: there is none."""
        ...

    def token_logps(self, name: str, batch: TokenBatch, *, full: bool = False) -> list[list[float]]:
        """Of each response token."""
        ...

    def check_room(self, name: str) -> None:
        """Refuse a model that is too large to be loaded in full."""
        ...


class TeacherAgreement(Callback):
    """Scores a few pairs with both teachers and says how far they are apart, as ``scores/agreement/…``.

    Both see the same padded batches of one pair each, evenly spread over the training pairs. What was found is kept
    beside the score cache, by what it depends on. Of several processes the first does it.

    Args:
        pairs: How many. ``auto``: 16, if the full weights are here and there is memory for them; else it is said that
            they were not compared. A number: that many, or an error. 0: none.
    """

    def __init__(self, pairs: int | str = AUTO):
        self.pairs = pairs
        self.final_metrics: dict[str, float] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compare, if there is something to compare; later hooks are not called where all scores are there already.

        Raises:
            WrongInput: So many pairs were asked for, and the full weights are not here or do not fit into memory.
        """
        module: Any = pl_module
        how = module.approximation("teacher")
        if how is None or self.pairs == 0 or not trainer.is_global_zero:
            return
        try:
            found = self._found(trainer, module, how)
        except (WrongInput, torch.OutOfMemoryError) as error:
            torch.cuda.empty_cache()
            said = str(error).partition("\n")[0]
            if self.pairs != AUTO:
                mend = "leave agreement_pairs at auto, or set 0"
                raise WrongInput(f"the full teacher cannot be run: {said}", "agreement_pairs", mend) from error
            log.warning("the teacher %s is not compared with the full one: %s", how, said)
            return
        self.final_metrics = {f"scores/agreement/{key}": value for key, value in found._asdict().items()}
        log.info(self.line(how, found))

    def line(self, how: str, found: Agreement) -> str:
        """What is said of it."""
        return (
            f"teacher {how} against the full one, {found.pairs:.0f} pairs: {found.token_logp_mae:.3g} nats a token "
            f"apart; δ_te (mean absolute {found.delta_te_mean_abs:.3g}) {found.delta_te_mae:.3g} apart, "
            f"{found.delta_te_max:.3g} at most, correlation {found.delta_te_correlation:.3f}, "
            f"same sign in {found.delta_te_sign_agreement:.0%}"
        )

    def _found(self, trainer: Trainer, module: ScoresTokens, how: str) -> Agreement:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        count = PAIRS if self.pairs == AUTO else int(self.pairs)
        folder = data.frozen["teacher"]
        if how == "served" and self.pairs == AUTO and not Path(folder).is_dir():
            raise WrongInput("its weights are not here", folder, "name its folder as teacher=")
        seen = [batch.row_ids for batch in data.sample("teacher", count)]
        weights = model_digest(local_model(folder)) if how == "served" else "of the scorer"
        depends = [weights, data.score_dtype, seen, *(data.cache(name).scorer for name in ("teacher", "reference"))]
        kept = Path(data.cache_dir) / f"agreement-{data_digest(depends)[:24]}.json"
        if kept.is_file():
            return Agreement(**json.loads(kept.read_text()))
        module.check_room("teacher")

        def scored(name: str, full: bool = False) -> Tokens:
            batches = (trainer.strategy.batch_to_device(batch) for batch in data.sample(name, count))
            return [tuple(module.token_logps(name, batch, full=full)) for batch in batches]  # type: ignore[misc]

        # the reference last: it is the first to score, and stays in memory
        found = agreement(scored("teacher", full=True), scored("teacher"), scored("reference"))
        replace_file(kept, json.dumps(found._asdict(), indent=1) + "\n")
        return found
