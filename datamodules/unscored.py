"""Responses that are still without a score, in batches: a prompt's responses side by side, the longest first."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from torch.utils.data import DataLoader

from datamodules.batches import PackedTokenBatch, TokenBatch
from datamodules.collate import collate_responses
from datamodules.encoding import EncodedResponse
from datamodules.packing import pack
from datamodules.response_index import ResponseIndex

Group = list[tuple[str, EncodedResponse]]
"""Keys and responses, to one prompt."""
Batch = TokenBatch | PackedTokenBatch
Collate = Callable[[Sequence[Group]], Batch]
SHARING = 2
"""Responses that share a prompt, as in training: more would save less and less, and batches would differ in size."""


class Unscored(Sequence[Group]):
    """Groups of responses, read from disk when they are asked for.

    Args:
        index: Of all responses.
        groups: (g, most) places, of ``ResponseIndex.groups``; those of a padded batch hold one response each.
        known: (2·n,) bool, the places that need no score; groups that need none are left out.
    """

    def __init__(self, index: ResponseIndex, groups: np.ndarray, known: np.ndarray):
        missing = (groups >= 0) & ~known[groups]
        self.responses = index
        self._groups = np.where(missing, groups, -1)[missing.any(1)]

    def __len__(self) -> int:
        """Number of groups."""
        return len(self._groups)

    def __getitem__(self, number: int) -> Group:  # type: ignore[override]
        """A group."""
        places = [int(place) for place in self._groups[number] if place >= 0]
        return [(self.responses.key(place), self.responses.response(place)) for place in places]

    def lengths(self) -> np.ndarray:
        """(g,) tokens of each group, its prompt once."""
        of_responses = np.where(self._groups >= 0, self.responses.lengths[self._groups], 0).sum(1)
        return of_responses + self.responses.prompt_lengths[self._groups.max(1) // 2]


def collator(pad_id: int, *, packed: bool, token_budget: int | None = None) -> Collate:
    """What makes a batch of groups: a ``PackedTokenBatch``, else a ``TokenBatch``; the row ids are the keys.

    Args:
        pad_id: Fills up rows.
        packed: Each prompt once.
        token_budget: See ``pack``.
    """
    if packed:
        return partial(_pack_keyed, pad_id=pad_id, token_budget=token_budget)
    return partial(_collate_keyed, pad_id=pad_id)


def batches_of(rows: Unscored, *, groups: int | None = None, tokens: int | None = None) -> list[range]:
    """Which groups go into which batch, in their order.

    Args:
        rows: The groups.
        groups: So many a batch.
        tokens: So many a batch at most, padded to its longest group; a longer group has a batch of its own.
    """
    if groups is not None:
        return [range(start, min(start + groups, len(rows))) for start in range(0, len(rows), groups)]
    assert tokens is not None
    batches, start, longest = [], 0, 0
    for number, length in enumerate(rows.lengths().tolist()):
        longest = max(longest, length)
        if number > start and longest * (number - start + 1) > tokens:
            batches.append(range(start, number))
            start, longest = number, length
    return [*batches, range(start, len(rows))] if len(rows) else []


class UnscoredBatches(Sequence[Batch]):
    """Batches of groups, put together when they are asked for.

    Args:
        rows: The groups.
        batches: Of ``batches_of``.
        collate: Of ``collator``.
    """

    def __init__(self, rows: Unscored, batches: Sequence[range], collate: Collate):
        self.rows, self._batches, self._collate = rows, batches, collate

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._batches)

    def __getitem__(self, number: int) -> Batch:  # type: ignore[override]
        """A batch."""
        return self._collate([self.rows[group] for group in self._batches[number]])

    @property
    def tokens(self) -> int:
        """Of all batches, a group's prompt once; padding left out."""
        return int(self.rows.lengths().sum())


def unscored_loader(batches: UnscoredBatches) -> DataLoader:
    """A loader of them; Lightning takes no batch sampler of another's in its predict loop."""
    return DataLoader(batches, batch_size=None, collate_fn=_as_it_is)  # type: ignore[arg-type]


def _as_it_is(batch: Batch) -> Batch:
    return batch


def _pack_keyed(batch: Sequence[Group], pad_id: int, token_budget: int | None) -> PackedTokenBatch:
    keys = [key for group in batch for key, _ in group]
    prompts = [group[0][1].prompt for group in batch]
    answers = [(which, response.response) for which, group in enumerate(batch) for _, response in group]
    return pack(prompts, answers, keys, pad_id, token_budget)


def _collate_keyed(batch: Sequence[Group], pad_id: int) -> TokenBatch:
    keys, responses = zip(*(pair for group in batch for pair in group), strict=True)
    return collate_responses([r.ids for r in responses], [r.prompt_length for r in responses], keys, pad_id)
