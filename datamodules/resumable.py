"""A training order that is the same however often a run is interrupted."""

import math
from array import array
from collections.abc import Callable, Iterator, Sequence, Set
from itertools import pairwise

import torch
from lightning import Trainer
from torch import Tensor
from torch.utils.data import Sampler

from datamodules.wrong_input import WrongInput


class ResumableBatchSampler(Sampler[list[int]]):
    """Batches of row numbers: a new permutation each epoch, and every rank its share.

    The order is a function of seed and epoch alone, so going on in the middle of an epoch is skipping its first
    batches.

    Args:
        rows: Number of rows.
        batch_size: Rows a batch and rank. Rows that do not fill a batch on every rank are left out, other ones each
            epoch; where there are too few for one batch, batches are smaller instead.
        seed: Of the permutations.
        shuffle: False keeps the rows' order.
        rank: Of this process.
        world: Number of processes; each takes every world-th batch-sized slice.
        lengths: Of the rows, in tokens; needed for a window.
        window: Steps whose rows are sorted by length among them, so that a batch's rows are of like length and take
            little padding; the steps themselves stay in random order. 1: rows as they fall.
        position: Asked at the start of each pass: its epoch, and how many of the epoch's batches are done already.

    Raises:
        WrongInput: Fewer rows than processes.
    """

    def __init__(
        self,
        rows: int,
        batch_size: int,
        seed: int,
        *,
        shuffle: bool = True,
        rank: int = 0,
        world: int = 1,
        lengths: Sequence[int] | None = None,
        window: int = 1,
        position: Callable[[], tuple[int, int]] = lambda: (0, 0),
    ):
        if batch_size < 1 or rows < 1:
            raise WrongInput(f"{rows} rows in batches of {batch_size}", "batch_size", "set 1 or more, and give rows")
        if rows < world:
            raise WrongInput(
                f"{rows} rows for {world} processes", "trainer.devices", "give more rows, or fewer devices"
            )
        if window < 1 or (window > 1 and (lengths is None or len(lengths) != rows)):
            raise WrongInput(f"a window of {window} steps", "sort_window", "set 1 or more, with a length for each row")
        self.lengths, self.window = lengths, window
        self.rows, self.seed, self.shuffle = rows, seed, shuffle
        self.batch_size = min(batch_size, rows // world)
        self.rank, self.world, self.position = rank, world, position

    def __len__(self) -> int:
        """Batches an epoch and rank."""
        return self.rows // (self.batch_size * self.world)

    def __iter__(self) -> Iterator[list[int]]:
        """Batches of this rank, from the first not yet done."""
        epoch, done = self.position()
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(self.rows, generator=generator) if self.shuffle else torch.arange(self.rows)
        if self.window > 1:
            order = self._sorted_in_windows(order[: len(self) * self.batch_size * self.world], generator)
        for step in range(done, len(self)):
            start = (step * self.world + self.rank) * self.batch_size
            yield order[start : start + self.batch_size].tolist()

    def _sorted_in_windows(self, order: Tensor, generator: torch.Generator) -> Tensor:
        assert self.lengths is not None
        step, done = self.batch_size * self.world, array("q")
        for start in range(0, len(order), self.window * step):
            rows = sorted(order[start : start + self.window * step].tolist(), key=self.lengths.__getitem__)
            places = range(len(rows) // step)
            chosen = torch.randperm(len(places), generator=generator).tolist() if self.shuffle else places
            done.extend(row for place in chosen for row in rows[place * step : (place + 1) * step])
        return torch.frombuffer(done, dtype=torch.int64)


def training_sampler(
    trainer: Trainer | None,
    rows: int,
    batch_size: int,
    seed: int,
    *,
    lengths: Sequence[int] | None = None,
    window: int = 1,
) -> ResumableBatchSampler:
    """The sampler of this rank, which goes on wherever a resumed trainer has got to."""
    if trainer is None:
        return ResumableBatchSampler(rows, batch_size, seed, lengths=lengths, window=window)

    def position() -> tuple[int, int]:
        done: int = trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]
        if math.isinf(trainer.num_training_batches):  # not known yet: worker processes ask before the first epoch
            return divmod(done, len(sampler))
        epoch, of_it = divmod(done, int(trainer.num_training_batches))
        _set_epoch(trainer, epoch)
        return epoch, of_it

    sampler = ResumableBatchSampler(
        rows,
        batch_size,
        seed,
        rank=trainer.global_rank,
        world=trainer.world_size,
        lengths=lengths,
        window=window,
        position=position,
    )
    return sampler


def _set_epoch(trainer: Trainer, epoch: int) -> None:
    """Put Lightning's count of epochs right, at the start of one.

    Going on from a checkpoint at an epoch's end, it does not count the next one as begun (from a second such checkpoint
    it then goes on wrongly) or, where max_steps is set, counts the last one twice.
    """
    progress = trainer.fit_loop.epoch_progress
    for count in (progress.total, progress.current):
        count.ready = count.started = epoch + 1  # type: ignore[attr-defined]
        count.processed = count.completed = epoch  # type: ignore[attr-defined]


def shared_batches(trainer: Trainer | None, rows: int, size: int) -> list[list[int]]:
    """Batches of row numbers, for loops that look at each row once: this rank's, as many as every other rank has.

    Ranks whose models are sharded wait for one another in every batch; one batch more on one of them would wait for
    ever. A rank takes every world-th row; where there are fewer rows than ranks, the first row stands in.

    Args:
        trainer: Knows the rank. None: one process.
        rows: Number of rows, at least 1.
        size: Rows a batch at most. (Of uneven shares, a batch of 1 may become one of 2.)
    """
    if trainer is None or trainer.world_size == 1:
        return [list(range(start, min(start + size, rows))) for start in range(0, rows, size)]
    world = trainer.world_size
    share = list(range(trainer.global_rank, rows, world)) or [0]
    count = min(max(rows // world, 1), math.ceil(math.ceil(rows / world) / size))
    bounds = [len(share) * number // count for number in range(count + 1)]
    return [share[start:end] for start, end in pairwise(bounds)]


def open_batches(trainer: Trainer | None, places: Sequence[str], size: int, done: Set[str]) -> list[list[str]]:
    """This rank's batches of rows of which not all are done.

    Batches are made of the same rows however often a run is interrupted. A rank's share is of all batches, not of those
    to do: ranks do not read what is done at one instant.

    Raises:
        WrongInput: Batches of no rows.
    """
    if size < 1:
        raise WrongInput(f"batches of {size}", "batch_size", "set 1 or more")
    groups = [list(places[start : start + size]) for start in range(0, len(places), size)]
    if trainer is not None:
        groups = groups[trainer.global_rank :: trainer.world_size]
    return [group for group in groups if not done >= set(group)]
