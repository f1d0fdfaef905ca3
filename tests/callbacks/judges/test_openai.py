"""The judge against a small server on loopback that speaks the protocol, and misbehaves on request."""

import http.server
import json
import socket
import sys
import threading
from collections import Counter

import pytest

from callbacks.judges import Comparison, OpenAIJudge, RuleJudge, check_judge
from datamodules.wrong_input import WrongInput

pytest.importorskip("openai")

KEY = "sk-very-secret-42"


class Server:
    """Answers with whatever ``reply(question, nth time asked)`` gives: a text, or a status and a body."""

    def __init__(self):
        self.reply = prefers_good
        self.requests, self.seen, self.lock = [], Counter(), threading.Lock()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):  # noqa: N802
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                question = body["messages"][0]["content"]
                with outer.lock:
                    outer.seen[question] += 1
                    outer.requests.append((self.path, self.headers["Authorization"], body))
                    nth = outer.seen[question]
                answer = outer.reply(question, nth)
                if isinstance(answer, str):
                    message = {"role": "assistant", "content": answer}
                    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
                    answer = (
                        200,
                        {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": choices},
                    )
                status, payload = answer
                kind = "text/html" if isinstance(payload, bytes) else "application/json"
                data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.send_header("retry-after-ms", "5")  # so that the client's pauses do not slow the tests
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


def prefers_good(question, _):
    a, b = ("good" in part for part in question.split("|")[1:])
    return "reasons ... " + ("[[C]]" if a == b else "[[A]]" if a else "[[B]]")


def error(status, message="no"):
    return status, {"error": {"message": message, "type": "x"}}


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def judge(server, tmp_path):
    def make(**settings):
        defaults = {"model": "judge-1", "cache_dir": tmp_path / "cache", "base_url": server.url, "max_retries": 2}
        return OpenAIJudge(
            **defaults | {"template": "{conversation}|{answer_a}|{answer_b}", "progress": False} | settings
        )

    return make


def comparison(name, student, teacher):
    return Comparison(name, [{"role": "user", "content": f"question {name}"}], student, teacher)


def test_asks_in_both_orders_with_temperature_0(server, judge):
    asked = [comparison("1", "good", "bad"), comparison("2", "bad", "good"), comparison("3", "good", "also good")]
    verdicts = judge().compare(asked)
    assert [(verdict.id, verdict.outcome) for verdict in verdicts] == [("1", "win"), ("2", "lose"), ("3", "tie")]
    questions = {body["messages"][0]["content"] for _, _, body in server.requests}
    assert {"user: question 1|good|bad", "user: question 1|bad|good"} <= questions
    assert len(server.requests) == 6
    assert {(path, key) for path, key, _ in server.requests} == {("/v1/chat/completions", f"Bearer {KEY}")}
    assert all(body["temperature"] == 0 and body["model"] == "judge-1" for _, _, body in server.requests)


def test_a_judge_that_always_says_a_sees_only_ties(server, judge):
    server.reply = lambda *_: "[[A]]"
    assert judge().compare([comparison("1", "good", "bad")])[0].outcome == "tie"


def test_identical_answers_tie_without_asking(server, judge):
    assert judge().compare([comparison("1", "same", "same")])[0].outcome == "tie"
    assert not server.requests


def test_garbage_is_invalid_shown_and_asked_again(server, judge, caplog):
    server.reply = lambda question, nth: (
        "I like\nboth" if "|bad|" in question and nth == 1 else prefers_good(question, nth)
    )
    (verdict,) = judge().compare([comparison("1", "good", "bad")])
    assert verdict.outcome == "invalid"
    assert "I like both" in verdict.why
    assert "1 of 1 verdicts cannot be read" in caplog.text
    assert judge().compare([comparison("1", "good", "bad")])[0].outcome == "win"
    assert len(server.requests) == 3  # the readable reply came from the cache


def test_no_words_at_all_are_invalid(server, judge):
    server.reply = lambda *_: (200, {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": []})
    assert judge().compare([comparison("1", "good", "bad")])[0].why.endswith("(no words) | (no words)")


def test_a_busy_endpoint_is_asked_again(server, judge):
    server.reply = lambda question, nth: error(429, "slow down") if nth == 1 else prefers_good(question, nth)
    assert judge().compare([comparison("1", "good", "bad")])[0].outcome == "win"
    assert len(server.requests) == 4


def test_resumes_from_what_was_judged(server, judge):
    asked = [comparison(str(i), "good", "bad") for i in range(6)]
    server.reply = lambda question, nth: error(500) if "question 5" in question else prefers_good(question, nth)
    with pytest.raises(WrongInput, match="keeps failing after all retries: .*500.*kept"):
        judge(concurrency=1).compare(asked)
    assert set(server.seen.values()) == {1, 3}  # the failing one: a request and two retries
    server.reply, before = prefers_good, len(server.requests)
    assert [verdict.outcome for verdict in judge().compare(asked)] == ["win"] * 6
    assert len(server.requests) - before == 2
    judge().compare(asked)
    assert len(server.requests) - before == 2


def test_cache_goes_by_model_options_and_texts(server, judge):
    one = [comparison("1", "good", "bad")]
    judge().compare(one)
    for changed in (
        {"model": "judge-2"},
        {"options": {"max_tokens": 9}},
        {"template": "{conversation}|{answer_a}|{answer_b}."},
    ):
        before = len(server.requests)
        judge(**changed).compare(one)
        assert len(server.requests) - before == 2
    assert judge().compare([one[0]._replace(id="other")])[0].outcome == "win"  # the id says nothing about the texts
    assert len(server.requests) == before + 2


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (401, "refuses the API key.*OPENAI_API_KEY"),
        (404, "no such model or address: .*127.0.0.1"),
        (429, "keeps failing"),
    ],
)
def test_refusals_are_one_line_without_the_key(server, judge, caplog, status, told):
    server.reply = lambda *_: error(status, f"denied for {KEY}\nbye")
    with pytest.raises(WrongInput, match=told) as raised:
        judge().compare([comparison("1", "good", "bad")])
    assert "\n" not in str(raised.value)
    assert KEY not in str(raised.value) + caplog.text


def test_one_refused_question_is_invalid_all_refused_is_an_error(server, judge):
    asked = [comparison("1", "good", "bad"), comparison("2", "good long", "bad")]
    server.reply = lambda question, nth: (
        error(400, "too long [[A]]") if "long" in question else prefers_good(question, nth)
    )
    verdicts = judge().compare(asked)
    assert [verdict.outcome for verdict in verdicts] == ["win", "invalid"]
    assert "too long" in verdicts[1].why
    server.reply = lambda *_: error(400, "unsupported value: temperature")
    with pytest.raises(WrongInput, match="every question: .*temperature"):
        judge(model="judge-2").compare(asked)


def test_a_web_page_is_no_judge(server, judge):
    server.reply = lambda *_: (200, b"<html>hello</html>")
    with pytest.raises(WrongInput, match="does not speak"):
        judge().compare([comparison("1", "good", "bad")])


def test_nobody_there(judge):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(WrongInput, match=f"does not answer.*127.0.0.1:{port}"):
        judge(base_url=f"http://127.0.0.1:{port}/v1", max_retries=0).compare([comparison("1", "good", "bad")])


def test_key_is_needed_by_openai_itself_only(server, judge, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    assert judge().compare([comparison("1", "good", "bad")])[0].outcome == "win"
    with pytest.raises(WrongInput, match="OPENAI_API_KEY"):
        judge(base_url=None).compare([comparison("2", "good", "bad")])


def test_what_is_missing_is_told_before_anything_is_asked(server, judge, monkeypatch):
    check_judge(judge(base_url=None))
    monkeypatch.delenv("OPENAI_API_KEY")
    check_judge(judge())
    check_judge(judge(base_url=None), plan=True)
    with pytest.raises(WrongInput, match="OPENAI_API_KEY"):
        check_judge(judge(base_url=None))
    check_judge(RuleJudge(mark=lambda answer, key: None))  # nothing to check
    assert not server.requests


def test_without_the_package_the_install_line_is_told(judge, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(WrongInput, match=r"pip install 'smoothtalk\[judge\]'"):
        judge().compare([comparison("1", "good", "bad")])
