"""A command in the place of ``vllm``: its options, its protocol and its refusals, over a tiny model or none at all.

Written from vLLM 0.33's own sources (``entrypoints/openai/completion``, ``sampling_params.py``); nothing of it is vLLM.
"""

import argparse
import hashlib
import http.server
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = """#!{python}
import sys
sys.path.insert(0, {root!r})
from tests.lightning_modules.vllm.stand_in import main
main(sys.argv[1:])
"""


class FakeVLLM:
    """The command, what it is to do, and what it has seen.

    Args:
        folder: Where it is put.
        **how: ``canned``: no model, tokens by the seed; ``die``: not to start; ``never``: never to be ready;
            ``crash_after``: to die with that answer; ``break_off``: which requests; ``wrong``: fields that go over each
            answer's choice; ``delay_s``.
    """

    def __init__(self, folder: Path, **how):
        folder.mkdir(exist_ok=True)
        self.path, self.seen = folder / "vllm", folder / "seen.jsonl"
        self.path.write_text(SCRIPT.format(python=sys.executable, root=str(ROOT)))
        self.path.chmod(self.path.stat().st_mode | stat.S_IXUSR)
        self.behave(**how)

    def behave(self, **how) -> None:
        (self.path.parent / "how.json").write_text(json.dumps(how))

    def told(self, kind: str) -> list:
        if not self.seen.exists():
            return []
        return [row[kind] for row in map(json.loads, self.seen.open()) if kind in row]

    def asked(self) -> list[dict]:
        return self.told("body")

    def alive(self) -> list[int]:
        """Processes that it has started and that still run."""
        return [pid for start in self.told("start") for pid in start["pids"] if running(pid)]


def running(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def gone(fake: FakeVLLM, seconds: float = 10.0) -> bool:
    """Whether nothing of it is left before long."""
    deadline = time.monotonic() + seconds
    while fake.alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    return not fake.alive()


class Refused(Exception):
    """A request that vLLM does not take."""


class Model:
    """Draws the tokens of one answer after the other, from a generator that the request's seed sets."""

    def __init__(self, options):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

        self.torch = torch
        torch.set_num_threads(1)
        self.model = AutoModelForCausalLM.from_pretrained(options.model, dtype=getattr(torch, options.dtype)).eval()
        tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
        self.rows = self.model.config.vocab_size
        if options.max_model_len > self.model.config.max_position_embeddings:
            raise ValueError(f"User-specified max_model_len ({options.max_model_len}) is greater than the derived one")
        with suppress(OSError):  # as vLLM, whatever --generation-config says
            ids = GenerationConfig.from_pretrained(options.model).eos_token_id
            self.ends = {tokenizer.eos_token_id, *(ids if isinstance(ids, list) else [ids])}
        self.lock = threading.Lock()

    def draw(self, body, most):
        torch, ids, made = self.torch, list(body["prompt"]), []
        if max(ids) >= self.rows:
            raise Refused(f"Token id {max(ids)} is out of vocabulary")
        generator = torch.Generator().manual_seed(body["seed"])
        bias = torch.zeros(self.rows)
        for token, value in body.get("logit_bias", {}).items():
            bias[int(token)] = max(-100.0, min(100.0, value))
        with self.lock, torch.no_grad():
            while len(made) < most:
                logits = self.model(input_ids=torch.tensor([ids + made])).logits[0, -1].float() + bias
                made.append(self.one(logits, body, generator))
                if made[-1] in self.ends or made[-1] in body["stop_token_ids"]:
                    return made, "stop"
        return made, "length"

    def one(self, logits, body, generator):
        torch = self.torch
        if body["temperature"] == 0:
            return int(logits.argmax())
        logits = logits / body["temperature"]
        if body["top_k"]:
            logits[logits < logits.topk(body["top_k"]).values[-1]] = -torch.inf
        sorted_, order = logits.softmax(-1).sort(descending=True)
        sorted_[sorted_.cumsum(-1) - sorted_ >= body["top_p"]] = 0
        return int(order[torch.multinomial(sorted_, 1, generator=generator)])


class Canned:
    """No model: a few tokens that the seed tells, and the end of the turn."""

    def __init__(self, options):
        pass

    def draw(self, body, most):
        digest = hashlib.sha256(f"{body['seed']} {body['prompt']}".encode()).digest()
        made = [20 + byte % 60 for byte in digest[: 1 + digest[-1] % 3]][: most - 1]
        return [*made, body["stop_token_ids"][0]], "stop"


def check(body, options):
    """As vLLM's own checks; what it would fill in by itself is refused here: it must be asked for."""
    needed = {"model", "prompt", "seed", "temperature", "top_p", "top_k", "max_tokens", "stop_token_ids"}
    if not needed | {"return_token_ids"} <= set(body) <= needed | {"return_token_ids", "logit_bias"}:
        raise Refused(f"fields {sorted(body)}")
    if not -(2**63) <= body["seed"] < 2**63 or body["seed"] == -1:
        raise Refused(f"seed {body['seed']}")
    if not (body["temperature"] == 0 or 0.01 <= body["temperature"] <= 2.0):
        raise Refused(f"temperature must be in [0, 2], got {body['temperature']}.")
    if len(body.get("logit_bias", {})) > 1024:
        raise Refused("Too many logit bias tokens")
    if len(body["prompt"]) >= options.max_model_len:
        raise Refused(f"Input length ({len(body['prompt'])}) exceeds model's maximum context length")


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: "Served"

    def do_GET(self):  # noqa: N802
        self._tell(*self.served.listed(self.headers))

    def do_POST(self):  # noqa: N802
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._tell(*self.served.answer(self.headers, body))

    def _tell(self, status, payload):
        if status is None:
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        data = json.dumps(payload).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with suppress(BrokenPipeError):
            self.wfile.write(data)

    def log_message(self, *_):
        pass


class Served:
    """What answers, behind the protocol."""

    def __init__(self, options, how, model, see):
        self.options, self.how, self.model, self.see = options, how, model, see
        self.count, self.lock = 0, threading.Lock()

    def refused(self, headers):
        return headers["Authorization"] != f"Bearer {os.environ['VLLM_API_KEY']}"

    def listed(self, headers):
        if self.refused(headers):
            return 401, {"error": "Unauthorized"}
        return 200, {"object": "list", "data": [{"id": self.options.served_model_name, "object": "model"}]}

    def answer(self, headers, body):
        if self.refused(headers):
            return 401, {"error": "Unauthorized"}
        if body["model"] != self.options.served_model_name:
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
        self.see(body=body)
        time.sleep(self.how.get("delay_s", 0))
        with self.lock:
            self.count += 1
            nth = self.count
            if self.count > self.how.get("crash_after", 1 << 60):
                print("(EngineCore) ERROR 11-22 [core.py:1] torch.OutOfMemoryError: CUDA out of memory.", flush=True)
                os._exit(1)
        if nth in self.how.get("break_off", []):
            return None, None
        try:
            check(body, self.options)
            most = min(body["max_tokens"], self.options.max_model_len - len(body["prompt"]))
            tokens, reason = self.model.draw(body, most)
        except Refused as told:
            return 400, {"error": {"message": str(told), "type": "BadRequestError", "code": 400}}
        choice = {"index": 0, "text": "?", "logprobs": None, "finish_reason": reason, "stop_reason": None}
        choice |= {"token_ids": tokens, "prompt_token_ids": body["prompt"]} | self.how.get("wrong", {})
        return 200, {"id": "cmpl-1", "object": "text_completion", "model": body["model"], "choices": [choice]}


def main(arguments) -> None:
    folder = Path(sys.argv[0]).parent
    how = json.loads((folder / "how.json").read_text())
    parser = argparse.ArgumentParser("vllm serve")
    parser.add_argument("verb", choices=["serve"])
    parser.add_argument("model")
    for name in ("--host", "--served-model-name", "--tokenizer", "--dtype", "--generation-config"):
        parser.add_argument(name, required=True)
    for name in ("--port", "--max-model-len"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--gpu-memory-utilization", type=float, default=0.92)
    parser.add_argument("--disable-uvicorn-access-log", action="store_true")
    options = parser.parse_args(arguments)
    assert (options.host, options.generation_config) == ("127.0.0.1", "vllm")
    engine = subprocess.Popen(["sleep", "600"])  # as vLLM's, a process of its own
    lock = threading.Lock()

    def see(**row):
        with lock, (folder / "seen.jsonl").open("a") as seen:
            seen.write(json.dumps(row) + "\n")

    kept = {name: value for name, value in os.environ.items() if name in ("VLLM_API_KEY", "WORLD_SIZE", "LOCAL_RANK")}
    written = sorted(str(path) for path in Path(options.tokenizer).parent.iterdir())
    see(start={"pids": [os.getpid(), os.getppid(), engine.pid], "args": arguments, "env": kept, "written": written})
    print("INFO vLLM starts", flush=True)
    if how.get("die"):
        print("(EngineCore pid=7) ERROR 11-22 10:00:00 [core.py:9] ValueError: " + how["die"])
        print("RuntimeError: Engine core initialization failed. See root cause above.")
        sys.exit(1)
    while how.get("never"):
        time.sleep(1)
    handler = type(
        "Bound", (Handler,), {"served": Served(options, how, (Canned if how.get("canned") else Model)(options), see)}
    )
    http.server.ThreadingHTTPServer.request_queue_size = 2048  # as uvicorn's
    server = http.server.ThreadingHTTPServer((options.host, options.port), handler)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # and leaves its engine to whoever cleans up
    server.serve_forever(poll_interval=0.02)
