"""A served teacher against the same model in memory, and servers that fail."""

import logging
import socket

import pytest
import torch

from callbacks.score_writer import ScoreWriter
from datamodules.preference_pairs import PreferencePairsDataModule
from datamodules.wrong_input import WrongInput
from lightning_modules.endpoint import EndpointScorer, check_scorer
from lightning_modules.scoring import ScoringModule
from tests.lightning_modules.endpoint.served import Server

pytest.importorskip("openai")

KEY = "sk-very-secret-42"


@pytest.fixture
def served(model_folder, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = Server(model_folder(seed=1))
    yield server
    server.close()


@pytest.fixture
def scored(trainer, tokenizer, model_folder, pair_rows, tmp_path):
    """Score as the stage does, with a served teacher or one in memory."""

    def run(url=None, *, packing="off", cache=tmp_path / "scores", revision="r1", **settings):
        models = {"reference": str(model_folder()), "teacher": str(model_folder(seed=1))}
        named = f"tiny@{revision}" if url else None
        scorers = {"teacher": EndpointScorer(url, "tiny", revision, **settings)} if url else {}
        make = {"cache_dir": cache, "packing": packing, "val_fraction": 0, "score_batch_size": 8}
        data = PreferencePairsDataModule(pair_rows, tokenizer, **models, served_teacher=named, **make)
        module = ScoringModule(models, tokenizer, scorers=scorers, packing=packing)
        trainer(callbacks=[ScoreWriter()]).predict(module, datamodule=data, return_predictions=False)
        return data

    return run


@pytest.mark.parametrize("packing", ["off", "auto"])
@pytest.mark.parametrize("protocol", ["prompt_logprobs", "echo"])
def test_a_served_teacher_says_what_it_says_in_memory(scored, served, tmp_path, packing, protocol):
    far = scored(served.url, packing=packing, protocol=protocol)
    near = scored(packing=packing, cache=tmp_path / "other")
    for ours, theirs in zip(far.train_scores(), near.train_scores(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4, rtol=1e-5)
    assert set(served.paths) == {"/v1/completions"}
    assert set(served.keys) == {f"Bearer {KEY}"}
    sent = {tuple(body["prompt"]) for body in served.bodies}
    assert sent == {tuple(r.ids.tolist()) for pair in far.train_pairs for r in pair.responses}
    assert len(served.bodies) == len(sent)


def test_scores_are_kept_by_name_and_revision_and_not_by_address(scored, served, model_folder):
    first = scored(served.url)
    count = len(served.bodies)
    assert first.final_metrics["computed"] == 2 * count
    other = Server(model_folder(seed=1))
    try:
        assert scored(other.url + "/v1/", protocol="echo").final_metrics["computed"] == 0
        assert not other.bodies
    finally:
        other.close()
    assert scored(served.url, revision="r2").final_metrics["computed"] == count
    assert len(served.bodies) == 2 * count


def test_a_busy_server_is_asked_again(scored, served):
    served.spoil = lambda answer, nth: (503, {"error": {"message": "busy"}}) if nth % 2 else answer
    data = scored(served.url, concurrency=1)
    assert data.train_scores().teacher_chosen_logps.isfinite().all()
    assert len(served.bodies) == data.final_metrics["computed"]  # each of the teacher's half, twice


def test_a_server_that_dies_is_said_and_what_it_scored_is_kept(scored, served):
    served.spoil = lambda answer, nth: answer if nth <= 20 else (500, {"error": {"message": f"dead {KEY}"}})
    with pytest.raises(WrongInput, match="keeps failing after all retries") as error:
        scored(served.url, max_retries=1, concurrency=1)
    assert KEY not in str(error.value)
    assert "what was scored so far is kept" in str(error.value)
    assert len({tuple(body["prompt"]) for body in served.bodies}) <= 22  # nobody asks on
    served.spoil = lambda answer, nth: answer
    before = len(served.bodies)
    data = scored(served.url)
    assert len(served.bodies) - before == data.final_metrics["computed"]  # the reference is done
    whole = len({tuple(r.ids.tolist()) for pair in data.train_pairs for r in pair.responses})
    assert data.final_metrics["computed"] == whole - 16  # two batches of eight were written


def test_so_many_requests_are_under_way_at_once_and_no_more(model_folder, served, token_batch):
    slow = Server(model_folder(seed=1), delay_s=0.05)
    try:
        batch = token_batch([(3, n) for n in range(1, 9)])
        expected = EndpointScorer(served.url, "tiny", "r1", concurrency=1).logps(batch)
        assert EndpointScorer(slow.url, "tiny", "r1", concurrency=3).logps(batch) == pytest.approx(expected)
        assert slow.most == 3
        assert served.most == 1
    finally:
        slow.close()


def test_the_same_batch_gives_the_same_order_and_sums(served, token_batch, model_folder):
    from lightning_modules.language_model import build_language_model
    from lightning_modules.response_logps import response_logps

    batch = token_batch([(2, 5), (7, 1), (4, 4)])
    expected = response_logps(build_language_model(str(model_folder(seed=1))), batch)
    got = EndpointScorer(served.url, "tiny", "r1").logps(batch)
    assert got == pytest.approx(expected.tolist(), abs=1e-4)


REFUSALS = {
    "the key": ((401, {"error": {"message": f"bad key {KEY}"}}), "refuses the API key", "OPENAI_API_KEY"),
    "the model": ((404, {"error": {"message": "no model tiny"}}), "no such model", "teacher_endpoint.model"),
    "the length": ((400, {"error": {"message": "window of 8"}}), "refuses 7 tokens: ", "max_length="),
    "the protocol": ((200, b"<html>hello</html>"), "does not speak", "teacher_endpoint.url"),
    "the field": ((200, {"choices": [{"text": "a"}]}), "no `prompt_logprobs`", "teacher_endpoint.protocol"),
}


@pytest.mark.parametrize("case", sorted(REFUSALS))
def test_a_server_that_cannot_be_used_is_told_in_one_line(served, token_batch, case, caplog):
    answer, what, mend = REFUSALS[case]
    served.spoil = lambda *_: answer
    with caplog.at_level(logging.DEBUG), pytest.raises(WrongInput, match=what) as error:
        EndpointScorer(served.url, "tiny", "r1", max_retries=0).logps(token_batch([(3, 4)]))
    assert mend in str(error.value)
    assert "\n" not in str(error.value)
    assert KEY not in str(error.value)
    assert KEY not in caplog.text


def test_nobody_there_and_nobody_answering(served, token_batch, model_folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    slow = Server(model_folder(seed=1), delay_s=1.0)
    try:
        for scorer in (
            EndpointScorer(url, "tiny", "r1", max_retries=0),
            EndpointScorer(slow.url, "tiny", "r1", max_retries=0, timeout_s=0.1),
        ):
            with pytest.raises(WrongInput, match="does not answer"):
                scorer.logps(token_batch([(3, 4)]))
    finally:
        slow.close()


GOOD = {"url": "http://127.0.0.1:8000", "model": "tiny", "revision": "r1"}
WRONG = {
    "no address": ({"url": None}, "no address", "teacher_endpoint.url"),
    "credentials": ({"url": "http://me:secret@host"}, "credentials", "environment"),
    "a file": ({"url": "file:///etc"}, "no address", "teacher_endpoint.url"),
    "no port": ({"url": "http://host:port"}, "no address", "teacher_endpoint.url"),
    "no model": ({"model": None}, "no model's name", "teacher_endpoint.model"),
    "no revision": ({"revision": None}, "names the served weights", "teacher_endpoint.revision"),
    "protocol": ({"protocol": "chat"}, "unknown protocol 'chat'", "echo"),
    "concurrency": ({"concurrency": 0}, "no such settings", "concurrency 0"),
    "retries": ({"max_retries": -1}, "no such settings", "max_retries -1"),
    "timeout": ({"timeout_s": 0}, "no such settings", "timeout_s 0"),
}


@pytest.mark.parametrize("case", sorted(WRONG))
def test_settings_that_cannot_be_are_refused_before_anything_is_asked(case):
    settings, what, mend = WRONG[case]
    with pytest.raises(WrongInput, match=what) as error:
        check_scorer("endpoint", GOOD | settings, "cached")
    assert mend in str(error.value)
    assert "secret" not in str(error.value)
    check_scorer("local", GOOD | settings, "cached")


def test_scorers_and_modes_that_cannot_be():
    check_scorer("endpoint", GOOD, "cached")
    with pytest.raises(WrongInput, match="unknown scorer 'remote'"):
        check_scorer("remote", GOOD, "cached")
    with pytest.raises(WrongInput, match="live mode runs the teacher here"):
        check_scorer("endpoint", GOOD, "live")
