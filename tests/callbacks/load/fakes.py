"""A server of OpenAI's streaming protocol on loopback, and a command that writes AIPerf's export without any load."""

import http.server
import json
import stat
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = """#!{python}
# Takes AIPerf's configuration and writes a plausible export; FAKE_AIPERF tells how it behaves, by level.
import json, os, signal, sys, time, urllib.request
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.datamodules.latency_logs.log_files import aiperf_row

config = json.loads(Path(sys.argv[sys.argv.index("--config") + 1]).read_text())
given = config["benchmark"]
*warmup, phase = given["phases"]
folder, requests, rate = Path(given["artifacts"]["dir"]), phase["requests"], phase.get("rate")
how = json.loads(os.environ.get("FAKE_AIPERF", "{{}}")).get(f"{{rate or 0:g}}", "")
key, offline = (os.environ.get(name) for name in ("OPENAI_API_KEY", "HF_HUB_OFFLINE"))
seen = {{"config": config, "key": key, "offline": offline, "pid": os.getpid()}}
(folder / "seen.json").write_text(json.dumps(seen))
with open(os.environ["FAKE_CALLS"], "a") as calls:
    calls.write(f"{{rate or phase['concurrency']:g}}\\n")
if how == "fail":
    print("12:00:00.1 ERROR    Failed to do it: SomeError: no luck"); sys.exit(1)
answers = [aiperf_row(-1.0, benchmark_phase="warmup")] if warmup else []
answers += [aiperf_row(k / float(rate or 1)) for k in range(requests)]
if how == "leak":
    answers[-1] = aiperf_row(9.0, ttft=None, gaps=None, tokens=None, error={{"message": "bad key " + seen["key"]}})
if how == "all":
    refused = {{"code": 500, "type": "Internal Server Error", "message": "overloaded"}}
    answers = [aiperf_row(0.1 * k, ttft=None, gaps=None, tokens=None, error=refused) for k in range(requests)]
if how == "short":
    answers.pop()
if how in ("hang", "part", "killed", "die"):
    answers = answers[: len(answers) // 2]
(folder / "logs").mkdir()
sent = requests - 1 if how == "short" else requests
told = "Phase profiling (profiling) sending complete | sent=%d, completed=1" % sent
(folder / "logs" / "aiperf.log").write_text(told)
with open(folder / "profile_export.jsonl", "w") as export:
    for answer in answers:
        export.write(json.dumps(answer) + "\\n"); export.flush()
    if how == "hang":
        signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
        time.sleep(60)
    if how == "all":
        print("12:00:00.1 ERROR    All 4 requests failed. (system_controller.py:2370)"); sys.exit(1)
    if how == "killed":
        export.write('{{"metadata": {{"req'); export.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "die":
        urllib.request.urlopen(given["endpoint"]["urls"][0] + "/die")
        time.sleep(60)
"""


def fake_aiperf(path):
    path.write_text(SCRIPT.format(python=sys.executable, root=str(ROOT)))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def chunk(**delta):
    return {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta}]}


class Server:
    """Answers with what ``listed`` and ``answer(body)`` give: a status and a body, or a list of events."""

    def __init__(self):
        self.listed = (200, {"data": [{"id": "tiny"}]})
        self.answer = lambda body: [chunk(content="Hi"), chunk(content="!"), "[DONE]"]
        self.bodies, self.keys = [], []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):  # noqa: N802
                outer.keys.append(self.headers["Authorization"])
                if self.path == "/die":
                    outer.close()
                self.say(*outer.listed)

            def do_POST(self):  # noqa: N802
                outer.keys.append(self.headers["Authorization"])
                outer.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                answer = outer.answer(outer.bodies[-1])
                if isinstance(answer, tuple):
                    self.say(*answer)
                    return
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                for event in answer:
                    self.wfile.write(f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n".encode())

            def say(self, status, body):
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", "http://192.0.2.1/v1/chat/completions")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()
