"""Arrivals by chance and by trace."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import train
from datamodules.workload import Trace, poisson_arrivals, read_trace, replayed_arrivals
from datamodules.wrong_input import WrongInput

REAL = Path(train.__file__).resolve().parent.parent / "shared" / "data" / "serving" / "azure_llm_code_trace.csv"


@settings(max_examples=60, deadline=None)
@given(st.floats(0.01, 500), st.floats(0.01, 20), st.integers(0, 1000))
def test_poisson_arrivals_ascend_within_their_time(rate, duration, seed):
    times = poisson_arrivals(rate, duration, seed)
    assert np.all(np.diff(times) >= 0)
    assert not len(times) or 0 <= times[0] <= times[-1] < duration


def test_poisson_arrivals_have_their_mean_and_spread():
    counts = np.array([len(poisson_arrivals(7.0, 10.0, seed)) for seed in range(400)])
    assert counts.mean() == pytest.approx(70, abs=4 * (70 / 400) ** 0.5)
    assert counts.var() == pytest.approx(70, rel=0.3)  # a Poisson count varies by its mean


def test_the_same_seed_is_the_same_pattern_stretched():
    fast, slow = poisson_arrivals(20.0, 5.0, 3), poisson_arrivals(10.0, 10.0, 3)
    np.testing.assert_allclose(2 * fast, slow)
    assert not np.array_equal(fast, poisson_arrivals(20.0, 5.0, 4))


def azure(path, rows, header="TIMESTAMP,ContextTokens,GeneratedTokens"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


ROWS = ["2023-11-16 18:17:03.9799600,4808,10", "2023-11-16 18:17:04.4799600,110,27", "2023-11-16 18:17:05.9799600,9,8"]


def test_a_trace_is_read_in_seconds_since_its_first(tmp_path):
    trace = read_trace(azure(tmp_path / "t.csv", ROWS))
    np.testing.assert_allclose(trace.arrival_s, [0, 0.5, 2.0], atol=1e-6)
    assert trace.context_tokens.tolist() == [4808, 110, 9]
    assert trace.generated_tokens.tolist() == [10, 27, 8]
    assert trace.rate_rps == pytest.approx(1.0)


def test_seconds_are_timestamps_too(tmp_path):
    trace = read_trace(azure(tmp_path / "t.csv", ["10.5,1,1", "12,1,1"]))
    assert trace.arrival_s.tolist() == [0, 1.5]


def test_a_replay_is_faster_or_slower_and_may_start_later():
    trace = Trace(np.array([0.0, 1.0, 2.0, 4.0]), np.arange(4), np.arange(4))
    assert replayed_arrivals(trace, 0.5, 1.0).tolist() == [0.0, 0.5]
    later = trace.since(1.5)
    assert later.arrival_s.tolist() == [0.5, 2.5]
    assert later.context_tokens.tolist() == [2, 3]
    assert not len(trace.since(9.0).arrival_s)


@pytest.mark.parametrize(
    ("rows", "header", "said"),
    [
        (ROWS, "TIMESTAMP,Context,GeneratedTokens", "no column ContextTokens"),
        ([ROWS[1], ROWS[0]], None, "time goes backwards .*row 3"),
        ([ROWS[0], "2023-11-16 18:17:05.0,0,3"], None, "ContextTokens is 0 .*row 3"),
        ([ROWS[0], "yesterday,5,3"], None, "not readable as a trace"),
        ([ROWS[0], "2023-11-16 18:17:05.0,many,3"], None, "not readable as a trace"),
        (ROWS[:1], None, "no two requests"),
        ([ROWS[0], ROWS[0]], None, "no two requests"),
    ],
)
def test_wrong_traces_are_refused_in_one_line(tmp_path, rows, header, said):
    path = azure(tmp_path / "t.csv", rows, *([header] if header else []))
    with pytest.raises(WrongInput, match=said) as refused:
        read_trace(path)
    assert "\n" not in str(refused.value)


def test_a_missing_trace_is_refused(tmp_path):
    with pytest.raises(WrongInput, match="not readable as a trace"):
        read_trace(tmp_path / "none.csv")


@pytest.mark.skipif(not REAL.is_file(), reason="the real trace (../shared/data/serving) is not here")
def test_the_real_trace_is_read_whole():
    trace = read_trace(REAL)
    assert len(trace.arrival_s) == 8819
    assert trace.rate_rps == pytest.approx(2.566, abs=0.001)
    assert trace.arrival_s[1] == pytest.approx(0.052, abs=1e-6)
