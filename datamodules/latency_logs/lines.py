"""Reads JSON Lines one by one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.wrong_input import WrongInput


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (file and row for messages, the object) of each line that is not blank; rows count from 1.

    Raises:
        WrongInput: A line is no JSON object.
    """
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            where = f"{path}, row {number}"
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:  # bad JSON and bad UTF-8 alike
                half = "the row is cut off" if not line.endswith(b"\n") else "the row is no JSON"
                raise WrongInput(half, where, "delete the row, or write it anew") from None
            if not isinstance(row, dict):
                raise WrongInput("the row is no JSON object", where, "give one object a line")
            yield where, row
