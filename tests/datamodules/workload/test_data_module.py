"""Workloads: who asks what and when, the same for every model, and only what has not been served yet."""

import json
import math

import numpy as np
import pytest

from datamodules.almanac import dialogues
from datamodules.workload import BurstDataModule, PromptPool, Trace, WorkloadDataModule
from datamodules.wrong_input import WrongInput

ROWS = list(dialogues(0, "test", 12))


@pytest.fixture(scope="module")
def pool(tokenizer):
    return PromptPool(ROWS, tokenizer, max_length=128, max_new_tokens=9)


@pytest.fixture
def trace(tmp_path):
    lines = [f"{0.5 * n},{3 + n},{1 + n % 4}" for n in range(400)]
    (tmp_path / "trace.csv").write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *lines]))
    return str(tmp_path / "trace.csv")


def made(pool, tmp_path, models=("a", "b"), schedulers=("fifo", "prefill_first"), **settings):
    settings = {"duration_s": 4.0, "warmup_s": 1.0, "rates": [2.0, 8.0], "seeds": [0, 1]} | settings
    return WorkloadDataModule(pool, models, schedulers, folder=tmp_path / "logs", **settings)


def test_models_and_schedulers_get_the_same_requests_at_the_same_times(pool, tmp_path):
    found = list(made(pool, tmp_path).workloads())
    assert len({one.name for one in found}) == len(found) == 2 * 2 * 2 * 2
    by_load = {}
    for one in found:
        by_load.setdefault((one.rate_rps, one.seed), []).append(one.requests)
    assert len(by_load) == 4
    assert all(all(requests == same[0] for requests in same) for same in by_load.values())
    assert by_load[2.0, 0] != by_load[2.0, 1]


def test_requests_of_the_warm_up_are_not_measured(pool, tmp_path):
    for one in made(pool, tmp_path).workloads():
        assert [request.measured for request in one.requests] == [request.arrival_s >= 1.0 for request in one.requests]
        assert any(request.measured for request in one.requests)


def test_prompts_are_those_given_and_answers_have_room(pool, tmp_path, tokenizer):
    prompts = [ids for ids in pool.prompts]
    for request in next(made(pool, tmp_path).workloads()).requests:
        assert request.input_ids in prompts
        assert request.max_new_tokens == min(9, 128 - len(request.input_ids))


def test_what_has_a_log_is_not_served_again(pool, tmp_path):
    data = made(pool, tmp_path)
    names = [one.name for one in data.workloads()]
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / f"{names[3]}.jsonl").touch()
    assert [one.name for one in data.workloads()] == names[:3] + names[4:]


def test_loads_are_multiples_of_what_was_measured(pool, tmp_path):
    (tmp_path / "capacity.json").write_text(json.dumps({"a": 10.0, "b": 40.0}))
    settings = {"loads": [0.5, 2.0], "rates": None, "capacity": tmp_path / "capacity.json"}
    own = {(one.model, one.load): one.rate_rps for one in made(pool, tmp_path, **settings).workloads()}
    assert own == {("a", 0.5): 5.0, ("a", 2.0): 20.0, ("b", 0.5): 20.0, ("b", 2.0): 80.0}
    shared = {
        (one.model, one.load): one.rate_rps for one in made(pool, tmp_path, relative_to="a", **settings).workloads()
    }
    assert shared == {("a", 0.5): 5.0, ("a", 2.0): 20.0, ("b", 0.5): 5.0, ("b", 2.0): 20.0}
    with pytest.raises(WrongInput, match="no capacity of c"):
        list(made(pool, tmp_path, relative_to="c", **settings).workloads())
    with pytest.raises(WrongInput, match="has not been measured"):
        list(made(pool, tmp_path, **settings | {"capacity": None}).workloads())


def test_a_trace_gives_arrivals_and_lengths(pool, tmp_path, trace):
    (one, other) = made(pool, tmp_path, ["a"], ["fifo"], rates=None, time_scales=[0.1], trace=trace).workloads()
    assert one.rate_rps == pytest.approx(20.0)
    assert one.time_scale == pytest.approx(0.1)
    np.testing.assert_allclose([request.arrival_s for request in one.requests], 0.05 * np.arange(100), atol=1e-9)
    assert [len(request.input_ids) for request in one.requests] == [min(3 + n, 128 - (1 + n % 4)) for n in range(100)]
    assert [request.max_new_tokens for request in one.requests] == [1 + n % 4 for n in range(100)]
    assert len(other.requests[0].input_ids) == 103  # the second seed has the trace's next stretch


def test_a_trace_is_scaled_to_a_rate(pool, tmp_path, trace):
    found = list(made(pool, tmp_path, ["a"], ["fifo"], rates=[4.0], trace=trace).workloads())
    assert [one.time_scale for one in found] == pytest.approx([0.5, 0.5])
    assert [len(one.requests) for one in found] == [20, 20]
    np.testing.assert_allclose([request.arrival_s for request in found[0].requests], 0.25 * np.arange(20), atol=1e-9)
    assert [len(one.requests[0].input_ids) for one in found] == [3, 23]  # each seed has its own stretch


def test_idle_stretches_of_a_trace_leave_no_load_empty(pool, tmp_path):
    times = [0.0, 0.1, 0.2, 900.0, 900.1, 1800.0, 1800.5, 1900.0]
    (tmp_path / "idle.csv").write_text(
        "\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *(f"{time},5,2" for time in times)])
    )
    given = {"rates": [0.8], "seeds": [0, 1], "trace": str(tmp_path / "idle.csv")}
    found = list(made(pool, tmp_path, ["a"], ["fifo"], **given).workloads())
    assert [len(one.requests) for one in found] == [4, 4]
    assert all(one.requests[-1].arrival_s == pytest.approx(5 * 3 / 4) for one in found)
    assert found[0].time_scale != found[1].time_scale


def test_bursts_come_all_at_once(pool):
    found = list(BurstDataModule(pool, ["a", "b"], ["fifo"], requests=7, repeats=2).workloads())
    assert [(one.model, len(one.requests)) for one in found] == [("a", 7), ("a", 7), ("b", 7), ("b", 7)]
    assert all(request.arrival_s == 0 and request.measured for one in found for request in one.requests)
    assert math.isinf(found[0].rate_rps)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"rates": None}, "0 of loads, rates and time_scales"),
        ({"loads": [1.0]}, "2 of loads, rates and time_scales"),
        ({"rates": []}, "rates are"),
        ({"rates": [0.0]}, "rates are"),
        ({"rates": None, "time_scales": [1.0]}, "without a trace"),
        ({"duration_s": 0.0}, "duration_s 0"),
        ({"warmup_s": -1.0}, "warmup_s -1"),
        ({"seeds": []}, "seeds"),
        ({"models": []}, "nothing to serve with"),
    ],
)
def test_wrong_settings_are_refused(pool, tmp_path, wrong, said):
    with pytest.raises(WrongInput, match=said):
        made(pool, tmp_path, **wrong)


def test_a_workload_without_a_request_is_refused(pool, tmp_path, trace):
    with pytest.raises(WrongInput, match="has no request"):
        list(made(pool, tmp_path, rates=[1e-6]).workloads())
    with pytest.raises(WrongInput, match="longer trace"):
        list(made(pool, tmp_path, rates=None, time_scales=[0.01], trace=trace, seeds=list(range(9))).workloads())
    with pytest.raises(WrongInput, match="the trace is over before seed 5"):
        list(made(pool, tmp_path, rates=[15.0], trace=trace, seeds=list(range(9))).workloads())


@pytest.mark.parametrize(
    ("rows", "settings", "said"),
    [
        ([], {}, "there are no prompts"),
        (ROWS, {"max_length": 10, "max_new_tokens": 2}, "the maximum is 10"),
        (ROWS, {"max_length": 10, "max_new_tokens": 10}, "max_new_tokens < max_length"),
        (ROWS, {"max_new_tokens": 0}, "answers of 0 tokens"),
    ],
)
def test_wrong_prompts_are_refused(tokenizer, rows, settings, said):
    with pytest.raises(WrongInput, match=said):
        PromptPool(rows, tokenizer, **settings)


def test_recorded_lengths_stretch_and_cut_prompts(tokenizer):
    pool = PromptPool(ROWS[:1], tokenizer, max_length=100, max_new_tokens=20)
    trace = Trace(np.zeros(3), np.array([5, 90, 500]), np.array([50, 2, 20]))
    requests = pool.requests(np.zeros(3), 0, trace=trace)
    assert [(len(one.input_ids), one.max_new_tokens) for one in requests] == [(5, 20), (90, 2), (80, 20)]
    whole = pool.prompts[0]
    assert requests[1].input_ids == (whole * 9)[:90]
