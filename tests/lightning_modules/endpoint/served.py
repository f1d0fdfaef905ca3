"""A server of OpenAI's completions protocol on loopback, with a tiny model behind it; it misbehaves on request."""

import http.server
import json
import threading
import time
from contextlib import suppress

import torch
from transformers import AutoModelForCausalLM


class Server:
    """Answers as vLLM does; ``spoil(answer, nth)`` may change an answer, or give a status and a body instead."""

    def __init__(self, folder, delay_s: float = 0.0):
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.spoil = lambda answer, nth: answer
        self.bodies, self.keys, self.paths = [], [], []
        self.under_way = self.most = 0
        self.lock, self.delay_s = threading.Lock(), delay_s
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):  # noqa: N802
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    outer.bodies.append(body)
                    outer.keys.append(self.headers["Authorization"])
                    outer.paths.append(self.path)
                    nth = len(outer.bodies)
                    outer.under_way += 1
                    outer.most = max(outer.most, outer.under_way)
                time.sleep(outer.delay_s)
                answer = outer.spoil(outer.answer(body), nth)
                with outer.lock:
                    outer.under_way -= 1
                status, payload = answer if isinstance(answer, tuple) else (200, answer)
                data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/html" if isinstance(payload, bytes) else "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.send_header("retry-after-ms", "5")  # so that the client's pauses do not slow the tests
                self.end_headers()
                with suppress(BrokenPipeError):  # who did not want to wait is gone
                    self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @torch.no_grad()
    def answer(self, body):
        ids = body["prompt"]
        assert body["max_tokens"] == 1
        assert body["temperature"] == 1.0
        logps = self.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        choice = {"index": 0, "text": "", "finish_reason": "length", "logprobs": None}
        if "prompt_logprobs" in body:
            choice["prompt_logprobs"] = [None, *(named(logps[i - 1], ids[i]) for i in range(1, len(ids)))]
        if body.get("echo"):
            listed = [None, *(logps[i - 1, ids[i]].item() for i in range(1, len(ids))), -0.5]
            choice["logprobs"] = {"token_logprobs": listed, "tokens": ["?"] * len(listed)}
        usage = {"prompt_tokens": len(ids), "completion_tokens": 1, "total_tokens": len(ids) + 1}
        return {"id": "x", "object": "text_completion", "model": body["model"], "choices": [choice], "usage": usage}

    def close(self):
        self.http.shutdown()
        self.http.server_close()


def named(logps, token):
    """The token and the likeliest one."""
    best = int(logps.argmax())
    return {str(i): {"logprob": logps[i].item(), "rank": 1, "decoded_token": "?"} for i in {token, best}}
