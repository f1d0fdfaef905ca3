"""Rows of a data set, from JSON lines, Parquet or the Hub, each with the place it came from."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.lib
import pyarrow.parquet

from datamodules.wrong_input import WrongInput

Messages = list[dict[str, str]]
"""Chat turns, ``[{"role": …, "content": …}, …]``."""
JSON_SUFFIXES = (".jsonl", ".json", ".ndjson")
FOLLOWERS = {
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("tool", "assistant"),
}
"""Which roles may come after which."""


class Row(NamedTuple):
    """One row of a data set."""

    place: str
    """``FILE:ROW``, rows counted from 1, as an editor shows them; names the row in messages and batches."""
    fields: dict[str, Any]


def read_rows(data: str, split: str = "train") -> Iterator[Row]:
    """Rows of a file (JSON lines or Parquet) or of a data set that ``datasets.load_dataset`` knows.

    Args:
        data: A file; or a Hub id or folder, ``NAME[:CONFIG][@SPLIT]`` (``org/name``, ``org/name:main@test[:500]``).
            The Hub is asked only if no such path exists.
        split: Of a Hub id or folder that does not name its own.

    Raises:
        WrongInput: No such file or data set, a line that is no JSON object, a file that is no Parquet.
    """
    path = Path(data)
    if path.is_file():
        if path.suffix == ".parquet":
            return _parquet_rows(path)
        if path.suffix in JSON_SUFFIXES:
            return _json_rows(path)
        raise WrongInput(f"unknown kind of file {path.suffix!r}", data, "give .jsonl or .parquet")
    if path.is_dir():
        return _library_rows(data, "", split)
    source, _, named_split = data.partition("@")
    name, _, config = source.partition(":")
    file_like = path.is_absolute() or data.startswith(".") or path.suffix in (*JSON_SUFFIXES, ".parquet")
    if file_like and not Path(name).is_dir():
        raise WrongInput("there is no such file", data, "check data=")
    return _library_rows(name, config, named_split or split)


def check_messages(turns: Any, place: str, field: str, *, first: str = "user", last: str) -> Messages:
    """The turns themselves, if roles and contents are in order.

    Order: an optional system turn, then ``first``; a user is followed by the assistant, the assistant by the user or
    by a tool, a tool by another or by the assistant; until ``last`` (a tool may stand for the user there).

    Args:
        turns: What the row holds.
        place: Of the row, for messages.
        field: Its name, for messages.
        first: The role of the first turn after the system's.
        last: The role of the last turn.

    Raises:
        WrongInput: Not a list of turns, a turn that is not text, an unknown role, roles out of order.
    """
    where = f"{place}, `{field}`"
    if not isinstance(turns, list) or not turns:
        raise WrongInput("not a list of turns", where, 'write [{"role": "user", "content": "…"}]')
    for turn in turns:
        if not isinstance(turn, dict) or not isinstance(turn.get("content"), str) or "role" not in turn:
            raise WrongInput("a turn without role or text", where, 'each turn is {"role": …, "content": …}')
        if turn.get("tool_calls"):
            raise WrongInput("a turn with `tool_calls`", where, "write the call as text into its `content`")
    roles = [str(turn["role"]) for turn in turns]
    spoken = roles[1:] if roles[0] == "system" else roles
    in_order = all(role in FOLLOWERS.get(before, ()) for before, role in zip(spoken, spoken[1:], strict=False))
    ends = (last, "tool") if last == "user" else (last,)
    if not spoken or spoken[0] != first or spoken[-1] not in ends or not in_order:
        order = " → ".join(roles)
        mend = f"{first} first (after an optional system turn), user and assistant by turns, {last} last"
        raise WrongInput(f"roles out of order: {order}", where, mend)
    return [{"role": turn["role"], "content": turn["content"]} for turn in turns]


def _json_rows(path: Path) -> Iterator[Row]:
    try:
        lines = path.open("rb")
    except OSError as error:
        raise WrongInput(f"the file cannot be read: {error.strerror}", str(path), "check its permissions") from error
    with lines:
        for number, line in enumerate(lines, start=1):
            place = f"{path.name}:{number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                fields = json.loads(text) if text.strip() else None
                if b"\\u" in line:
                    json.dumps(fields, ensure_ascii=False).encode()  # half of a surrogate pair is no text
            except json.JSONDecodeError as error:
                raise WrongInput(f"not JSON: {error.msg} at column {error.colno}", place, "one object a line") from None
            except (UnicodeDecodeError, UnicodeEncodeError) as error:
                raise WrongInput(f"not UTF-8: {error.reason}", place, "write the file again as UTF-8") from None
            if not text.strip():
                continue
            if not isinstance(fields, dict):
                raise WrongInput("not a JSON object", place, "one object a line")
            yield Row(place, fields)


def _parquet_rows(path: Path) -> Iterator[Row]:
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for fields in batch.to_pylist():
                    number += 1
                    yield Row(f"{path.name}:{number}", fields)
    except (pyarrow.lib.ArrowException, OSError) as error:  # Arrow's own I/O errors are OSErrors
        where = f"{path}, after row {number}"
        raise WrongInput(f"not Parquet, or damaged: {error}", where, "write it again, or give .jsonl") from error


def _library_rows(name: str, config: str, split: str) -> Iterator[Row]:
    import datasets  # takes seconds to import: only where it is needed

    try:
        rows = datasets.load_dataset(name, config or None, split=split)
    except Exception as error:  # the library raises many kinds; the user's mend is the same
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        asked = f"{name}{':' if config else ''}{config}@{split}"
        raise WrongInput(
            f"neither a file nor a data set that can be loaded: {reason}", asked, "check data= (and the network)"
        ) from error
    for number, fields in enumerate(rows, start=1):
        yield Row(f"{name}:{number}", dict(fields))
