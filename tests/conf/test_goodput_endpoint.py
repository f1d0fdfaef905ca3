"""The whole experiment against a server on loopback: with a command in AIPerf's place, and with AIPerf where it is."""

import json
import os
import shutil
import signal
import time

import pytest

import train
from tests.callbacks.load.fakes import Server, fake_aiperf
from tests.conf.command_apart import start

KEY = "sk-very-secret-42"


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("FAKE_CALLS", str(tmp_path / "calls"))
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def overrides(server, tmp_path):
    """The experiment's, with two rates of four requests by the stand-in."""
    settings = {
        "url": server.url,
        "rates": "[2,10]",
        "requests": 4,
        "warmup_requests": 1,
        "aiperf": fake_aiperf(tmp_path / "aiperf"),
    }

    def build(**more):
        keys = [f"{key}={value}" for key, value in (settings | more).items()]
        return ["experiment=goodput_endpoint", *keys, "+trainer.enable_progress_bar=false"]

    return build


@pytest.fixture
def run(command, overrides, tmp_path):
    return lambda **more: command(*overrides(**more), f"hydra.run.dir={tmp_path}/out")


def behave(monkeypatch, **by_rate):
    monkeypatch.setenv("FAKE_AIPERF", json.dumps({rate.strip("_"): how for rate, how in by_rate.items()}))


def calls(tmp_path):
    path = tmp_path / "calls"
    return path.read_text().split() if path.exists() else []


def with_key(tmp_path):
    files = [path for place in ("out", "cache") for path in (tmp_path / place).rglob("*") if path.is_file()]
    return [path for path in files if KEY in path.read_text(errors="replace")]


def one_line(result, *parts):
    code, err = result
    assert code == 2, err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in err
    for part in parts:
        assert part in line, line


def test_each_rate_is_a_log_in_the_metrics_and_on_the_page(composed, overrides, server, tmp_path):
    metrics = train.run(composed(*overrides()))
    assert list(dict.fromkeys(key.split("/")[0] for key in metrics)) == ["rate-2", "rate-10"]
    # four requests, 1/2 s apart; each with tokens after 0.5, 0.75 and 1.25 s: the last one ends 2.75 s after the first
    assert metrics["rate-2/token_throughput_tps"] == pytest.approx(4 * 3 / 2.75)
    assert metrics["rate-10/token_throughput_tps"] == pytest.approx(4 * 3 / 1.55)
    assert (metrics["rate-2/requests"], metrics["rate-2/requests_failed"]) == (4, 0)
    assert (metrics["rate-2/requests_sent"], metrics["rate-2/requests_cut_off"]) == (4, 0)
    assert "rate-10" in (tmp_path / "out" / "report.html").read_text()
    assert {path.name for path in (tmp_path / "out" / "load").glob("*.jsonl")} == {"rate-2.jsonl", "rate-10.jsonl"}
    assert len(server.bodies) == 1  # one to see that it answers


def test_aiperf_is_told_what_the_config_says(composed, overrides, server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    data = tmp_path / "mine.jsonl"
    data.write_text(json.dumps({"prompt": "Why?"}) + "\n")
    settings = {"rates": "[0.5]", "data": data, "max_tokens": 7, "seed": 3, "time_limit_s": 9, "drain_s": 5}
    more = ["+request.temperature=0", "+request.stream_options=null"]
    train.run(composed(*overrides(**settings), *more))
    work = tmp_path / "out" / "load" / "aiperf" / "rate-0.5"
    seen = json.loads((work / "seen.json").read_text())
    told = seen["config"]["benchmark"]
    assert seen["config"]["random_seed"] == 3
    assert told["endpoint"] == {"urls": [server.url], "type": "chat", "streaming": True, "use_server_token_count": True}
    warmup, measured = told["phases"]
    assert (warmup["kind"], warmup["type"], warmup["requests"]) == ("warmup", "poisson", 1)
    measured = {key: measured[key] for key in ("type", "rate", "requests", "duration", "grace_period")}
    assert measured == {"type": "poisson", "rate": 0.5, "requests": 4, "duration": 9, "grace_period": 5}
    assert not any(told[what]["enabled"] for what in ("gpu_telemetry", "server_metrics", "network_latency"))
    assert seen["offline"] is seen["key"] is None
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Why?"}], "max_tokens": 7, "stream": True}
    bodies = [json.loads(line) for line in (work / "requests.jsonl").read_text().splitlines()]
    assert bodies == [body | {"temperature": 0}] * 5
    assert server.bodies == bodies[:1]


def test_a_fixed_number_of_requests_under_way(composed, overrides, tmp_path):
    metrics = train.run(composed(*overrides(rates="null", concurrency="[3]", warmup_requests=0, tokenizer=tmp_path)))
    assert metrics["concurrency-3/requests"] == 4
    seen = json.loads((tmp_path / "out" / "load" / "aiperf" / "concurrency-3" / "seen.json").read_text())
    told = seen["config"]["benchmark"]
    (phase,) = told["phases"]
    assert (phase["type"], phase["concurrency"], "rate" in phase) == ("concurrency", 3, False)
    assert told["tokenizer"] == {"name": str(tmp_path)}
    assert told["endpoint"]["use_server_token_count"] is False


def test_the_key_comes_from_the_environment_and_is_written_nowhere(run, server, tmp_path, monkeypatch):
    monkeypatch.setenv("SERVER_KEY", KEY)
    behave(monkeypatch, _10="leak")
    code, err = run(api_key_env="SERVER_KEY")
    assert code == 0, err
    assert KEY not in err
    assert set(server.keys) == {f"Bearer {KEY}"}
    assert with_key(tmp_path) == []
    assert json.loads((tmp_path / "out/load/aiperf/rate-2/seen.json").read_text())["key"] == "***"
    assert "bad key ***" in (tmp_path / "out/load/rate-10.jsonl").read_text()


@pytest.mark.slow
def test_a_measured_server_is_measured_again_when_asked(run, tmp_path):
    assert [run()[0], run()[0], calls(tmp_path)] == [0, 0, ["2", "10"]]
    assert run(measurement=2)[0] == 0
    assert calls(tmp_path) == ["2", "10"] * 2


def test_after_a_failure_only_the_rates_not_done_are_measured(run, tmp_path, monkeypatch):
    behave(monkeypatch, _10="fail")
    one_line(run(), "AIPerf failed at rate-10 (exit code 1)", "SomeError: no luck", "output.txt")
    assert not (tmp_path / "out" / "metrics.json").exists()
    behave(monkeypatch)
    code, err = run()
    assert code == 0, err
    assert "rate-2: measured before" in err
    assert calls(tmp_path) == ["2", "10", "10"]
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["rate-2/requests_sent"] == metrics["rate-10/requests_sent"] == 4


@pytest.mark.slow
def test_a_run_killed_under_load_goes_on(run, overrides, tmp_path, monkeypatch):
    behave(monkeypatch, _10="hang")
    process = start(tmp_path, "out", *overrides(startup_s=0, drain_s=0, time_limit_s=4))
    so_far = tmp_path / "out/load/aiperf/rate-10/profile_export.jsonl"
    deadline = time.monotonic() + 60
    while not (so_far.exists() and so_far.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.join()
    orphan = json.loads(so_far.with_name("seen.json").read_text())["pid"]
    behave(monkeypatch)
    one_line(run(startup_s=0, drain_s=0, time_limit_s=4, rates="[2,10]"), "load of a run that was killed goes on")
    os.kill(orphan, signal.SIGINT)
    assert run(startup_s=0, drain_s=0, time_limit_s=4)[0] == 0
    assert calls(tmp_path) == ["2", "10", "10"]


def test_aiperf_that_hangs_is_ended_and_what_it_measured_is_kept(run, tmp_path, monkeypatch):
    behave(monkeypatch, _10="hang")
    code, err = run(time_limit_s=0.5, drain_s=0, startup_s=1)
    assert code == 0, err
    assert "rate-10: AIPerf did not end by itself" in err
    assert "3 of 4 requests were still under way" in err
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (metrics["rate-10/requests"], metrics["rate-10/requests_cut_off"]) == (1, 3)


def test_requests_that_were_not_sent_are_told(run, tmp_path, monkeypatch):
    behave(monkeypatch, _10="short")
    code, err = run()
    assert code == 0, err
    assert "rate-10: 3 of 4 requests were sent" in err
    assert "still under way" not in err


def test_aiperf_that_is_killed_leaves_its_rate_undone(run, tmp_path, monkeypatch):
    behave(monkeypatch, _2="killed")
    one_line(run(), "AIPerf failed at rate-2 (exit code -9)")
    assert not (tmp_path / "out/load/rate-2.jsonl").exists()
    behave(monkeypatch)
    assert run()[0] == 0


def test_a_server_that_fails_every_request(run, monkeypatch):
    behave(monkeypatch, _2="all")
    one_line(run(), "(exit code 1): All 4 requests failed. The first: 500: Internal Server Error: overloaded (")


@pytest.mark.slow
def test_a_server_that_dies_under_load(run, server, tmp_path, monkeypatch):
    behave(monkeypatch, _10="die")
    started = time.monotonic()
    one_line(run(), "the server died under rate-10", server.url, "kept: rate-2", "rate-10/profile_export.jsonl")
    assert time.monotonic() - started < 30
    assert len((tmp_path / "out/load/rate-2.jsonl").read_text().splitlines()) == 5
    assert len((tmp_path / "out/load/aiperf/rate-10/profile_export.jsonl").read_text().splitlines()) == 2
    one_line(run(), "no server answers")


def test_a_server_that_refuses_the_fields(run, server, tmp_path):
    server.answer = lambda _: (422, {"detail": "Unexpected fields: {'stream_options'}"})
    one_line(run(), "status 422", "stream_options", "null leaves one out")
    assert calls(tmp_path) == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"url": "http://192.0.2.1:8000"}, "allow_remote=true"),
        ({"url": "http://127.0.0.1:9"}, "no server answers"),
        ({"aiperf": "no-such-command"}, "pip install 'smoothtalk[serve]'"),
        ({"rates": "[0]"}, "a rate of 0"),
        ({"rates": "null"}, "no load to make"),
        ({"time_limit_s": 0}, "time_limit_s=0"),
        ({"tokenizer": "Qwen/Qwen2.5"}, "no such folder (tokenizer=Qwen/Qwen2.5)"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"data": "none.jsonl"}, "check data="),
    ],
)
def test_wrong_settings_end_in_one_line(run, tmp_path, wrong, said):
    one_line(run(**wrong), said)
    assert calls(tmp_path) == []


@pytest.mark.parametrize("models", [[], [{"id": "a"}, {"id": "b"}]])
def test_a_model_is_named_where_there_is_not_just_one(run, server, models):
    server.listed = (200, {"data": models})
    one_line(run(), "which model?", "model_name=NAME")
    assert run(model_name="a")[0] == 0
    assert server.bodies[-1]["model"] == "a"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("aiperf") is None, reason="AIPerf is not installed (extra: serve)")
@pytest.mark.parametrize("load", [{"rates": "[20]"}, {"rates": "null", "concurrency": "[2]"}])
def test_with_aiperf_itself(run, tmp_path, server, monkeypatch, load):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    code, err = run(aiperf="aiperf", requests=5, **load)
    assert code == 0, err
    assert set(server.keys) == {f"Bearer {KEY}"}
    assert with_key(tmp_path) == []
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    (name,) = {key.split("/")[0] for key in metrics}
    told = [metrics[f"{name}/{key}"] for key in ("requests", "requests_sent", "requests_failed", "requests_cut_off")]
    assert told == [5, 5, 0, 0]
    assert len(server.bodies) == 1 + 1 + 5  # to see that it answers, to warm up, and the measured ones
    assert all(body == server.bodies[0] | {"messages": body["messages"]} for body in server.bodies)
