"""Checkpoints that a kill cannot spoil."""

import logging
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

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


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in a folder that can be read; one that cannot be is said and removed."""
    found = sorted(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in found:
        try:
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
            log.warning("%s cannot be read (%s); going on from the one before", path, error)
            path.unlink()
            continue
        return path
    return None
