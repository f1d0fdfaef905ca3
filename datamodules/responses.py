"""Responses on disk while they are being sampled: appended a batch at a time, read back after any interruption."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from datamodules.wrong_input import WrongInput


class ResponseLog:
    """JSON lines, one response a line, each a dict with an ``id``.

    A line that a killed process left half-written is passed over, so its batch is sampled again.

    Args:
        path: The file; it and its folder are made when the first response comes.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)

    def read(self) -> dict[str, dict[str, Any]]:
        """Responses by id, in the order of their first appearance."""
        if not self.path.is_file():
            return {}
        found: dict[str, dict[str, Any]] = {}
        with self.path.open("rb") as lines:
            for line in lines:
                try:
                    row = json.loads(line)
                    found[row["id"]] = row
                except (ValueError, KeyError, TypeError):  # cut short, or no response at all
                    continue
        return found

    def append(self, rows: Iterable[dict[str, Any]]) -> None:
        """Add responses; they are on disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        with self.path.open("a+b", buffering=0) as file:
            if file.tell() and not _ends_with_line_break(file):
                lines = b"\n" + lines  # after a line cut short by a kill
            while lines:  # in one write, as a rule: other processes append to the same file
                lines = lines[file.write(lines) :]
            os.fsync(file.fileno())


def find_log(folders: str | Sequence[str], name: str) -> ResponseLog:
    """The responses of a model in the first of the folders that has them.

    Raises:
        WrongInput: None has.
    """
    listed = [folders] if isinstance(folders, str) else list(folders)
    for folder in listed:
        if (path := Path(folder) / f"{name}.jsonl").is_file():
            return ResponseLog(path)
    raise WrongInput(f"no answers of {name}", ", ".join(listed), "sample them first")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as JSON lines; see ``replace_file``."""
    replace_file(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def replace_file(path: Path, text: str) -> None:
    """Write a file aside, then rename: whoever reads it finds the old or the new text, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _ends_with_line_break(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"
