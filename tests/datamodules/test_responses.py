import json
import subprocess
import sys
from pathlib import Path

import pytest

from datamodules.responses import ResponseLog, find_log, replace_file, write_jsonl
from datamodules.wrong_input import WrongInput

ROOT = Path(__file__).parents[2]
APPEND = """
import sys
from datamodules.responses import ResponseLog
log = ResponseLog(sys.argv[1])
for i in range(40):
    log.append([{"id": f"{sys.argv[2]}-{i}-{j}", "response": "é" * 3000} for j in range(3)])
"""


def test_what_is_appended_is_read_in_order(tmp_path):
    log = ResponseLog(tmp_path / "deep" / "er" / "chosen.jsonl")
    assert log.read() == {}
    log.append([{"id": "b", "response": "Ada 😀\n"}, {"id": "a", "response": ""}])
    log.append([{"id": "c", "response": "x"}])
    assert list(log.read()) == ["b", "a", "c"]
    assert log.read()["b"]["response"] == "Ada 😀\n"


@pytest.mark.parametrize("cut", [1, 5, 22, 23, 26])
def test_a_line_cut_by_a_kill_is_passed_over_and_does_not_spoil_the_next(tmp_path, cut):
    log = ResponseLog(tmp_path / "chosen.jsonl")
    log.append([{"id": "a", "response": "Ada"}])
    whole = log.path.read_bytes()
    half = json.dumps({"id": "b", "response": "Zoé"}, ensure_ascii=False).encode()
    log.path.write_bytes(whole + half[:cut])
    assert list(log.read()) == ["a"]
    log.append([{"id": "b", "response": "again"}, {"id": "c", "response": "x"}])
    assert {key: row["response"] for key, row in log.read().items()} == {"a": "Ada", "b": "again", "c": "x"}


def test_a_response_sampled_again_keeps_its_place(tmp_path):
    log = ResponseLog(tmp_path / "chosen.jsonl")
    log.append([{"id": "a", "response": "1"}, {"id": "b", "response": "2"}])
    log.append([{"id": "a", "response": "3"}])
    assert [(key, row["response"]) for key, row in log.read().items()] == [("a", "3"), ("b", "2")]


def test_lines_that_are_no_responses_are_passed_over(tmp_path):
    log = ResponseLog(tmp_path / "chosen.jsonl")
    log.path.write_bytes(b'null\n7\n[]\n{"response": "x"}\n\xff\xfe\n\n{"id": "a"}\n')
    assert log.read() == {"a": {"id": "a"}}


def test_two_processes_append_to_one_log(tmp_path):
    path = tmp_path / "chosen.jsonl"
    jobs = [subprocess.Popen([sys.executable, "-c", APPEND, str(path), name], cwd=ROOT) for name in ("a", "b")]
    assert [job.wait(60) for job in jobs] == [0, 0]
    assert len(ResponseLog(path).read()) == 240


def test_the_first_folder_that_has_a_log_is_taken(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    ResponseLog(two / "teacher.jsonl").append([{"id": "2"}])
    assert list(find_log([str(one), str(two)], "teacher").read()) == ["2"]
    ResponseLog(one / "teacher.jsonl").append([{"id": "1"}])
    assert list(find_log([str(one), str(two)], "teacher").read()) == ["1"]
    assert list(find_log(str(two), "teacher").read()) == ["2"]
    with pytest.raises(WrongInput, match="no answers of student"):
        find_log([str(one), str(two)], "student")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "new" / "rows.jsonl"
    write_jsonl(path, [{"a": "é"}, {"a": 2}])
    assert path.read_text(encoding="utf-8") == '{"a": "é"}\n{"a": 2}\n'
    with pytest.raises(UnicodeEncodeError):
        replace_file(path, "half \ud83d")  # fails while it writes
    assert path.read_text(encoding="utf-8") == '{"a": "é"}\n{"a": 2}\n'
    assert [p.name for p in path.parent.iterdir()] == ["rows.jsonl"]
