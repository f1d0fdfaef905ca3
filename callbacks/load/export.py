"""What AIPerf leaves behind of one level of load: its export, its log, and what it printed."""

from __future__ import annotations

import re
from pathlib import Path

from datamodules.latency_logs import Tally, open_logs

EXPORT = "profile_export.jsonl"
_SHOWN = 300  # characters of others' words in a message


def drop_cut_off_row(path: Path) -> None:
    """Shorten a log by the row that was being written when its writer ended, if there is one."""
    if path.is_file():
        content = path.read_bytes()
        if not content.endswith(b"\n"):
            path.write_bytes(content[: content.rfind(b"\n") + 1])


def tally_of(path: Path) -> Tally:
    """Read a log as it will be read for scoring, and count; nothing where no request was measured."""
    if not path.is_file() or b'"profiling"' not in path.read_bytes():
        return Tally()
    (run,) = open_logs(path)
    for _ in run.requests():
        pass
    return run.tally


def first_error(path: Path) -> str:
    """What the server, or the way to it, said to the first request that failed; empty where none did."""
    drop_cut_off_row(path)
    if not tally_of(path).failed:
        return ""
    said = next(request.error for run in open_logs(path) for request in run.requests() if request.error)
    return said[:_SHOWN]


def complaint(folder: Path) -> str:
    """What AIPerf printed first of an error, or else last of all."""
    text = (folder / "output.txt").read_text(encoding="utf-8", errors="replace")
    lines = [line.strip(" │╭╰─╮╯━┃\t") for line in text.splitlines()]
    said = [line for line in lines if re.search(r"\w", line)]
    errors = [line for line in said if re.search(r"\bERROR\b|\b\w*Error:|Unknown option|Invalid value", line)]
    first = " ".join((errors[:1] or said[-1:] or ["it printed nothing"])[0].split())
    return re.sub(r"^[\d:.]+ ERROR | \(\w+\.py:\d+\)$", "", first)[:_SHOWN]


def requests_sent(folder: Path) -> int | None:
    """How many measured requests were sent, by AIPerf's own log, since its export leaves out those that were cut off.

    None where the log does not say.
    """
    try:
        text = (folder / "logs" / "aiperf.log").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.findall(r"Phase profiling\b.*?\bsent=(\d+)", text)
    return int(found[-1]) if found else None
