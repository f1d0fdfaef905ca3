"""What a run left on disk, read for its report: what is absent is empty, what is broken is noted, nothing raises."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Curve = tuple[list[float], list[float]]
"""Steps and the value at each."""


class RunFiles:
    """Reads a run's folder.

    A report comes after hours of work and must not fail on a damaged line, nor hide it: see ``notes``.

    Args:
        run_dir: The run's output directory.

    Attributes:
        notes: What could not be read, a sentence each.
    """

    def __init__(self, run_dir: Path):
        self.run_dir = run_dir
        self.notes: list[str] = []

    def curves(self) -> dict[str, dict[str, Curve]]:
        """Stage → name without the stage (``train/loss``) → its curve, from each ``STAGE/curve.jsonl``."""
        found: dict[str, dict[str, Curve]] = {}
        for path in sorted(self.run_dir.glob("*/curve.jsonl")):
            by_step: dict[str, dict[float, float]] = {}
            for row in self._rows(path):
                step = _number(row.get("step"))
                numbers = {key: _number(value) for key, value in row.items() if key not in ("id", "step")}
                for key, value in numbers.items():
                    if step is not None and value is not None:  # a resumed run repeats steps: its last word counts
                        by_step.setdefault(key.removeprefix(f"{path.parent.name}/"), {})[step] = value
            if by_step:
                found[path.parent.name] = {
                    key: (sorted(values), [values[step] for step in sorted(values)]) for key, values in by_step.items()
                }
        return found

    def examples(self) -> list[dict[str, Any]]:
        """Rows of ``evaluate/examples.jsonl`` that hold a prompt and at least one answer."""
        path = self.run_dir / "evaluate" / "examples.jsonl"
        whole = []
        for row in self._rows(path):
            if isinstance(row.get("prompt"), str):
                row = {**row, "prompt": [{"role": "user", "content": row["prompt"]}]}
            turns = row.get("prompt")
            chat = isinstance(turns, list) and all(isinstance(turn, dict) for turn in turns)
            if chat and isinstance(row.get("answers"), dict) and isinstance(row.get("verdicts", {}), dict):
                whole.append(row)
            else:
                self._note(path, f"the row {row.get('id', '?')!r} lacks `prompt` or `answers`")
        return whole

    def questions(self) -> list[dict[str, Any]]:
        """Rows of ``evaluate/questions.jsonl`` with a passage and what each method asked: lists of questions."""
        path = self.run_dir / "evaluate" / "questions.jsonl"
        whole = []
        for row in self._rows(path):
            methods = row.get("methods")
            asked = {name: found for name, found in methods.items() if found} if isinstance(methods, dict) else {}
            lists = all(isinstance(found, list) and all(map(_is_question, found)) for found in asked.values())
            if isinstance(row.get("context"), str) and asked and lists:
                whole.append({**row, "methods": asked})
            else:
                self._note(path, f"the row {row.get('id', '?')!r} lacks `context` or questions in `methods`")
        return whole

    def samples(self) -> list[dict[str, Any]]:
        """Rows of ``rl/samples.jsonl`` with a question."""
        path = self.run_dir / "rl" / "samples.jsonl"
        rows = list(self._rows(path))
        for row in rows:
            if not _is_question(row):
                self._note(path, f"the row of {row.get('example', '?')!r} lacks `question`")
        return [row for row in rows if _is_question(row)]

    def target_margins(self) -> dict[str, Any]:
        """``dadpo/target_margin.json`` with its finite ``values``, or nothing."""
        path = self.run_dir / "dadpo" / "target_margin.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            finite = [float(value) for value in content["values"] if math.isfinite(value)]
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError) as broken:
            self._note(path, _told(broken))
            return {}
        if len(finite) < len(content["values"]):
            self._note(path, f"{len(content['values']) - len(finite)} values are not finite")
        return {**content, "values": finite} if finite else {}

    def load_curves(self) -> dict[str, Any]:
        """``score_load/curves.json``, or nothing."""
        path = self.run_dir / "score_load" / "curves.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as broken:
            self._note(path, _told(broken))
            return {}
        return content if isinstance(content, dict) else {}

    def _rows(self, path: Path) -> Iterator[dict[str, Any]]:
        """The sound lines of a JSON-lines file; the rest is noted, as of a run killed while it wrote."""
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return
        except OSError as broken:
            self._note(path, _told(broken))
            return
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except ValueError as broken:
                self._note(path, f"line {number}: {_told(broken)}")
                continue
            if isinstance(row, dict):
                yield row
            else:
                self._note(path, f"line {number} is no JSON object")

    def _note(self, path: Path, what: str) -> None:
        self.notes.append(f"{path.relative_to(self.run_dir)}: {what}.")


def _number(value: object) -> float | None:
    """What can be drawn, else None; a NaN can, as a gap, and so stands for an infinity."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else math.nan


def _is_question(asked: object) -> bool:
    return isinstance(asked, dict) and isinstance(asked.get("question"), str)


def _told(error: Exception) -> str:
    """An error as words, also where it has none of its own."""
    return f"{type(error).__name__} {error}".strip()
