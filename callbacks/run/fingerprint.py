"""What a stage's result depends on, as one digest."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from datamodules.digest import data_digest, path_digest, text_digest
from datamodules.wrong_input import WrongInput

VIEW_ONLY = {
    "default_root_dir",
    "enable_checkpointing",
    "enable_model_summary",
    "enable_progress_bar",
    "log_every_n_steps",
    "logger",
    "profiler",
}
"""Trainer settings that show or store, and change no number."""


def fingerprint(stage: dict[str, Any], paths: dict[str, Any], digests: dict[str, str]) -> str:
    """Digest of a stage's settings and of the content of what it needs.

    Paths do not count, only what they lead to: a run may move. The project's own code counts.

    Args:
        stage: The stage's resolved config.
        paths: The run's ``paths`` group.
        digests: Path → digest, filled as needs are read, so that a run reads each once.

    Raises:
        WrongInput: Something the stage needs is not there.
    """
    needs = dict(_named_needs(stage.get("needs") or {}))
    content = {key: _digest_of(key, value, paths, digests) for key, value in needs.items()}
    known = {path: content[key] for key, path in needs.items()}
    trainer = {key: value for key, value in stage["trainer"].items() if key not in VIEW_ONLY}
    settings = stage | {"trainer": trainer, "needs": None}
    return data_digest({"settings": _portable(settings, known, paths), "needs": content, "code": _code()})


def _named_needs(needs: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The paths and Hub ids among the needs; rows made in process are settings, and stand in the config."""
    for key, value in needs.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, str):
                yield (key if item is value else f"{key}:{item}"), item


def _digest_of(key: str, value: str, paths: dict[str, Any], digests: dict[str, str]) -> str:
    path = Path(value)
    if path.exists():
        if value not in digests:
            digests[value] = path_digest(path)
        return digests[value]
    output_dir = Path(paths["output_dir"])
    if path.is_relative_to(output_dir):
        stage = path.relative_to(output_dir).parts[0]
        raise WrongInput(f"it needs what stage {stage} leaves", value, f"run that first: add {stage} to stages=")
    if path.is_absolute() or path.suffix in (".jsonl", ".json", ".parquet", ".csv") or value.startswith("."):
        raise WrongInput("there is no such file or folder", value, f"check {key.partition(':')[0]}=")
    return value  # a Hub id: its name stands for it, and loading it will say if there is none


def _portable(value: Any, known: dict[str, str], paths: dict[str, Any]) -> Any:
    """The same settings with every path replaced by what it stands for."""
    if isinstance(value, dict):
        return {key: _portable(item, known, paths) for key, item in value.items()}
    if isinstance(value, list):
        return [_portable(item, known, paths) for item in value]
    if isinstance(value, str):
        value = known.get(value, value)
        for name in ("output_dir", "cache_dir"):
            value = value.replace(str(paths[name]), f"@{name}")
    return value


@cache
def _code() -> str:
    """Digest of the code that makes numbers: a result made before a change of it is not taken for one made after."""
    root = Path(__file__).parents[2]
    files = [file for room in ("datamodules", "lightning_modules") for file in sorted((root / room).rglob("*.py"))]
    files += sorted(
        file for file in (root / "callbacks").rglob("*.py") if file.parent.name not in ("report", "run", "estimate")
    )
    return text_digest(*(part for file in files for part in (str(file.relative_to(root)), file.read_text("utf-8"))))
