"""Responses that are still without a score, in batches: a prompt's responses side by side, the longest first."""

from collections.abc import Mapping, Sequence
from functools import partial

from torch.utils.data import DataLoader

from datamodules.batches import PackedTokenBatch, TokenBatch
from datamodules.collate import collate_responses
from datamodules.encoding import EncodedResponse
from datamodules.packing import pack

Group = list[tuple[str, EncodedResponse]]
"""Keys and responses, to one prompt."""
SHARING = 2
"""Responses that share a prompt, as in training: more would save less and less, and batches would differ in size."""


def share_prompts(responses: Mapping[str, EncodedResponse], most: int = SHARING) -> list[Group]:
    """Responses by key in groups that answer one prompt, of ``most`` at most; the group of most tokens first."""
    answers: dict[bytes, Group] = {}
    for key, response in responses.items():
        answers.setdefault(response.prompt.tobytes(), []).append((key, response))
    groups = [each[start : start + most] for each in answers.values() for start in range(0, len(each), most)]
    return sorted(groups, key=lambda group: -sum(len(response.ids) for _, response in group))


def unscored_loader(
    groups: Sequence[Group],
    known: Mapping[str, float],
    batch_size: int,
    pad_id: int,
    *,
    packed: bool,
    token_budget: int | None = None,
) -> DataLoader:
    """Batches of the responses whose key is not known yet.

    Args:
        groups: Of ``share_prompts``; those of a padded batch hold one response each.
        known: What the cache holds.
        batch_size: Responses a batch, or a few less.
        pad_id: Fills up rows.
        packed: ``PackedTokenBatch``es, else ``TokenBatch``es; the row ids are the keys.
        token_budget: See ``pack``.
    """
    missing = [[(key, response) for key, response in group if key not in known] for group in groups]
    rows = [group for group in missing if group]
    if packed:
        collate = partial(_pack_keyed, pad_id=pad_id, token_budget=token_budget)
        return DataLoader(rows, batch_size=max(1, batch_size // SHARING), collate_fn=collate)  # type: ignore[arg-type]
    return DataLoader(rows, batch_size=batch_size, collate_fn=partial(_collate_keyed, pad_id=pad_id))  # type: ignore[arg-type]


def _pack_keyed(batch: list[Group], pad_id: int, token_budget: int | None) -> PackedTokenBatch:
    keys = [key for group in batch for key, _ in group]
    prompts = [group[0][1].prompt for group in batch]
    answers = [(which, response.response) for which, group in enumerate(batch) for _, response in group]
    return pack(prompts, answers, keys, pad_id, token_budget)


def _collate_keyed(batch: list[Group], pad_id: int) -> TokenBatch:
    keys, responses = zip(*(pair for group in batch for pair in group), strict=True)
    return collate_responses([r.ids for r in responses], [r.prompt_length for r in responses], keys, pad_id)
