"""Each tool's log reads to the same columns in seconds; what cannot be is refused by file and row."""

from __future__ import annotations

import doctest
import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from datamodules.latency_logs import LogWriter, Request, open_logs, to_padded, write_parquet, writing
from datamodules.wrong_input import WrongInput
from tests.datamodules.latency_logs import log_files as files

IN_ORDER, TWO_A_CHUNK = [0.5, 0.75, 1.25], [0.25, 0.25, 0.75, 0.75]


def read(path, **settings):
    """(the log, its requests) of a file with one run."""
    (log,) = open_logs(path, **settings)
    return log, list(log.requests())


@pytest.mark.parametrize("write", [files.vllm, files.sglang])
def test_vllm_and_sglang(tmp_path, write):
    log, requests = read(write(tmp_path / "a.log"))
    assert (log.tool, log.window_s, log.has_submit_times) == (write.__name__, 4.0, False)
    assert [r.token_s.tolist() for r in requests] == [IN_ORDER, TWO_A_CHUNK, [], [1.5]]
    assert [r.status for r in requests] == ["ok", "ok", "empty", "failed"]
    assert [r.spread for r in requests] == [False, True, False, False]
    assert [r.input_tokens for r in requests] == [5, 6, 7, 8]
    tally = log.tally
    assert (tally.requests, tally.failed, tally.empty, tally.spread, tally.counted_by_chunk) == (4, 1, 1, 1, 1)


def test_vllm_with_start_times(tmp_path):
    log, requests = read(files.vllm(tmp_path / "a.json", start_times=[10.0, 10.5, 11.0, 11.5]))
    assert log.has_submit_times
    assert [r.submit_s for r in requests] == [10.0, 10.5, 11.0, 11.5]


def test_several_runs_in_a_file(tmp_path):
    logs = list(open_logs(files.sglang(tmp_path / "sweep.jsonl", runs=3)))
    assert [log.name for log in logs] == ["sweep.1", "sweep.2", "sweep.3"]
    assert [len(list(log.requests())) for log in logs] == [4, 4, 4]


def test_aiperf(tmp_path):
    log, requests = read(files.aiperf(tmp_path / "a.jsonl"))
    assert (log.tool, log.window_s, log.has_submit_times) == ("aiperf", None, True)
    assert [r.token_s.tolist() for r in requests] == [IN_ORDER, TWO_A_CHUNK, [0.5], []]
    assert [r.submit_s for r in requests] == [0.0, 0.500000001, 1.0, 2.0]  # nanoseconds since 1970, no digit lost
    assert [r.status for r in requests] == ["ok", "ok", "cancelled", "failed"]
    assert requests[2].error == "499: RequestCancellationError: stopped"
    assert (log.tally.skipped, log.tally.spread, log.tally.cancelled, log.tally.failed) == (1, 1, 1, 1)


def test_inference_perf(tmp_path):
    log, requests = read(files.inference_perf(tmp_path / "a.json"))
    assert (log.tool, log.has_submit_times) == ("inference-perf", True)
    assert [r.token_s.tolist() for r in requests] == [IN_ORDER, TWO_A_CHUNK, [0.5]]
    assert [r.submit_s for r in requests] == [0.0, 1.0, 2.0]
    assert [(r.status, r.error) for r in requests[1:]] == [("ok", ""), ("failed", "TimeoutError: late")]


def test_etalon(tmp_path):
    log, requests = read(files.etalon(tmp_path / "a.json"))
    assert (log.tool, log.window_s, log.has_submit_times) == ("etalon", None, False)
    assert [r.token_s.tolist() for r in requests] == [IN_ORDER, TWO_A_CHUNK, []]
    assert [r.status for r in requests] == ["ok", "ok", "empty"]
    assert read(tmp_path / "a.json", window_s=7.0)[0].window_s == 7.0


def own_requests():
    return [
        Request("a", 0.0, np.array(IN_ORDER), 5, 3, expected_tokens=8),
        Request("b", 0.1 + 0.2, np.array([0.1]), None, 0, status="failed", error="gone\naway"),
        Request("ü", 2.0, np.zeros(0), 7, 0, status="cancelled"),
    ]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_own_format_survives_the_round_trip(tmp_path, kind):
    path = tmp_path / "deep" / "a.log"
    if kind == "parquet":
        write_parquet(path, own_requests())
        assert pq.read_schema(path).names[:3] == ["request_id", "submit_s", "token_s"]
    else:
        with LogWriter(path) as log:
            for request in own_requests():
                log.write(request)
    log, requests = read(path)
    assert (log.tool, log.has_submit_times) == ("smoothtalk", True)
    for before, after in zip(own_requests(), requests, strict=True):
        assert before.token_s.tolist() == after.token_s.tolist()
        names = ("request_id", "submit_s", "input_tokens", "output_tokens", "expected_tokens", "status", "error")
        assert [getattr(before, name) for name in names] == [getattr(after, name) for name in names]


def test_writer_appends_and_mends_what_a_crash_cut_off(tmp_path):
    path = tmp_path / "a.jsonl"
    first, second, third = own_requests()
    with LogWriter(path) as log:
        log.write(first)
    with path.open("a") as file:
        file.write('{"request_id": "half')
    with pytest.raises(WrongInput, match="row 2.*delete the row"):
        read(path)
    with pytest.raises(WrongInput, match="exists already"):
        LogWriter(path)
    with LogWriter(path, append=True) as log:
        log.write(second)
        assert len(read(path)[1]) == 2  # on disk before the writer closes
        log.write(third)
    assert [r.request_id for r in read(path)[1]] == ["a", "b", "ü"]


def test_parquet_appears_whole_or_not_at_all(tmp_path):
    def breaks():
        yield own_requests()[0]
        raise RuntimeError("the server died")

    with pytest.raises(RuntimeError):
        write_parquet(tmp_path / "a.parquet", breaks())
    assert list(tmp_path.iterdir()) == []


def test_to_padded_and_pieces(tmp_path):
    (log,) = open_logs(files.vllm(tmp_path / "a.json", start_times=[1.0, 2.0, 3.0, 4.0]))
    batch = to_padded(list(log.requests()))
    nan = math.nan
    expected = torch.tensor([[0.5, 0.75, 1.25, nan], TWO_A_CHUNK, [nan] * 4, [1.5, nan, nan, nan]], dtype=torch.float64)
    torch.testing.assert_close(batch.token_times, expected, equal_nan=True, rtol=0, atol=0)
    assert batch.submit_times is not None
    assert batch.submit_times.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert batch.failed.tolist() == [False, False, False, True]
    assert batch.spread.tolist() == [False, True, False, False]
    assert batch.expected_tokens.isnan().all()
    pieces = list(log.pieces(max_cells=6))
    assert [len(piece) for piece in pieces] == [1, 1, 2]
    assert [r.request_id for piece in pieces for r in piece] == ["0", "1", "2", "3"]
    assert log.tally.requests == 4
    assert to_padded([]).token_times.shape == (0, 1)


def test_parquet_in_batches_keeps_rows_and_lists_together(tmp_path, monkeypatch):
    monkeypatch.setattr("datamodules.latency_logs.own._BATCH", 2)
    requests = [Request(str(i), float(i), np.arange(i, dtype=float), None, i) for i in range(7)]
    write_parquet(tmp_path / "a.parquet", requests)
    assert [r.token_s.tolist() for r in read(tmp_path / "a.parquet")[1]] == [list(range(i)) for i in range(7)]


def test_own_rows_need_only_what_matters(tmp_path):
    path = files.lines(tmp_path / "a.jsonl", [{"request_id": 7, "token_s": [0.5], "status": "ok"}])
    log, (request,) = read(path)
    assert (request.request_id, request.output_tokens, request.submit_s) == ("7", 1, None)
    assert not log.has_submit_times
    path.write_text(json.dumps({"request_id": "a", "token_s": None, "status": "ok"}))
    assert read(path)[1][0].status == "empty"


def test_example_in_the_docstring():
    result = doctest.testmod(writing)
    assert result.attempted > 0
    assert result.failed == 0
