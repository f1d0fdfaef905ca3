import pytest
import torch

from datamodules.latency_logs import open_logs, to_padded
from datamodules.latency_logs.data_module import LatencyLogsDataModule
from datamodules.latency_logs.naming import log_files
from datamodules.wrong_input import WrongInput
from tests.datamodules.latency_logs import log_files as written


def pieces(logs, **settings):
    data = LatencyLogsDataModule(logs, **settings)
    data.setup("test")
    return list(data.test_dataloader())


def test_a_batch_is_a_piece_of_one_log_and_the_last_knows_the_whole_tally(tmp_path):
    files = {"a": str(written.vllm(tmp_path / "a.json")), "b": str(written.aiperf(tmp_path / "b.jsonl"))}
    found = pieces(files, max_cells=4)
    assert [piece.name for piece in found] == sorted(piece.name for piece in found)
    for name, path in files.items():
        (log,) = open_logs(path)
        whole = to_padded(list(log.requests()))
        mine = [piece for piece in found if piece.name == name]
        assert len(mine) > 1
        assert mine[-1].tally == log.tally
        assert {piece.window_s for piece in mine} == {log.window_s}
        assert {piece.tool for piece in mine} == {log.tool}
        assert sum(piece.requests.token_times.nansum() for piece in mine) == whole.token_times.nansum()
        assert torch.equal(torch.cat([piece.requests.failed for piece in mine]), whole.failed)
        assert len([one for piece in mine for one in piece.request_ids]) == len(whole.failed)
    assert next(piece for piece in reversed(found) if piece.name == "b").tally.skipped == 1


def test_a_window_that_the_user_knows_goes_before_the_logs_own(tmp_path):
    (piece,) = pieces({"a": str(written.vllm(tmp_path / "a.json"))}, window_s=8.0)
    assert piece.window_s == 8.0


def test_runs_of_one_file_are_told_apart_also_from_other_files(tmp_path):
    files = {
        "run": str(written.sglang(tmp_path / "run.jsonl", runs=2)),
        "run.2": str(written.vllm(tmp_path / "x.json")),
    }
    assert [piece.name for piece in pieces(files)] == ["run.1", "run.2_", "run.2"]


def test_a_refused_file_is_refused_before_any_is_read(tmp_path):
    files = {"a": str(written.vllm(tmp_path / "a.json")), "b": str(written.llmperf(tmp_path / "b.json"))}
    with pytest.raises(WrongInput, match="LLMPerf log has no time of each token"):
        LatencyLogsDataModule(files).setup("test")


@pytest.mark.parametrize(
    ("content", "said"), [(None, "no such file"), ("", "empty"), ("a,b\n1,2\n", "no tool that is known")]
)
def test_what_is_no_log_is_refused(tmp_path, content, said):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(WrongInput, match=said):
        LatencyLogsDataModule({"x": str(path)}).setup("test")


def test_files_are_named_as_shortly_as_tells_them_apart(tmp_path):
    places = ["one.json", "a/run.json", "b/run.json", "b/run.jsonl", "c/d/run.json"]
    for place in places:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    named = log_files(f"{tmp_path}/**/*.json*")
    assert {name: path.removeprefix(f"{tmp_path}/") for name, path in named.items()} == {
        "one": "one.json",
        "run.jsonl": "b/run.jsonl",
        "a-run.json": "a/run.json",
        "b-run.json": "b/run.json",
        "d-run.json": "c/d/run.json",
    }


def test_files_come_by_the_size_of_their_numbers(tmp_path):
    for rate in ("10", "2", "0.5", "2.5"):
        (tmp_path / f"rate-{rate}.jsonl").touch()
    assert list(log_files(f"{tmp_path}/*.jsonl")) == ["rate-0.5", "rate-2", "rate-2.5", "rate-10"]


def test_a_file_meant_twice_is_one_log_and_brackets_may_be_part_of_a_name(tmp_path):
    path = tmp_path / "run[1].json"
    path.touch()
    assert log_files([str(path), f"{tmp_path}/*.json"]) == {"run[1]": str(path)}


def test_what_matches_nothing_comes_back_whole(tmp_path):
    assert log_files([f"{tmp_path}/*.json"]) == {"data": f"{tmp_path}/*.json"}
