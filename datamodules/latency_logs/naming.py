"""Which files a pattern means, and what their logs are called."""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path


def log_files(data: str | Sequence[str]) -> dict[str, str]:
    """Names the files that are meant, each as shortly as tells it from the others.

    Args:
        data: A file, a glob (``**`` reaches into folders), or several of them.

    Returns:
        Name → path, by path, ``rate-2`` before ``rate-10``. The name is the stem where no other file has it, else the
        file's name, else as much of its path as it takes. What matches nothing comes back whole under the name
        ``data``, for the stage to refuse.
    """
    found: dict[str, None] = {}
    for pattern in [data] if isinstance(data, str) else data:
        path = Path(pattern).expanduser()
        matches = [str(path)] if path.exists() else sorted(glob.glob(str(path), recursive=True), key=_by_number)
        files = [match for match in matches if Path(match).is_file()]
        if not files:
            return {"data": str(path.absolute())}
        found |= dict.fromkeys(files)
    return {name: path for path, name in _names(list(found)).items()}


def _by_number(path: str) -> list[tuple[float, str]]:
    """Sorts as a person would: numbers within a path by their size."""
    parts = re.split(r"(\d+(?:\.\d+)?)", path)
    return [(float(part), "") if number % 2 else (0.0, part) for number, part in enumerate(parts)]


def _names(paths: list[str]) -> dict[str, str]:
    """Path → name, no two alike."""
    names: dict[str, str] = {}
    depth = 0
    while len(names) < len(paths):
        rest = [path for path in paths if path not in names]
        called = {path: _called(Path(path).absolute(), depth) for path in rest}
        counts = Counter(called.values())
        taken = set(names.values())
        names |= {path: name for path, name in called.items() if counts[name] == 1 and name not in taken}
        depth += 1
    return {path: names[path] for path in paths}


def _called(path: Path, depth: int) -> str:
    """The stem at depth 0, the file's name at 1, then a folder more each time."""
    return path.stem if depth == 0 else "-".join(path.parts[-depth:]).lstrip("/")
