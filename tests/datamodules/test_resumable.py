import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from datamodules.resumable import ResumableBatchSampler, shared_batches, training_sampler
from datamodules.wrong_input import WrongInput

ROWS, BATCH = 22, 4  # five batches an epoch, two rows left over


def epoch_of(rows: int, batch: int, seed: int, epoch: int, world: int = 1, done: int = 0) -> list[list[list[int]]]:
    """Batches of each rank."""
    samplers = [
        ResumableBatchSampler(rows, batch, seed, rank=rank, world=world, position=lambda: (epoch, done))
        for rank in range(world)
    ]
    passes = [list(sampler) for sampler in samplers]
    assert all(len(batches) == len(sampler) - done for batches, sampler in zip(passes, samplers, strict=True))
    return passes


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_ranks_share_an_epoch_with_no_row_twice_and_less_than_a_batch_left_over(data):
    world = data.draw(st.integers(1, 4))
    rows, batch = data.draw(st.integers(world, 50)), data.draw(st.integers(1, 12))
    ranks = epoch_of(rows, batch, data.draw(st.integers(0, 9)), data.draw(st.integers(0, 5)), world)
    seen = [row for batches in ranks for part in batches for row in part]
    assert len(set(seen)) == len(seen)
    assert set(seen) <= set(range(rows))
    assert rows - len(seen) < min(batch, rows // world) * world
    assert {len(part) for batches in ranks for part in batches} == {min(batch, rows // world)}


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 9), st.integers(0, 5), st.integers(0, 5), st.integers(1, 2))
def test_the_rest_of_an_epoch_is_the_same_however_much_of_it_is_done(seed, epoch, done, world):
    whole = epoch_of(40, 4, seed, epoch, world)
    rest = epoch_of(40, 4, seed, epoch, world, done=done)
    assert rest == [batches[done:] for batches in whole]


LENGTHS = [(7 * row) % 40 for row in range(40)]


def windowed(window: int, world: int = 1, done: int = 0, epoch: int = 0, shuffle: bool = True) -> list[list[list[int]]]:
    """Batches of each rank, sorted in windows."""
    settings = {"world": world, "lengths": LENGTHS, "window": window, "shuffle": shuffle}
    ranks = range(world)
    return [
        list(ResumableBatchSampler(40, 3, 5, rank=rank, position=lambda: (epoch, done), **settings)) for rank in ranks
    ]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 20), st.integers(1, 3), st.integers(0, 4), st.integers(0, 3))
def test_a_window_sorts_its_rows_and_nothing_else(window, world, done, epoch):
    ranks, plain = windowed(window, world, epoch=epoch), windowed(1, world, epoch=epoch)
    steps = [sum(parts, []) for parts in zip(*ranks, strict=True)]
    unsorted = [sum(parts, []) for parts in zip(*plain, strict=True)]
    for start in range(0, len(steps), window):
        here, there = (sum(each[start : start + window], []) for each in (steps, unsorted))
        assert sorted(here) == sorted(there)  # the window's own rows
        if window > 1:
            by_length = sorted(steps[start : start + window], key=lambda step: LENGTHS[step[0]])
            lengths = [LENGTHS[row] for step in by_length for row in step]
            assert lengths == sorted(lengths)  # of like length in a step
    assert [batches[done:] for batches in ranks] == windowed(window, world, done, epoch)  # resumed


def test_the_steps_of_a_window_stay_in_random_order():
    firsts = [[LENGTHS[batch[0]] for batch in windowed(13, epoch=epoch)[0]] for epoch in range(3)]
    assert all(lengths != sorted(lengths) for lengths in firsts)
    assert firsts[0] != firsts[1]
    (in_order,) = windowed(13, shuffle=False)
    assert [LENGTHS[row] for batch in in_order for row in batch] == sorted(LENGTHS[:39])


@pytest.mark.parametrize(("window", "lengths"), [(0, [1] * 4), (2, None), (2, [1] * 3)])
def test_a_window_needs_lengths(window, lengths):
    with pytest.raises(WrongInput, match=f"a window of {window} steps"):
        ResumableBatchSampler(4, 2, 0, window=window, lengths=lengths)


def test_each_epoch_and_seed_has_an_order_of_its_own():
    orders = {str(epoch_of(40, 4, seed, epoch)) for seed in range(3) for epoch in range(4)}
    assert len(orders) == 12
    assert epoch_of(40, 4, 1, 2) == epoch_of(40, 4, 1, 2)
    unshuffled = ResumableBatchSampler(10, 3, 0, shuffle=False)
    assert list(unshuffled) == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


@pytest.mark.parametrize(("rows", "batch", "world"), [(0, 4, 1), (4, 0, 1), (1, 4, 2)])
def test_what_cannot_be_shared_out_is_refused(rows, batch, world):
    with pytest.raises(WrongInput, match=f"{rows} rows"):
        ResumableBatchSampler(rows, batch, 0, world=world)


class Rank:
    def __init__(self, global_rank: int, world_size: int):
        self.global_rank, self.world_size = global_rank, world_size


@settings(max_examples=200, deadline=None)
@given(rows=st.integers(1, 40), size=st.integers(1, 9), world=st.integers(1, 5))
def test_each_row_is_looked_at_once_in_as_many_batches_on_every_rank(rows, size, world):
    """Ranks that share a model wait for one another in every batch."""
    ranks = [shared_batches(Rank(rank, world), rows, size) for rank in range(world)]  # type: ignore[arg-type]
    seen = sorted(row for batches in ranks for batch in batches for row in batch)
    assert seen == [0] * max(world - rows, 0) + list(range(rows))
    assert len({len(batches) for batches in ranks}) == 1
    assert all(1 <= len(batch) <= max(size, 2 if world > 1 else 1) for batches in ranks for batch in batches)


def test_one_process_looks_at_rows_in_order():
    assert shared_batches(None, 5, 2) == shared_batches(Rank(0, 1), 5, 2) == [[0, 1], [2, 3], [4]]  # type: ignore[arg-type]


class Rows(LightningDataModule):
    def __init__(self, validated: bool, workers: int = 0):
        super().__init__()
        self.validated, self.workers = validated, workers

    def train_dataloader(self) -> DataLoader:
        sampler = training_sampler(self.trainer, ROWS, BATCH, seed=7)
        return DataLoader(torch.arange(ROWS), batch_sampler=sampler, num_workers=self.workers)  # type: ignore[arg-type]

    def val_dataloader(self) -> Any:
        return DataLoader(torch.arange(4), batch_size=2) if self.validated else []  # type: ignore[arg-type]


class Line(LightningModule):
    """Remembers every batch it is trained on; its weight depends on their order."""

    def __init__(self):
        super().__init__()
        self.line, self.seen = torch.nn.Linear(1, 1), []
        torch.nn.init.ones_(self.line.weight)
        torch.nn.init.zeros_(self.line.bias)

    def training_step(self, batch, batch_idx):
        self.seen.append((batch_idx, batch.tolist()))
        return self.line(batch[:, None] / ROWS).pow(2).mean()

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-2)


class Killed(Exception):
    pass


class Kill(Callback):
    """The end comes in the middle of batch number ``after``, counted from the start of this process."""

    def __init__(self, after: int):
        self.after = after

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if self.after == 0:
            raise Killed
        self.after -= 1


def fit(
    folder: Path | None,
    limits: dict[str, int],
    saving: dict[str, Any],
    *,
    ckpt=None,
    kill=None,
    validated=False,
    **more,
) -> Line:
    """Train; with a folder, leaving checkpoints there."""
    module, data = Line(), Rows(validated, more.pop("workers", 0))
    callbacks: list[Callback] = [] if kill is None else [Kill(kill)]
    if folder is not None:
        callbacks.append(ModelCheckpoint(folder, "{step}", save_top_k=-1, enable_version_counter=False, **saving))
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=folder is not None,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        callbacks=callbacks,
        **limits,
        **more,
    )
    try:
        trainer.fit(module, data, ckpt_path=ckpt, weights_only=True)
    except Killed:
        assert kill is not None
    return module


def batches_of(checkpoint: Path | None, accumulated: int) -> int:
    """Batches that a checkpoint has behind it; five an epoch, in as many steps as their sums make."""
    step = int(checkpoint.stem.removeprefix("step=")) if checkpoint else 0
    epochs, steps = divmod(step, -(-5 // accumulated))
    return epochs * 5 + steps * accumulated


def checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.ckpt"), key=lambda path: int(path.stem.removeprefix("step=")))


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("lightning.pytorch")
    before = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(before)


EPOCHS, STEPS = {"max_epochs": 4}, {"max_epochs": -1, "max_steps": 11}
EVERY_STEP, EVERY_3, EVERY_EPOCH = {"every_n_train_steps": 1}, {"every_n_train_steps": 3}, {"every_n_epochs": 1}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("validated", [False, True])
@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize(
    ("limits", "saving"),
    [(EPOCHS, EVERY_STEP), (EPOCHS, EVERY_3), (EPOCHS, EVERY_EPOCH), (STEPS, EVERY_STEP), (STEPS, EVERY_EPOCH)],
)
def test_training_goes_on_from_every_checkpoint_as_if_nothing_had_been(
    tmp_path, limits, saving, accumulated, validated
):
    settings = {"accumulate_grad_batches": accumulated, "validated": validated}
    whole = fit(tmp_path, limits, saving, **settings)
    assert [index for index, _ in whole.seen] == [i % 5 for i in range(len(whole.seen))]
    found = checkpoints(tmp_path)
    assert len(found) >= 3 - (saving == EVERY_EPOCH and limits == STEPS)
    for path in found:
        resumed = fit(None, limits, saving, ckpt=path, **settings)
        assert resumed.seen == whole.seen[batches_of(path, accumulated) :], path.name
        if resumed.seen:  # with nothing left to do Lightning does not restore the module of a finished run alike
            assert torch.equal(resumed.line.weight, whole.line.weight)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize("saving", [EVERY_STEP, EVERY_3, {"every_n_train_steps": 5}, EVERY_EPOCH])
@pytest.mark.parametrize("limits", [{"max_epochs": 6}, {"max_epochs": -1, "max_steps": 27}])
def test_killed_again_and_again_it_sees_the_very_same_rows(tmp_path, limits, saving, accumulated):
    settings = {"accumulate_grad_batches": accumulated, "saving": saving}
    whole = fit(tmp_path / "whole", limits, **settings)
    assert len({str(rows) for _, rows in whole.seen}) == len(whole.seen)  # no two epochs alike
    seen: list[Any] = []
    lives = 0
    while len(seen) < len(whole.seen):
        found = checkpoints(tmp_path / "killed")
        ckpt = found[-1] if found else None
        del seen[batches_of(ckpt, accumulated) :]  # what was trained after the last checkpoint is lost
        one = fit(tmp_path / "killed", limits, ckpt=ckpt, kill=11, **settings)
        seen += one.seen
        lives += 1
    assert lives > 2
    assert seen == whole.seen
    assert torch.equal(one.line.weight, whole.line.weight)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kill", [4, 5, 7])
def test_a_batch_that_was_begun_and_not_stepped_on_comes_again(tmp_path, kill):
    whole = fit(None, EPOCHS, {})
    first = fit(tmp_path, EPOCHS, {"every_n_train_steps": 100, "save_on_exception": True}, kill=kill)
    (path,) = tmp_path.glob("*.ckpt")
    resumed = fit(None, EPOCHS, {}, ckpt=path)
    assert first.seen + resumed.seen == whole.seen
    assert torch.equal(resumed.line.weight, whole.line.weight)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_epochs_that_are_cut_short_go_on_where_they_were(tmp_path):
    whole = fit(tmp_path, EPOCHS, EVERY_STEP, limit_train_batches=3)
    assert len(whole.seen) == 12
    for path in checkpoints(tmp_path)[:-1]:
        resumed = fit(None, EPOCHS, {}, ckpt=path, limit_train_batches=3)
        assert resumed.seen == whole.seen[int(path.stem.removeprefix("step=")) :]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_worker_processes_change_nothing(tmp_path):
    limits = {"max_epochs": 2}
    whole = fit(tmp_path, limits, EVERY_STEP)
    for path in [None, *checkpoints(tmp_path)[3:5]]:
        resumed = fit(None, limits, {}, ckpt=path, workers=1)
        assert resumed.seen == whole.seen[batches_of(path, 1) :]
