import threading

import pytest

from callbacks.judges.reply_cache import ReplyCache, content_key
from datamodules.wrong_input import WrongInput


def test_keys_keep_their_parts_apart():
    assert content_key("ab", "c") != content_key("a", "bc")
    assert content_key("m", {"a": 1, "b": 2}) == content_key("m", {"b": 2, "a": 1})


def test_two_jobs_and_their_threads_write_at_once(tmp_path):
    jobs = [ReplyCache(tmp_path / "judge.sqlite3") for _ in range(2)]

    def write(job, thread):
        for i in range(10):
            jobs[job].put(f"{job}-{thread}-{i}", "x")

    threads = [threading.Thread(target=write, args=(job, thread)) for job in range(2) for thread in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(jobs[1 - job].get(f"{job}-{t}-{i}") == "x" for job in range(2) for t in range(3) for i in range(10))


def test_a_broken_file_is_said_and_set_aside(tmp_path, caplog):
    path = tmp_path / "judge.sqlite3"
    path.write_bytes(b"no database at all" * 100)
    cache = ReplyCache(path)
    assert "set aside" in caplog.text
    assert (tmp_path / "judge.sqlite3.broken").exists()
    cache.put("k", "v")
    cache.close()
    assert ReplyCache(path).get("k") == "v"


def test_a_truncated_file_is_said_and_set_aside(tmp_path, caplog):
    path = tmp_path / "judge.sqlite3"
    cache = ReplyCache(path)
    for i in range(20):
        cache.put(content_key(i), "reply " * 500)
    cache.close()
    path.write_bytes(path.read_bytes()[:20_000])
    assert ReplyCache(path).get(content_key(1)) is None
    assert "set aside" in caplog.text


def test_a_folder_that_cannot_be_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WrongInput, match="cache_dir"):
        ReplyCache(tmp_path / "file" / "judge.sqlite3")
