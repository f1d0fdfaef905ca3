"""Wrong logs are refused in one line: what is wrong, in which file and row, and the mend."""

from __future__ import annotations

import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.latency_logs import open_logs
from datamodules.wrong_input import WrongInput
from tests.datamodules.latency_logs import log_files as files


def _read_all(path):
    return [list(log.requests()) for log in open_logs(path)]


@pytest.mark.parametrize(
    ("write", "field"), [(files.llmperf, "inter_token_latency_s"), (files.lifecycle, "first_token_ts")]
)
def test_logs_without_token_times_are_refused_with_the_reason(tmp_path, write, field):
    with pytest.raises(WrongInput, match=f"{field}.*user idle latency, smooth goodput, TBT.* cannot exist"):
        list(open_logs(write(tmp_path / "a.log")))


def bad_bench(**changes):
    return lambda path: files.vllm(path, **changes)


def bad_own(**changes):
    return lambda path: files.lines(path, [files.own_row(), files.own_row(**changes)])


def bad_aiperf(**changes):
    return lambda path: files.lines(path, [files.aiperf_row(), files.aiperf_row(**changes)])


def text(content):
    return lambda path: path.write_text(content)


WRONG = {
    "lengths": (bad_bench(input_lens=[1, 2]), "lengths disagree: ttfts 4, input_lens 2"),
    "gap lists": (bad_bench(itls=[[]]), "lengths disagree: ttfts 4, itls 1"),
    "no details": (bad_bench(ttfts=None, itls=None, mean_ttft_ms=3), "ttfts, itls missing.*--save-detailed"),
    "milliseconds": (bad_bench(ttfts=[500.0, 250.0, 0.0, 1.0]), "request 1.*in seconds"),
    "an hour": (bad_bench(ttfts=[15000.0, 1, 0, 1]), "first token after 15000 s.*request 1"),
    "negative gap": (bad_bench(itls=[[0.5], [-0.5], [], []]), "go backwards.*request 2"),
    "negative time": (bad_bench(ttfts=[0.5, -0.5, 0.0, 1.0]), "negative.*request 2"),
    "infinite": (bad_bench(itls=[[0.5], [math.inf], [], []]), "NaN or infinite.*request 2"),
    "no number": (bad_bench(itls=[["x"], [], [], []]), "no number.*request 1"),
    "no first time": (bad_bench(ttfts=[0.0, 1, 0, 1], itls=[[]] * 4), "3 tokens, but no time.*request 1"),
    "half a token": (bad_bench(output_lens=[1.5, 0, 0, 0]), "not a count.*request 1"),
    "window": (bad_bench(duration=0.0), "duration.*0 s"),
    "no requests": (bad_bench(input_lens=[], output_lens=[], ttfts=[], itls=[], errors=[]), "empty"),
    "own backwards": (bad_own(token_s=[0.5, 0.25]), "go backwards.*row 2"),
    "own null inside": (bad_own(token_s=[0.5, None]), "NaN or infinite.*row 2"),
    "own lengths": (bad_own(output_tokens=3), "3 output_tokens, 2 times.*row 2"),
    "own status": (bad_own(status="done"), "status.*done.*row 2"),
    "own submit": (bad_own(submit_s=None), "some have none.*request 2"),
    "aiperf unit": (bad_aiperf(ttft=(1.0, "min")), "'min'.*row 2"),
    "aiperf unstreamed": (bad_aiperf(ttft=None, gaps=None), "row 2.*--streaming"),
    "aiperf start": (bad_aiperf(request_start_ns=None), "request_start_ns.*row 2"),
    "etalon lengths": (lambda path: files.etalon(path, tbt=[[]]), "lengths disagree.*tbt 1"),
    "nothing": (text(""), "empty"),
    "no array elements": (text("[]"), "empty"),
    "another tool": (text('{"results": 1}'), "no tool that is known.*results"),
    "text": (text("TIMESTAMP,Tokens\n"), "no tool that is known"),
    "cut off": (text('{"ttfts": [0.1, 0.2'), "not valid JSON"),
    "bytes": (lambda path: path.write_bytes(b'{"a": "\xff'), "not UTF-8"),
    "no parquet": (lambda path: path.write_bytes(b"PAR1 and no more"), "not readable as Parquet"),
    "other parquet": (lambda path: pq.write_table(pa.table({"a": [1]}), path), "token_s, status are missing"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_logs_are_refused_in_one_line(tmp_path, case):
    write, message = WRONG[case]
    write(tmp_path / "a.log")
    with pytest.raises(WrongInput, match=message) as caught:
        _read_all(tmp_path / "a.log")
    assert "a.log" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_file_and_no_window(tmp_path):
    with pytest.raises(WrongInput, match="no such file"):
        list(open_logs(tmp_path / "a.json"))
    with pytest.raises(WrongInput, match="window"):
        list(open_logs(files.vllm(tmp_path / "b.json"), window_s=0.0))
