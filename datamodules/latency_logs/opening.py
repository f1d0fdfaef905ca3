"""Which tool wrote a log: told by what is in it, not by what it is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from datamodules.latency_logs.aiperf import open_aiperf
from datamodules.latency_logs.bench import open_bench
from datamodules.latency_logs.etalon import open_etalon
from datamodules.latency_logs.inference_perf import open_inference_perf
from datamodules.latency_logs.json_pieces import JsonScanner
from datamodules.latency_logs.own import open_jsonl, open_parquet
from datamodules.latency_logs.records import LatencyLog
from datamodules.latency_logs.refused import open_lifecycle, open_llmperf
from datamodules.wrong_input import WrongInput

_Reader = Callable[[Path], Iterator[LatencyLog]]

#: Keys that a format's first object has and no other format's does, and its reader.
_OBJECTS: tuple[tuple[frozenset[str], _Reader], ...] = (
    (frozenset({"metadata", "metrics"}), open_aiperf),
    (frozenset({"request_id", "token_s"}), open_jsonl),
    (frozenset({"first_token_ts", "last_token_ts"}), open_lifecycle),
    (frozenset({"ttft", "tbt"}), open_etalon),
    (frozenset({"ttfts", "itls"}), open_bench),
    # a run of vLLM's or SGLang's without its details; the reader says how to have them
    (frozenset({"completed", "mean_ttft_ms"}), open_bench),
)
_ARRAYS: tuple[tuple[frozenset[str], _Reader], ...] = (
    (frozenset({"start_time", "info"}), open_inference_perf),
    (frozenset({"inter_token_latency_s", "end_to_end_latency_s"}), open_llmperf),
)
_KNOWN = "vLLM, SGLang, AIPerf, inference-perf, Etalon or this project's own (Parquet or JSON Lines)"


def open_logs(path: Path | str, window_s: float | None = None) -> Iterator[LatencyLog]:
    """Opens each run of a log, whichever tool wrote it.

    Args:
        path: The file.
        window_s: T in seconds, where the user knows better than the log or the log has none.

    Yields:
        Runs, in the order of the file; nearly always one.

    Raises:
        WrongInput: The file is not there, is empty, is of no tool that is known, or of one whose logs have no
            per-token times; or `window_s` is not above 0.
    """
    path = Path(path)
    if window_s is not None and not 0 < window_s < float("inf"):
        raise WrongInput(f"the window is {window_s:g} s", "window_s", "give seconds, above 0")
    for log in _reader(path)(path):
        if window_s is not None:
            log.window_s = window_s
        yield log


def check_kind(path: Path | str) -> None:
    """Refuses by its beginning a file that `open_logs` would refuse for what it is.

    Raises:
        WrongInput: As `open_logs`, but for what only a reading of the rows can find.
    """
    _reader(Path(path))(Path(path))  # readers read when they are iterated; those that refuse, refuse at once


def _reader(path: Path) -> _Reader:
    if not path.is_file():
        raise WrongInput("no such file", str(path), "give the path of a latency log")
    with path.open("rb") as stream:
        if stream.read(4) == b"PAR1":
            return open_parquet
    with path.open(encoding="utf-8") as stream:
        scanner = JsonScanner(stream, str(path))
        begins = scanner.peek()
        if begins == "":
            raise WrongInput("the log is empty", str(path), "give a log of a run that served some requests")
        if begins == "{":
            keys, table = _keys_of_object(scanner), _OBJECTS
        elif begins == "[":
            first = next(scanner.items(), None)
            if first is None:
                raise WrongInput("the log is empty: no requests", str(path), "give a log of a run that served some")
            keys, table = set(first) if isinstance(first, dict) else set[str](), _ARRAYS
        else:
            keys, table = set[str](), _OBJECTS
    for signature, reader in table:
        if signature <= keys:
            return reader
    found = f"keys {', '.join(sorted(keys)[:8])}" if keys else f"begins with {begins!r}"
    raise WrongInput(f"a log of no tool that is known ({found})", str(path), f"give a log of {_KNOWN}")


def _keys_of_object(scanner: JsonScanner) -> set[str]:
    """Keys of the object that comes next, no further than is needed to tell whose it is."""
    keys: set[str] = set()
    for key in scanner.members():
        keys.add(key)
        if any(signature <= keys for signature, reader in _OBJECTS if signature != {"completed", "mean_ttft_ms"}):
            break
        scanner.skip()
    return keys
