"""Checkpoints that a kill cannot spoil: a file, or of a sharded run a folder with a part a process."""

import logging
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from datamodules.wrong_input import WrongInput

REST = "meta.pt"
"""What a folder holds beside weights and optimizer states: Lightning's loops, callbacks and schedulers."""
UNREADABLE = (RuntimeError, OSError, EOFError, pickle.UnpicklingError, CheckpointException)

log = logging.getLogger(__name__)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint aside and renames it, so that a file that is there is whole."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write the checkpoint; whoever lists the folder sees the old state or the new."""
        aside = Path(f"{path}.{os.getpid()}.part")
        try:
            super().save_checkpoint(checkpoint, aside, storage_options)
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint into one process, be it a file or the folder of a sharded run."""
        if Path(path).is_dir():
            return gathered_checkpoint(Path(path))
        return super().load_checkpoint(path, map_location or (lambda storage, _: storage), weights_only)


def gathered_checkpoint(folder: Path) -> dict[str, Any]:
    """A sharded run's checkpoint as one that was never sharded, in main memory.

    Args:
        folder: As Lightning's ``ModelParallelStrategy`` writes it.
    """
    reader = FileSystemReader(folder)
    metadata = reader.read_metadata()
    flat: dict[str, Any] = {
        name: torch.empty(item.size, dtype=item.properties.dtype) if isinstance(item, TensorStorageMetadata) else None
        for name, item in metadata.state_dict_metadata.items()
    }
    load(flat, storage_reader=reader, no_dist=True)
    state = _nested({metadata.planner_data[name]: value for name, value in flat.items()})
    checkpoint = torch.load(folder / REST, map_location="cpu", weights_only=True)
    checkpoint["state_dict"] = state.pop("state_dict")
    checkpoint["optimizer_states"] = [_by_number(state[name]) for name in sorted(state)]
    return checkpoint


def _nested(flat: dict[tuple[Any, ...], Any]) -> dict[Any, Any]:
    """Dicts in dicts of values by their paths; what was a list is a dict by numbers."""
    nested: dict[Any, Any] = {}
    for (*way, last), value in flat.items():
        place = nested
        for step in way:
            place = place.setdefault(step, {})
        place[last] = value
    return nested


def _by_number(state: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state with its parameters' numbers, as torch keeps it, for their names."""
    groups, numbers = [], dict[str, int]()
    for _, group in sorted(state["param_groups"].items()):
        numbers |= {name: len(numbers) + i for i, name in enumerate(group["params"])}
        groups.append(group | {"params": [numbers[name] for name in group["params"]]})
    return {"state": {numbers[name]: moments for name, moments in state["state"].items()}, "param_groups": groups}


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in a folder that can be read; one that cannot be is said and removed."""
    found = sorted(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in found:
        try:
            _try_reading(path)
        except UNREADABLE as error:
            log.warning("%s cannot be read (%s); going on from the one before", path, error)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            continue
        return path
    return None


def check_checkpoint(path: str) -> Path:
    """The checkpoint that a user names, by itself or by a folder of which it is the newest.

    Raises:
        WrongInput: There is none that can be read.
    """
    place = Path(path)
    if place.is_dir() and (inside := sorted(place.glob("*.ckpt"), key=lambda found: found.stat().st_mtime_ns)):
        place = inside[-1]
    try:
        _try_reading(place)
    except UNREADABLE as error:
        mend = "name a .ckpt, or the folder checkpoints of a stage under cache/stages"
        raise WrongInput(f"no checkpoint can be read: {error}", str(place), mend) from error
    return place


def _try_reading(path: Path) -> None:
    """Read what can be read at once: a file's pickle, or of a folder that and the size of every part."""
    if not path.is_dir():
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return
    torch.load(path / REST, map_location="cpu", weights_only=True, mmap=True)
    for place in FileSystemReader(path).read_metadata().storage_data.values():
        if (path / place.relative_path).stat().st_size < place.offset + place.length:
            raise EOFError(f"{place.relative_path} is cut short")
