"""The page of a load test, and the frontier on the page of a distillation."""

import json

import pytest

from callbacks.report.load_test import write_load_report
from callbacks.report.student_numbers import StudentNumbers
from callbacks.report.talk_and_stream import talk_and_stream
from callbacks.run.outcome import print_table

SETTINGS = {
    "reading_speed_tps": 5.0,
    "alpha": 2.5,
    "penalty": "linear_s",
    "origin": "commit",
    "ttft_s": 1,
    "tbt_s": 0.2,
}


def spread(mean):
    return {"mean": mean, "low": mean - 1, "high": mean + 1}


def curve(model="tiny", scheduler="fifo", worth=(10.0, 20.0, 5.0), failed=0.0):
    points = [
        {
            "name": f"load{n}",
            "load": float(n),
            "rate_rps": 4.0 * n,
            "rps": 4.1 * n,
            "time_scale": None,
            "figures": {
                "smooth_goodput_tps": spread(value),
                "token_throughput_tps": spread(8.0 * n),
                "idle_p99_s": spread(0.5 * n),
                "requests": spread(12.0),
                "requests_failed": {"mean": failed, "low": failed, "high": failed},
            },
            "by_alpha": {"1": value + n, "2.5": value, "5": value - 4 * n},
            "by_seed": {"0": value},
        }
        for n, value in enumerate(worth, start=1)
    ]
    peaks = {a: max(range(len(points)), key=lambda i, a=a: points[i]["by_alpha"][a]) for a in ("1", "2.5", "5")}
    return {"model": model, "scheduler": scheduler, "alpha": "2.5", "points": points, "peaks": peaks}


@pytest.fixture
def page_of(tmp_path):
    def write(*curves):
        (tmp_path / "score_load").mkdir(exist_ok=True)
        (tmp_path / "score_load" / "curves.json").write_text(json.dumps({"settings": SETTINGS, "curves": curves}))
        return write_load_report(tmp_path, {}, "seed: 0").read_text()

    return write


def test_the_page_says_where_the_peak_is_and_what_is_lost_behind_it(page_of):
    page = page_of(curve(), curve(scheduler="prefill_first", worth=(10.0, 16.0, 2.0)))
    assert "fifo serves its readers best at 8.20 requests/s, with 20.0\xa0tokens/s of smooth goodput" in page
    assert "at 12.3 requests/s, 75\xa0% of that is lost to waiting" in page
    assert page.count("<svg") == 1 + 2
    assert "prefill_first is worth most at 8.20 requests/s: 16.0\xa0tokens/s" in page
    assert ">failed<" not in page
    assert ">failed<" in page_of(curve(failed=2.0))


def test_the_lead_does_not_divide_by_what_is_worth_nothing(page_of):
    assert "all of that is lost to waiting" in page_of(curve(worth=(10.0, 20.0, -3.0)))
    assert "no rate was worth more than nothing" in page_of(curve(worth=(-1.0, -2.0, -3.0)))


def test_a_peak_at_the_end_is_no_peak(page_of):
    page = page_of(curve(worth=(1.0, 2.0, 3.0)))
    assert "No higher rate was tried" in page
    assert "the highest rate that was tried." in page


@pytest.mark.parametrize("content", [None, "{", json.dumps({"settings": {}, "curves": []})])
def test_without_curves_there_is_still_a_page(tmp_path, content):
    if content is not None:
        (tmp_path / "score_load").mkdir()
        (tmp_path / "score_load" / "curves.json").write_text(content)
    assert "holds no load test" in write_load_report(tmp_path, {}, "").read_text()


def test_odd_data_do_not_end_the_run(page_of):
    odd = curve()
    del odd["points"][1]["by_alpha"]
    assert "could not be drawn: KeyError" in page_of(odd)


METRICS = {
    "teacher/accuracy": 0.9,
    "teacher/peak_smooth_goodput_tps": 20.0,
    "student/dadpo/win_rate": 0.3,
    "student/dadpo/tie_rate": 0.3,
    "student/dadpo/lose_rate": 0.4,
    "student/dadpo/preference_rate": -0.1,
    "student/dadpo/preference_rate_ci_low": -0.2,
    "student/dadpo/preference_rate_ci_high": 0.0,
    "student/dadpo/peak_smooth_goodput_tps": 36.0,
    "student/dadpo/peak_goodput_ratio": 1.8,
    "student/dadpo/peak_goodput_ratio_low": 1.7,
    "student/dadpo/peak_goodput_ratio_high": 1.9,
}


def test_the_frontier_has_both_numbers():
    load = {"settings": SETTINGS, "curves": [curve("teacher"), curve("dadpo", worth=(10.0, 30.0, 36.0))]}
    section = talk_and_stream(StudentNumbers(METRICS), load)
    assert "daDPO wins 30\xa0% of the prompts against its teacher and serves 1.80 times" in section.text
    assert [row[0] for row in section.tables[0].rows] == ["teacher", "daDPO"]
    assert section.tables[0].rows[1][3].startswith("36.0")
    assert len(section.figures) == 2
    assert talk_and_stream(StudentNumbers(METRICS), {}) is None


def test_the_run_ends_with_a_sentence(capsys):
    print_table(METRICS)
    told = capsys.readouterr().out
    assert "peak smooth" in told
    assert "wins 30 % and loses 40 % against its teacher, and serves 1.80 times" in " ".join(told.split())
    print_table({key: value for key, value in METRICS.items() if "ratio" not in key})
    assert "serves" not in capsys.readouterr().out
