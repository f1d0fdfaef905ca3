"""Preference pairs with what reference and teacher say of them, and their batches."""

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch

from datamodules.batches import PackedPairBatch, PairBatch, PairScores
from datamodules.collate import collate_responses
from datamodules.encoding import EncodedResponse
from datamodules.packing import pack
from datamodules.pairs import EncodedPair
from datamodules.score_cache import ScoreCache, score_key
from datamodules.wrong_input import WrongInput

PAIRS_A_LOOK = 1000
"""Whose keys are in memory at one time."""


class ScoredPair(NamedTuple):
    """A pair and the four numbers that training needs of it."""

    pair: EncodedPair
    scores: tuple[float, float, float, float] | None
    """In the order of ``PairScores``; None in live mode."""


def response_key(response: EncodedResponse) -> str:
    """The response's key in every score cache."""
    return score_key(response.ids, response.prompt_length)


class ScoredPairs(Sequence[ScoredPair]):
    """Pairs with their scores, put together when they are asked for.

    Args:
        pairs: N encoded pairs.
        scores: (N, 4) float32, columns in the order of ``PairScores``; None in live mode.
    """

    def __init__(self, pairs: Sequence[EncodedPair], scores: np.ndarray | None):
        self.pairs, self.scores = pairs, scores

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.pairs)

    def __getitem__(self, place: int) -> ScoredPair:  # type: ignore[override]
        """One pair with its scores."""
        return ScoredPair(self.pairs[place], None if self.scores is None else tuple(self.scores[place].tolist()))

    def columns(self) -> PairScores | None:
        """The scores of all pairs, or None in live mode."""
        return None if self.scores is None else PairScores(*torch.from_numpy(self.scores).T)


def with_scores(pairs: Sequence[EncodedPair], reference: ScoreCache, teacher: ScoreCache, where: str) -> ScoredPairs:
    """The pairs with their scores from both caches, looked up some pairs at a time.

    Args:
        pairs: Encoded pairs.
        reference: The reference's scores.
        teacher: The teacher's.
        where: Names the data in messages.

    Raises:
        WrongInput: A response has no score, with the first such row.
    """
    scores = np.full((len(pairs), 4), np.nan, dtype=np.float32)
    rows = iter(pairs)
    for start in range(0, len(pairs), PAIRS_A_LOOK):
        some = list(islice(rows, PAIRS_A_LOOK))
        for column, name, cache in ((0, "reference", reference), (2, "teacher", teacher)):
            keys = [[response_key(response) for response in pair.read_by(name).responses] for pair in some]
            known = cache.read(key for both in keys for key in both)
            found = [[known.get(key, np.nan) for key in both] for both in keys]
            scores[start : start + len(some), column : column + 2] = found
    for column, name in ((0, "reference"), (2, "teacher")):
        lacking = np.flatnonzero(np.isnan(scores[:, column : column + 2]).any(1))  # what is cached is finite
        if len(lacking):
            raise WrongInput(
                f"{len(lacking)} of {len(pairs)} pairs have no score of the {name}",
                f"{where}, first at {pairs[int(lacking[0])].chosen.place}",
                "run the scores stage on the same data, models and dtype first",
            )
    return ScoredPairs(pairs, scores)


def stack_scores(scored: Sequence[ScoredPair]) -> PairScores | None:
    """The scores as columns, or None in live mode."""
    rows = [scores for _, scores in scored if scores is not None]
    return PairScores(*torch.tensor(rows, dtype=torch.float32).T.contiguous()) if rows else None


def collate_pairs(batch: Sequence[ScoredPair], pad_id: int) -> PairBatch:
    """Batch of pairs, both sides padded to one length so that they can be stacked."""
    pairs = [pair for pair, _ in batch]
    length = max(len(response.ids) for pair in pairs for response in pair.responses)
    chosen, rejected = (
        collate_responses(
            [response.ids for response in side],
            [response.prompt_length for response in side],
            [response.place for response in side],
            pad_id,
            length,
        )
        for side in zip(*(pair.responses for pair in pairs), strict=True)
    )
    return PairBatch(chosen, rejected, stack_scores(batch))


def pack_pairs(batch: Sequence[ScoredPair], pad_id: int, token_budget: int | None = None) -> PackedPairBatch:
    """Batch of pairs in packed rows; see ``pack`` for the budget."""
    pairs = [pair for pair, _ in batch]
    prompts = [pair.chosen.prompt for pair in pairs]
    responses = [(i, pair.responses[side]) for side in (0, 1) for i, pair in enumerate(pairs)]
    names = [response.place for _, response in responses]
    tokens = pack(prompts, [(i, response.response) for i, response in responses], names, pad_id, token_budget)
    return PackedPairBatch(tokens, stack_scores(batch))
