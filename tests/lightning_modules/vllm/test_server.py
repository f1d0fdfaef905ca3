"""A vLLM of our own: started, waited for, asked, and ended."""

import os
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from datamodules.wrong_input import WrongInput
from lightning_modules.vllm.server import VLLMServer
from lightning_modules.vllm.settings import VLLMSettings
from tests.lightning_modules.vllm.stand_in import gone

FIELDS = {"prompt": [5, 6], "seed": 1, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": 4}
FIELDS |= {"stop_token_ids": [1], "return_token_ids": True}


@pytest.fixture
def start(fake, tmp_path):
    servers = []

    def run(**settings):
        told = VLLMSettings(str(fake.path), **{"startup_s": 30, **settings})
        (tmp_path / "tokenizer").mkdir(exist_ok=True)
        server = VLLMServer(told, "a/model", tmp_path / "tokenizer", "bfloat16", 99, tmp_path / "logs" / "student.log")
        servers.append(server)
        return server

    yield run
    for server in servers:
        server.close()


def ready(server):
    server.wait(lambda: None)
    return server


def test_it_is_told_what_to_serve_and_ends_with_all_it_started(start, fake, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    server = ready(start(args=["--gpu-memory-utilization", 0.5]))
    (told,) = fake.told("start")
    options = dict(zip(told["args"][2:-3:2], told["args"][3:-3:2], strict=True))
    assert told["args"][:2] == ["serve", "a/model"]
    assert told["args"][-3:] == ["--disable-uvicorn-access-log", "--gpu-memory-utilization", "0.5"]
    assert (options["--host"], options["--dtype"], options["--max-model-len"]) == ("127.0.0.1", "bfloat16", "99")
    assert options["--generation-config"] == "vllm"
    assert set(told["env"]) == {"VLLM_API_KEY"}  # it is no rank of ours
    assert len(fake.alive()) == 3
    server.close()
    assert gone(fake)


def test_its_answers_are_for_us_alone(start, fake):
    server = ready(start())
    assert server.complete(FIELDS)["choices"][0]["token_ids"][-1] == 1
    for request in (server.url + "/v1/models", server.url + "/v1/completions"):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                request, None if "models" in request else b"{}"
            )
    (told,) = fake.told("start")
    assert told["env"]["VLLM_API_KEY"] not in " ".join(told["args"])  # which every user of the machine can read


def test_two_are_two(start, fake):
    one, two = ready(start()), ready(start())
    assert one.url != two.url
    assert one.name != two.name
    with pytest.raises(WrongInput, match=r"status 404.*does not exist"):
        one.complete({**FIELDS, "model": two.name})


def test_its_reason_not_to_start_is_told_in_one_line(start, fake, tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "student.log").write_text("OSError: of another time\n")
    fake.behave(die="Free memory on device cuda:0 (1/80 GiB) on startup is less than desired")
    with pytest.raises(WrongInput) as refused:
        ready(start())
    assert "exit code 1): ValueError: Free memory on device" in refused.value.what
    assert refused.value.where == str(tmp_path / "logs" / "student.log")
    said = (tmp_path / "logs" / "student.log").read_text()
    assert said.startswith("OSError: of another time\nINFO vLLM starts\n")


def test_an_option_that_it_does_not_know_is_told(start):
    with pytest.raises(WrongInput, match=r"exit code 2\): error: unrecognized arguments: --frobnicate"):
        ready(start(args=["--frobnicate"]))


def test_it_is_given_up_after_its_time(start, fake):
    fake.behave(never=True)
    with pytest.raises(WrongInput, match=r"not ready after 1\.5 s"):
        ready(start(startup_s=1.5))


def test_waiting_for_it_can_be_interrupted(start, fake):
    fake.behave(never=True)

    def look():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start().wait(look)


def test_its_death_under_way_is_told(start, fake):
    fake.behave(canned=True, crash_after=1)
    server = ready(start())
    server.complete(FIELDS)
    server.check()
    with pytest.raises(WrongInput, match=r"ended under way \(exit code 1\): OutOfMemoryError: CUDA out of memory"):
        server.complete(FIELDS)


def test_a_connection_that_breaks_is_made_anew(start, fake):
    fake.behave(canned=True, break_off=[2, 3, 5, 6, 7])
    server = ready(start())
    first = server.complete(FIELDS)
    assert server.complete(FIELDS) == first
    assert len(fake.asked()) == 4
    with pytest.raises(WrongInput, match="keeps breaking off"):
        server.complete(FIELDS)
    assert len(fake.asked()) == 7


def test_killed_from_outside_it_is_told_so(start, fake, tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "student.log").write_text("OSError: of another time\n")
    server = ready(start())
    os.kill(fake.told("start")[0]["pids"][0], 9)
    assert gone(fake)
    with pytest.raises(WrongInput, match=r"exit code 137\): INFO vLLM starts"):
        server.check()


def test_a_request_that_it_does_not_take_is_told(start):
    with pytest.raises(WrongInput, match=r"refuses a request \(status 400\): .*seed -1"):
        ready(start()).complete(FIELDS | {"seed": -1})


def test_closing_ends_what_is_under_way(start, fake):
    fake.behave(canned=True, delay_s=60)
    server, told = ready(start()), []

    def ask():
        try:
            server.complete(FIELDS)
        except WrongInput as error:
            told.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    while not fake.asked():
        time.sleep(0.02)
    server.close()
    asking.join(10)
    assert told
    server.close()  # harmless when repeated


def test_a_server_that_nobody_holds_any_more_ends(fake, tmp_path):
    (tmp_path / "tokenizer").mkdir()
    server = ready(
        VLLMServer(
            VLLMSettings(str(fake.path)), "a/model", tmp_path / "tokenizer", "float32", 9, Path(tmp_path / "log")
        )
    )
    assert fake.alive()
    del server
    assert gone(fake)
