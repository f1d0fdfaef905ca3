"""Preference pairs for daDPO: batches to train on, and the responses that are still without a score."""

from array import array
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from datamodules.batch_settings import check_batches
from datamodules.batches import PackingSetting, PairScores, TokenBatch
from datamodules.collate import collate_responses
from datamodules.disk_rows import Chosen, DiskRows
from datamodules.encoding import check_same_tokens, load_tokenizer, pad_id_of
from datamodules.other_tokenizer import SHARED_MEND, check_belongs, tell_of_other_tokens
from datamodules.pairs import EncodedPair, RowSource, read_pairs, source_name
from datamodules.response_index import ResponseIndex
from datamodules.resumable import shared_batches, training_sampler
from datamodules.score_cache import ScoreCache, scorer_of, served_scorer
from datamodules.scored_pairs import ScoredPairs, collate_pairs, pack_pairs, response_key, with_scores
from datamodules.unscored import SHARING, Unscored, UnscoredBatches, batches_of, collator, unscored_loader
from datamodules.wrong_input import WrongInput


class PreferencePairsDataModule(LightningDataModule):
    """Pairs in TRL's preference formats, tokenised once, and kept on disk (in ``cache_dir``, where there is one).

    ``fit`` gives ``PackedPairBatch``es; ``predict`` gives one loader a scorer of ``PackedTokenBatch``es whose row ids
    are the keys of responses that the cache does not know yet, longest first. With ``packing="off"`` they are
    ``PairBatch``es and ``TokenBatch``es.

    Args:
        data: JSON lines, Parquet, a Hub id, or rows made in process.
        tokenizer: The student's.
        reference: Model folder or Hub id whose cached scores the batches bring along.
        teacher: The same of the teacher. Both None: live mode, batches come without scores.
        teacher_tokenizer: The teacher's, where it is another than the student's: it then scores the same texts in its
            own tokens; see ``datamodules/other_tokenizer.py``.
        served_teacher: ``NAME@REVISION`` of a teacher behind an endpoint: what its scores are kept under, instead of
            the weights in ``teacher``, of which only the tokenizer is read.
        teacher_quantization: Of a local teacher's linear layers while it scores: its scores are kept apart.
        cache_dir: Of the score cache.
        score_dtype: Of the forward pass that makes the scores.
        padded_vocabulary: As in ``PolicyModule``: the scores are made with the same vocabulary.
        batch_size: Pairs a batch and process.
        score_batch_size: Responses a batch when scoring. ``auto``: batches of as many tokens as the module of the
            ``Trainer`` says (``tokens_a_batch``), so that batches of short responses hold more of them.
        max_length: Tokens of prompt and response; longer responses are cut and counted.
        val_fraction: Share of the prompts held out; a prompt's pairs stay together.
        packing: ``off`` pads every response to a row of its own; otherwise rows are packed, each prompt once a pair.
            How packed rows are read is the module's affair.
        token_budget: Tokens a packed row (None: one row a batch). A batch has ``batch_size`` pairs whatever it is.
        sort_window: Steps whose pairs are sorted by length among them (1: none): less padding where rows are padded,
            ranks of like work, and pairs of like length in a step.
        seed: Of the training order.
    """

    def __init__(
        self,
        data: RowSource,
        tokenizer: PreTrainedTokenizerBase,
        *,
        reference: str | None = None,
        teacher: str | None = None,
        teacher_tokenizer: str | None = None,
        served_teacher: str | None = None,
        teacher_quantization: str | None = None,
        cache_dir: str | Path | None = None,
        score_dtype: str = "float32",
        padded_vocabulary: bool = False,
        batch_size: int = 8,
        score_batch_size: int | Literal["auto"] = 16,
        max_length: int = 2048,
        val_fraction: float = 0.05,
        packing: PackingSetting = "off",
        token_budget: int | None = None,
        sort_window: int = 1,
        seed: int = 0,
    ):
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # a rank may find its share done already
        given = [value is not None for value in (reference, teacher, cache_dir)]
        if any(given) and not all(given):
            raise WrongInput(
                "scores need a reference, a teacher and a cache",
                "reference, teacher, cache_dir",
                "give all three or none",
            )
        if teacher_tokenizer is not None and not all(given):
            raise WrongInput(
                "without cached scores the teacher reads the student's tokens", "teacher_tokenizer", "set mode=cached"
            )
        if not 0 <= val_fraction < 1:
            raise WrongInput(f"val_fraction is a share, got {val_fraction}", "val_fraction", "at least 0, below 1")
        if packing not in get_args(PackingSetting):
            known = ", ".join(get_args(PackingSetting))
            raise WrongInput(f"unknown packing {packing!r}", "packing", f"one of {known}")
        check_batches(batch_size=batch_size, max_length=max_length, token_budget=token_budget, sort_window=sort_window)
        self.packing, self.token_budget, self.sort_window = packing, token_budget, sort_window
        self.data, self.tokenizer = data, tokenizer
        self.teacher_tokenizer = None if teacher_tokenizer is None else load_tokenizer(teacher_tokenizer)
        self.frozen = {"reference": reference, "teacher": teacher} if reference and teacher else {}
        self.served_teacher, self.teacher_quantization = served_teacher, teacher_quantization
        self.cache_dir, self.batch_size, self.score_batch_size = cache_dir, batch_size, score_batch_size
        self.score_dtype, self.padded_vocabulary = score_dtype, padded_vocabulary
        self.max_length, self.val_fraction, self.seed = max_length, val_fraction, seed
        self.train_pairs: Sequence[EncodedPair] = ()
        self.val_pairs: Sequence[EncodedPair] = ()
        self.final_metrics: dict[str, float] = {}
        self._pairs: Sequence[EncodedPair] = ()
        self._caches: dict[str, ScoreCache] = {}
        self._indexes: dict[str, ResponseIndex] = {}

    def setup(self, stage: str) -> None:
        """Read and encode all pairs, and split them."""
        if self.train_pairs:
            return
        encoded = read_pairs(self.data, self.tokenizer, self.max_length, self.teacher_tokenizer)
        pairs = DiskRows(encoded, self.cache_dir)
        if not pairs:
            raise WrongInput("there are no pairs", self._where, "give rows with prompt, chosen, rejected")
        for name, model in self.frozen.items():
            if name == "teacher" and self.teacher_tokenizer is not None:
                check_belongs(self.teacher_tokenizer, model)
            else:
                check_same_tokens(self.tokenizer, load_tokenizer(model), f"the {name}, {model}", SHARED_MEND)
        told = ((pair.chosen.prompt_share < self.val_fraction) + 2 * pair.truncated for pair in pairs)
        facts = np.fromiter(told, np.uint8, len(pairs))
        held_out = facts % 2 == 1
        if held_out.all():  # a handful of prompts may all fall on one side
            held_out[:] = False
        self._pairs = pairs
        self.train_pairs, self.val_pairs = (Chosen(pairs, np.flatnonzero(side)) for side in (~held_out, held_out))
        self.final_metrics = {"pairs": len(pairs), "truncated": int((facts >= 2).sum())}
        if self.teacher_tokenizer is not None:
            both = (zip(pair.responses, pair.read_by("teacher").responses, strict=True) for pair in pairs)
            self.final_metrics |= tell_of_other_tokens(chain.from_iterable(both))

    def cache(self, name: str) -> ScoreCache:
        """The score cache of ``reference`` or ``teacher``."""
        assert self.cache_dir is not None
        if name not in self._caches:
            vocabulary = None if self.padded_vocabulary else len(self._tokenizer_of(name))
            served = self.served_teacher if name == "teacher" else None
            bits = self.teacher_quantization if name == "teacher" else None
            local = (self.frozen[name], self.score_dtype, vocabulary, bits)
            self._caches[name] = ScoreCache(self.cache_dir, served_scorer(served) if served else scorer_of(*local))
        return self._caches[name]

    def place_of(self, key: str) -> str:
        """The row that a score's key belongs to."""
        found = (self._index(name).place_of(key) for name in self.frozen)
        return next(place for place in found if place is not None)

    def sample(self, name: str, count: int) -> Iterator[TokenBatch]:
        """Chosen and rejected response of so many training pairs (or all), evenly spread, a pair a batch.

        Args:
            name: ``reference`` or ``teacher``, who reads them.
            count: 1 or more.
        """
        places = np.linspace(0, len(self.train_pairs) - 1, min(count, len(self.train_pairs)), dtype=int)
        for pair in (self.train_pairs[int(place)].read_by(name) for place in places):
            ids, starts = zip(*((each.ids, each.prompt_length) for each in pair.responses), strict=True)
            keys = [response_key(each) for each in pair.responses]
            yield collate_responses(ids, starts, keys, pad_id_of(self._tokenizer_of(name)))

    def train_scores(self) -> PairScores:
        """Scores of all training pairs, (n_train,) each: for statistics over the whole set."""
        scores = self._scored(self.train_pairs).columns()
        if scores is None:
            raise WrongInput("there are no scores in live mode", "reference, teacher, cache_dir", "give all three")
        return scores

    def train_lengths(self) -> tuple[Tensor, Tensor]:
        """Tokens of the chosen and of the rejected responses, (n_train,) each, end of turn included."""
        both = ((len(pair.chosen.response), len(pair.rejected.response)) for pair in self.train_pairs)
        chosen, rejected = torch.from_numpy(np.fromiter(both, "i4, i4", len(self.train_pairs)).view("i4")).view(-1, 2).T
        return chosen, rejected

    def train_dataloader(self) -> DataLoader:
        """Shuffled pairs; in the middle of an epoch after a resumed checkpoint."""
        pairs, window = self._scored(self.train_pairs), self.sort_window
        lengths = None
        if window > 1:
            lengths = array("i", (len(pair.chosen.ids) + len(pair.rejected.response) for pair in self.train_pairs))
        sampler = training_sampler(self.trainer, len(pairs), self.batch_size, self.seed, lengths=lengths, window=window)
        return DataLoader(pairs, batch_sampler=sampler, collate_fn=self._collate)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader | list:
        """Held-out pairs, in order."""
        if not self.val_pairs:
            return []
        batches = shared_batches(self.trainer, len(self.val_pairs), self.batch_size)
        return DataLoader(self._scored(self.val_pairs), batch_sampler=batches, collate_fn=self._collate)  # type: ignore[arg-type]

    def predict_dataloader(self) -> list[DataLoader]:
        """Responses without a score: a loader for the reference, one for the teacher."""
        if not self.frozen:
            raise WrongInput(
                "there is nothing to score in live mode", "reference, teacher, cache_dir", "give all three"
            )
        self.final_metrics |= {"computed": 0, "reused": 0}
        # The reference last: a model that was tried stays in memory, and the reference is the first to score.
        batches = {name: self._unscored(name) for name in ("teacher", "reference")}
        return [unscored_loader(batches[name]) for name in ("reference", "teacher")]

    def _unscored(self, name: str) -> UnscoredBatches:
        """This rank's share of what the cache does not know."""
        packed, index = self.packing != "off", self._index(name)
        sharing = SHARING if packed else 1
        # Each rank's share is of all responses, not of the missing: ranks do not read the cache at one instant.
        groups = index.groups(sharing)
        share = groups if self.trainer is None else groups[self.trainer.global_rank :: self.trainer.world_size]
        known = index.known(self.cache(name))
        self.final_metrics["computed"] += len(index) - int(known.sum())
        self.final_metrics["reused"] += int(known.sum())
        rows = Unscored(index, share, known)
        collate = collator(pad_id_of(self._tokenizer_of(name)), packed=packed, token_budget=self.token_budget)
        if isinstance(self.score_batch_size, int):
            return UnscoredBatches(rows, batches_of(rows, groups=max(1, self.score_batch_size // sharing)), collate)
        if self.trainer is None:
            raise WrongInput("auto asks the module of a Trainer", "score_batch_size", "set a number")
        tokens = 1
        if len(rows):
            lengths, module = rows.lengths(), cast(Any, self.trainer.lightning_module)
            worst = rows[int(lengths.argmax())]
            tokens = module.tokens_a_batch(name, lambda n: collate([worst] * n), int(lengths.max()), len(rows))
        return UnscoredBatches(rows, batches_of(rows, tokens=tokens), collate)

    def _index(self, name: str) -> ResponseIndex:
        """The responses as this model reads them; where both read the same tokens, one index serves both."""
        whose = name if self.teacher_tokenizer is not None else "reference"
        if whose not in self._indexes:
            self._indexes[whose] = ResponseIndex(self._pairs, whose)
        return self._indexes[whose]

    def _tokenizer_of(self, name: str) -> PreTrainedTokenizerBase:
        return self.teacher_tokenizer if name == "teacher" and self.teacher_tokenizer is not None else self.tokenizer

    def _scored(self, pairs: Sequence[EncodedPair]) -> ScoredPairs:
        if not self.frozen:
            return ScoredPairs(pairs, None)
        return with_scores(pairs, self.cache("reference"), self.cache("teacher"), self._where)

    @property
    def _collate(self):
        pad_id = pad_id_of(self.tokenizer)
        if self.packing == "off":
            return partial(collate_pairs, pad_id=pad_id)
        return partial(pack_pairs, pad_id=pad_id, token_budget=self.token_budget)

    @property
    def _where(self) -> str:
        return source_name(self.data)
