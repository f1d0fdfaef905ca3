import json
import re

import pytest

from callbacks.goodput.logs_callback import GoodputLogsCallback
from callbacks.report.goodput import lead, write_goodput_report
from callbacks.report.goodput_audit import in_words
from callbacks.report.goodput_comparison import changes_places, overtakes
from callbacks.report.goodput_numbers import read_logs, short_names, told_rate, told_seconds
from tests.callbacks.goodput.test_logs_callback import log_pieces

TITLES = [
    "What the readers got",
    "Delivery against the reader",
    "How long readers wait",
    "Who comes first depends on what is asked",
    "Other readers, other weights",
    "The gaming audit",
    "What to know about these figures",
]
STEADY = [[0.3 * i for i in range(1, 31)]] * 3  # too slow for its reader, and even
BURSTS = [[0.1 * i for i in range(1, 21)] + [2.9 + 0.1 * i for i in range(1, 11)]] * 3  # fast, with a stall of 1 s


@pytest.fixture
def run_dir(tmp_path):
    def make(logs, window=4.0, **settings):
        callback = GoodputLogsCallback(tmp_path / "score_logs", **settings)
        pieces = [piece for name, requests in logs.items() for piece in log_pieces(requests, name, window=window)]
        for number, piece in enumerate(pieces):
            callback.on_test_batch_end(None, None, None, piece, number)
        callback.on_test_end(None, None)
        return tmp_path

    return make


def content(folder):
    return json.loads((folder / "score_logs" / "goodput.json").read_text())


def test_whole_run(run_dir):
    folder = run_dir({"steady": STEADY, "bursts": BURSTS})
    path = write_goodput_report(folder, {}, "alpha: 2.5\n")
    page = path.read_text(encoding="utf-8")
    assert path == folder / "report.html"
    assert re.findall(r"<h2>(.*?)</h2>", page) == TITLES
    assert page.count("<svg") == 2 + 1 + 2 + 2 + 2
    assert "α\u00a0=\u00a02.5, penalty linear_s, origin commit" in page
    assert "alpha: 2.5" in page
    assert write_goodput_report(folder, {}, "alpha: 2.5\n").read_text(encoding="utf-8") == page


def test_the_page_asks_for_nothing_and_names_are_only_text(run_dir):
    hostile = "<script>alert(1)</script>"
    page = write_goodput_report(run_dir({hostile: STEADY, "b": BURSTS}), {}, "").read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//|@import|url\((?!#)""", page)
    assert "<script" not in page


def test_one_log_has_nothing_to_change_places_with(run_dir):
    page = write_goodput_report(run_dir({"steady": STEADY}), {}, "").read_text(encoding="utf-8")
    assert [title for title in TITLES if f"<h2>{title}</h2>" in page] == [t for t in TITLES if "Who comes" not in t]


def test_places_are_told_in_words(run_dir):
    told = content(run_dir({"steady": STEADY, "bursts": BURSTS}, tbt_s=0.35))
    steady, bursts = read_logs(told)
    # 30 tokens at 0.3 s leave each reader 3 s behind: 30 - 2.5 * 3 = 22.5 tokens a request; the stall costs nothing
    assert changes_places(steady, bursts).replace("\u00a0", " ") == (
        "By p99 TBT (300 ms against 1.00 s) and goodput (TTFT + TBT) (22.5 tokens/s against 0 tokens/s) steady is "
        "ahead of bursts; by smooth goodput (22.5 tokens/s against 16.9 tokens/s) it is the other way round. "
        "In the median a reader of bursts waits 0 s, one of steady 3.00 s."
    )
    assert changes_places(steady, steady) == ""
    assert "bursts serves more smooth goodput to readers of every speed" in overtakes(steady, bursts, told["settings"])


def test_where_fast_readers_change_the_order_is_told(run_dir):
    slow_start = [[6.0 + 0.01 * i for i in range(1, 101)]] * 4  # all at once, late: the same wait for every reader
    trickle = [[0.15 * i for i in range(1, 101)]] * 4  # fine for slow readers only
    told = content(run_dir({"late": slow_start, "trickle": trickle}))
    text = overtakes(*read_logs(told), told["settings"])
    assert re.search(r"it depends on the reader: from about \d+ tokens/s on late is ahead", text)


def test_the_audit_says_that_smooth_goodput_gains_nothing(run_dir):
    (log,) = read_logs(content(run_dir({"bursts": BURSTS})))
    text = in_words(log)
    assert "would have improved p99 TBT from 1.00\u00a0s to" in text
    assert "goodput (TTFT + TBT) from 0\u00a0tokens/s to 22.5\u00a0tokens/s" in text
    assert "smooth goodput gains nothing: 22.5\u00a0tokens/s at most" in text


@pytest.mark.parametrize("logs", [{"silent": [[], []]}, {"one": [[0.5]]}, {"one": [[0.0]], "two": [[]]}])
def test_odd_logs_make_a_page(run_dir, logs):
    page = write_goodput_report(run_dir(logs), {}, "").read_text(encoding="utf-8")
    assert "could not be" not in page


def test_rates_that_are_not_known_are_left_out(run_dir):
    folder = run_dir({"a": STEADY})
    told = content(folder)
    metrics = told["logs"][0]["metrics"]
    metrics |= {
        key: None for key in metrics if key.endswith(("_tps", "_rps", "window_s")) and key != "reading_speed_tps"
    }
    told["logs"][0]["readers"]["smooth_goodput_tps"] = [[None] * 10] * 6
    (folder / "score_logs" / "goodput.json").write_text(json.dumps(told))
    page = write_goodput_report(folder, {}, "").read_text(encoding="utf-8")
    assert "window_s= gives one" in page
    assert "could not be" not in page
    assert lead(read_logs(told), told["settings"]).startswith("No rate is known")


def test_damage_is_named_and_the_page_written(tmp_path):
    (tmp_path / "score_logs").mkdir()
    for text, said in (
        (None, "FileNotFoundError"),
        ("{", "JSONDecodeError"),
        ('{"logs": [{"name": "a"}]}', "KeyError"),
    ):
        if text is not None:
            (tmp_path / "score_logs" / "goodput.json").write_text(text)
        assert said in write_goodput_report(tmp_path, {}, "").read_text(encoding="utf-8")


def test_shared_beginnings_are_left_out_of_names():
    assert short_names(["vllm_h100_16qps", "vllm_h100_1000qps"]) == ["16qps", "1000qps"]
    assert short_names(["vllm", "vllm_2"]) == ["vllm", "vllm_2"]
    assert short_names(["run-rate-0.5", "run-rate-0.75"]) == ["rate-0.5", "rate-0.75"]
    assert short_names(["one_log"]) == ["one_log"]
    long = ["a" * 40 + str(i) for i in range(2)]
    assert [len(name) for name in short_names(long)] == [30, 30]


def test_numbers_read_well():
    assert [told_rate(value) for value in (1164.99, 12.34, 7.6489, 0.1225, 0.0, -40.2, None)] == [
        "1,165\u00a0tokens/s", "12.3\u00a0tokens/s", "7.65\u00a0tokens/s", "0.12\u00a0tokens/s", "0\u00a0tokens/s",
        "−40.2\u00a0tokens/s", "–",
    ]  # fmt: skip
    assert [told_seconds(value) for value in (0.0214, 0.7609, 9.968, 68.16)] == [
        "21.4\u00a0ms", "761\u00a0ms", "9.97\u00a0s", "68.2\u00a0s"
    ]  # fmt: skip
