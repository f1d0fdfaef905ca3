"""What does not fit into memory, done in halves."""

from collections.abc import Callable

import torch

from datamodules.batches import PackedPrompt, PackedTokenBatch, TokenBatch
from datamodules.wrong_input import WrongInput

Batch = TokenBatch | PackedTokenBatch


class Halving:
    """Scores a batch whole or, where the device runs out of memory, in halves of halves.

    What did not fit is not tried again.

    Args:
        where: Names the model in messages.
    """

    def __init__(self, where: str):
        self.where = where
        self.too_many: int | None = None
        """Responses that did not fit at one time."""

    def __call__(self, score: Callable[[Batch], list[float]], batch: Batch) -> list[float]:
        """What ``score`` gives for each response of the batch, in its order.

        Raises:
            WrongInput: Not even one response fits.
        """
        count = len(batch.row_ids)
        if count == 1 or self.too_many is None or count < self.too_many:
            try:
                return score(batch)
            except torch.OutOfMemoryError as error:
                if count == 1:
                    said = f"a response does not fit into memory: {str(error).partition(chr(10))[0]}"
                    mend = "lower max_length, or take a larger device"
                    raise WrongInput(said, f"{self.where}, {batch.row_ids[0]}", mend) from error
                self.too_many = count
            torch.cuda.empty_cache()  # out of the handler, whose traceback holds the tensors; nothing without CUDA
        scores = [0.0] * count
        for part, places in halves(batch):
            for place, value in zip(places, self(score, part), strict=True):
                scores[place] = value
        return scores


def halves(batch: Batch) -> list[tuple[Batch, list[int]]]:
    """Two batches of half the responses each, and where these were; packed prompts stay with their responses.

    Args:
        batch: Of two responses at least.
    """
    if isinstance(batch, TokenBatch):
        middle = len(batch.row_ids) // 2
        ends = ((0, middle), (middle, len(batch.row_ids)))
        return [(_rows(batch, start, end), list(range(start, end))) for start, end in ends]
    if len(batch.layout) == 1:
        return halves(batch.padded())
    apart, middle = batch.apart(), len(batch.layout) // 2
    return [_prompts(apart, 0, middle), _prompts(apart, middle, len(batch.layout))]


def _rows(batch: TokenBatch, start: int, end: int) -> TokenBatch:
    width = int(batch.attention_mask[start:end].sum(-1).max())
    input_ids, attention, response = (field[start:end, :width] for field in batch[:3])
    return TokenBatch(input_ids, attention, response, batch.row_ids[start:end])


def _prompts(apart: PackedTokenBatch, start: int, end: int) -> tuple[PackedTokenBatch, list[int]]:
    """Some rows of a batch with one prompt a row."""
    places = sorted(number for prompt in apart.layout[start:end] for number, _ in prompt.responses)
    renumbered = {number: at for at, number in enumerate(places)}
    layout = [
        PackedPrompt(row - start, at, length, [(renumbered[number], tokens) for number, tokens in held])
        for row, at, length, held in apart.layout[start:end]
    ]
    width = max(length + sum(tokens for _, tokens in held) for _, _, length, held in layout)
    old = apart.input_ids.shape[1]
    kept = torch.isin(apart.owners, torch.tensor(places, device=apart.owners.device))
    states, owners = apart.states[kept], apart.owners[kept]
    new_owner = torch.full((len(apart.row_ids),), -1, device=owners.device)
    new_owner[places] = torch.arange(len(places), device=owners.device)
    ids, positions, prompts, responses = (field[start:end, :width] for field in apart[:4])
    numbers = torch.where(responses >= 0, new_owner[responses.clamp(min=0).long()], -1).to(responses.dtype)
    part = PackedTokenBatch(
        input_ids=ids,
        position_ids=positions,
        prompts=torch.where(prompts >= 0, prompts - start, -1),
        responses=numbers,
        states=(states // old - start) * width + states % old,
        targets=apart.targets[kept],
        owners=new_owner[owners],
        layout=layout,
        row_ids=[apart.row_ids[place] for place in places],
    )
    return part, places
