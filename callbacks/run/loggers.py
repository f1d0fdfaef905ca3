"""Loggers that need a word said: W&B without a key, and W&B after a crash."""

import logging
import netrc
import os
import sys
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger

log = logging.getLogger(__name__)


def wandb_logger(save_dir: str, **settings: Any) -> WandbLogger:
    """A W&B logger that runs offline, and says so, where there is no key.

    Args:
        save_dir: Of the run's files.
        **settings: As ``lightning.pytorch.loggers.WandbLogger`` takes them.
    """
    if not settings.get("offline") and "WANDB_MODE" not in os.environ and not _has_key():
        settings["offline"] = True
        log.warning(
            "W&B: there is no key, so the run is kept offline under %s; `wandb login`, then `wandb sync` sends it",
            save_dir,
        )
    Path(save_dir).mkdir(parents=True, exist_ok=True)
    return WandbLogger(save_dir=save_dir, **settings)


def close_loggers(ok: bool) -> None:
    """End an open W&B run as finished or as failed, so that no dashboard shows a dead run as running."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and getattr(wandb, "run", None) is not None:
        wandb.finish(exit_code=0 if ok else 1)


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False
