"""What is said of a server before any load is made, in one line each."""

import socket

import pytest

from callbacks.load.endpoint import Endpoint
from datamodules.wrong_input import WrongInput
from tests.callbacks.load.fakes import Server, chunk

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "Hi?"}], "stream": True}
KEY = "sk-very-secret-42"


@pytest.fixture
def server():
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/"])
def test_an_address_with_or_without_v1(server, ending):
    endpoint = Endpoint(server.url + ending, KEY)
    assert endpoint.url == server.url
    assert endpoint.models() == ["tiny"]
    endpoint.check(BODY)
    assert server.bodies == [BODY]
    assert server.keys == [f"Bearer {KEY}"] * 2
    assert endpoint.listening()


@pytest.mark.parametrize(
    "url", ["http://192.0.2.1:8000", "https://example.com/v1", "http://0.0.0.0:80", "http://localhost.example.com"]
)
def test_other_machines_are_refused_unless_allowed(url):
    with pytest.raises(WrongInput, match="is another machine .*allow_remote=true"):
        Endpoint(url)
    Endpoint(url, allow_remote=True)


@pytest.mark.parametrize(
    "url", ["http://localhost:1", "http://127.0.0.1", "http://127.3.2.1:1/prefix", "http://[::1]:1"]
)
def test_loopback_is_allowed(url):
    assert Endpoint(url).url == url


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("127.0.0.1:8000", "no address of a server"),
        ("ftp://127.0.0.1", "no address of a server"),
        ("http://127.0.0.1:port", "no address"),
        ("http://127.0.0.1:1/?a=b", "no address of a server"),
        ("http://me:secret@127.0.0.1:1", "holds credentials"),
    ],
)
def test_what_is_no_address_is_refused(url, said):
    with pytest.raises(WrongInput, match=said) as raised:
        Endpoint(url)
    assert "secret" not in str(raised.value)


def test_nobody_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = Endpoint(f"http://127.0.0.1:{free.getsockname()[1]}")
    assert not endpoint.listening()
    with pytest.raises(WrongInput, match="no server answers: .*efused.*start it"):
        endpoint.models()


@pytest.mark.parametrize("listed", [(404, {}), (500, {}), (200, b"<html>"), (200, {"object": "list"})])
def test_a_server_without_a_list_of_models_may_still_serve(server, listed):
    server.listed = listed
    endpoint = Endpoint(server.url)
    assert endpoint.models() is None
    endpoint.check(BODY)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((422, {"detail": "Unexpected fields: {'stream_options'}"}), "status 422.*stream_options.*null leaves one out"),
        ((404, {"error": "unknown model"}), r"refuses a request to nope \(status 404.*model_name= may be one of tiny"),
        ((401, {"error": f"wrong key {KEY}"}), "refuses the API key.*api_key_env"),
        ((500, b"oops"), "the server fails .*500: oops.*server's own log"),
        ((307, b""), "sends requests elsewhere, to http://192.0.2.1"),
        ((200, {"choices": [{"message": {"content": "whole"}}]}), "no stream of chat chunks"),
        ([chunk(content="Hi"), {"error": {"message": f"out of memory {KEY}"}}], "answers with an error: .*memory"),
        (["[DONE]"], "no stream of chat chunks"),
    ],
)
def test_refusals_are_one_line_without_the_key(server, answer, said):
    server.answer = lambda _: answer
    with pytest.raises(WrongInput, match=said) as raised:
        Endpoint(server.url, KEY).check(BODY | {"model": "nope"})
    assert "\n" not in str(raised.value)
    assert KEY not in str(raised.value)
    assert raised.value.__context__ is None or raised.value.__suppress_context__


def test_a_server_that_keeps_still(server):
    def slow(_):
        import time

        time.sleep(1.0)
        return []

    server.answer = slow
    with pytest.raises(WrongInput, match="kept still: timed out.*probe_timeout_s="):
        Endpoint(server.url, timeout_s=0.2).check(BODY)


def test_loopback_is_reached_past_any_proxy(server, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://192.0.2.1:9")
    assert Endpoint(server.url).models() == ["tiny"]
