"""NVIDIA AIPerf as a command: what it is told, how it is watched, and how it is ended.

Each request is written out whole (AIPerf's ``raw_payload``), so that a server gets the fields that are named
here and no others. AIPerf wants a tokenizer even where the server counts the tokens; it then gets an empty one, and
nothing is looked up on the Hub. All is told in a configuration file, since no option of the command line takes the API
key from the environment, as a file does.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from callbacks.load.export import EXPORT
from callbacks.load.process import alone, end, watch
from datamodules.endpoint_load import LoadLevel
from datamodules.responses import write_jsonl
from datamodules.wrong_input import WrongInput

_OFF = {"AIPERF_DATASET_MMAP_CACHE_ENABLED": "false", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
_KEY = "OPENAI_API_KEY"  # the variable that AIPerf is given the key in
_LOOKED_UP = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
"""Where these are set, AIPerf 0.13 looks for a tokenizer in the Hub's cache alone, and finds no folder."""


class Ended(NamedTuple):
    """How AIPerf has ended."""

    code: int
    late: bool  #: it had to be interrupted


class AIPerf:
    """Makes load and writes a log of it, one level at a time.

    Args:
        command: AIPerf's, a name or a path.
        url: Of the server.
        key: API key, or empty.
        tokenizer: Folder of the tokenizer that counts tokens; None: the server counts.
        seed: Of the arrivals.
        time_limit_s: Seconds after which no request is sent.
        drain_s: Seconds that requests under way have after that.
        startup_s: Seconds for AIPerf's own start and the warm-up; after these and the others it is interrupted.

    Raises:
        WrongInput: There is no such command or folder, or a time is wrong.
    """

    def __init__(
        self,
        command: str,
        url: str,
        *,
        key: str = "",
        tokenizer: str | None = None,
        seed: int = 0,
        time_limit_s: float = 60.0,
        drain_s: float = 60.0,
        startup_s: float = 120.0,
    ):
        self.command = find_command(command)
        if not (time_limit_s > 0 and drain_s >= 0 and startup_s >= 0):
            what = f"time_limit_s={time_limit_s:g}, drain_s={drain_s:g}, startup_s={startup_s:g}"
            raise WrongInput(what, "config", "give seconds, not below 0, and a limit above it")
        if tokenizer is not None and not Path(tokenizer).is_dir():
            mend = "give the folder of a tokenizer, or leave it out: the server then counts the tokens"
            raise WrongInput("there is no such folder", f"tokenizer={tokenizer}", mend)
        self.url, self.key, self.tokenizer, self.seed = url, key, tokenizer, seed
        self.time_limit_s, self.drain_s, self.startup_s = time_limit_s, drain_s, startup_s

    def run(self, level: LoadLevel, bodies: list[dict[str, Any]], folder: Path, look: Callable[[int], None]) -> Ended:
        """Make one level of load.

        Args:
            level: Of load.
            bodies: Of the requests, each with ``model``.
            folder: Emptied first; then has AIPerf's ``profile_export.jsonl``, its logs, and what it printed.
            look: Called a few times a second with the number of rows logged so far; what it raises ends AIPerf.

        Raises:
            WrongInput: The load of a run that was killed does not end.
        """
        folder.parent.mkdir(parents=True, exist_ok=True)
        patience_s = self.startup_s + self.time_limit_s + self.drain_s
        with alone(folder.parent / ".lock", patience_s) as lock:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            write_jsonl(folder / "requests.jsonl", bodies)
            config = folder / "aiperf.json"
            config.write_text(json.dumps(self.settings(level, str(bodies[0]["model"]), folder), indent=1), "utf-8")
            with (folder / "output.txt").open("wb") as output:
                process = subprocess.Popen(
                    [self.command, "profile", "--config", str(config)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=self._environment(),
                    start_new_session=True,  # Ctrl-C is ours to hand on, once
                    pass_fds=(lock,),  # so that it is held for as long as the load goes on
                )
            try:
                late = not watch(process, folder / EXPORT, patience_s, look)
            finally:
                end(process)
                self._strike(folder)
        return Ended(process.returncode, late)

    def settings(self, level: LoadLevel, model: str, folder: Path) -> dict[str, Any]:
        """AIPerf's configuration of a level, without the key itself."""
        kind = (
            {"type": "poisson", "rate": level.rate}
            if level.rate is not None
            else {"type": "concurrency", "concurrency": level.concurrency}
        )
        warmup = {"name": "warmup", "kind": "warmup", "exclude_from_results": True, "requests": level.warmup_requests}
        limits = {"requests": level.requests, "duration": self.time_limit_s, "grace_period": self.drain_s}
        endpoint = {"urls": [self.url], "type": "chat", "streaming": True, "use_server_token_count": not self.tokenizer}
        off = ("gpu_telemetry", "server_metrics", "network_latency")
        return {
            "random_seed": self.seed,
            "benchmark": {
                "models": [model],
                "endpoint": endpoint | ({"api_key": f"${{{_KEY}}}"} if self.key else {}),
                "datasets": [_dataset(folder, level.requests + level.warmup_requests)],
                "phases": [
                    *([warmup | kind] if level.warmup_requests else []),
                    {"name": "profiling", "kind": "profiling"} | limits | kind,
                ],
                "artifacts": {"dir": str(folder), "records": ["jsonl"]},
                "tokenizer": {
                    "name": str(Path(self.tokenizer).absolute() if self.tokenizer else _no_tokenizer(folder))
                },
                "runtime": {"ui": "none"},
            }
            | {what: {"enabled": False} for what in off},
        }

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in (*_LOOKED_UP, _KEY)}
        return kept | _OFF | ({_KEY: self.key} if self.key else {})

    def _strike(self, folder: Path) -> None:
        """Take the key out of whatever AIPerf wrote: a server may have quoted it."""
        for path in folder.rglob("*") if self.key else ():
            if path.is_file() and self.key.encode() in (content := path.read_bytes()):
                path.write_bytes(content.replace(self.key.encode(), b"***"))


def find_command(command: str) -> str:
    """Where the command is, on the PATH or beside this Python.

    Raises:
        WrongInput: Nowhere.
    """
    found = shutil.which(command) or shutil.which(command, path=str(Path(sys.executable).parent))
    if found is None:
        mend = "pip install 'smoothtalk[serve]', or name it by its path: aiperf=…"
        raise WrongInput("AIPerf, which makes the load, is not installed", f"aiperf={command}", mend)
    return found


def _dataset(folder: Path, entries: int) -> dict[str, Any]:
    return {
        "name": "main",
        "type": "file",
        "path": str(folder / "requests.jsonl"),
        "format": "raw_payload",
        "entries": entries,
    }


def _no_tokenizer(folder: Path) -> Path:
    """A tokenizer of one token, to satisfy AIPerf's start where the server counts."""
    made = folder / "tokenizer"
    made.mkdir()
    Tokenizer(WordLevel({"?": 0}, unk_token="?")).save(str(made / "tokenizer.json"))
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "?"}
    (made / "tokenizer_config.json").write_text(json.dumps(kind), encoding="utf-8")
    return made
