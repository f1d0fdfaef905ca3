import logging
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from datamodules.digest import data_digest
from datamodules.score_cache import ScoreCache, Scorer, score_key, scorer_of
from datamodules.wrong_input import WrongInput

ROOT = Path(__file__).parents[2]
SCORER = Scorer("weights", "float32", 1000)
WRITER = """
import sys
from datamodules.score_cache import ScoreCache, Scorer
folder, name, batches = sys.argv[1], sys.argv[2], int(sys.argv[3])
cache = ScoreCache(folder, Scorer("weights", "float32", 1000))
print("open", flush=True)
sys.stdin.readline()
for i in range(batches):
    cache.write({f"{name}-{i}-{j}": -float(i) for j in range(8)})
    print(i, flush=True)
"""


def writer(folder, name: str, batches: int) -> subprocess.Popen:
    """Another job, which waits for a line before it writes."""
    job = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), name, str(batches)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert job.stdin is not None
    job.stdin.write("\n")
    return job


def fill(folder, count: int = 3000) -> dict[str, float]:
    """A cache on disk, of several pages."""
    scores = {score_key(np.arange(i, i + 5), 2): -i / 7 for i in range(count)}
    with closing(ScoreCache(folder, SCORER)) as cache:
        cache.write(scores)
    return scores


def said(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_key_is_the_ids_and_the_mask():
    ids = np.array([5, 6, 7, 8])
    key = score_key(ids, 2)
    assert score_key(ids.astype(np.int32), 2) == score_key(ids.astype(np.uint16), 2) == key
    others = [
        score_key(ids, 1),
        score_key(ids, 3),
        score_key(ids[:-1], 2),
        score_key(np.append(ids, 0), 2),
        score_key(ids[::-1], 2),
        score_key(np.array([5, 6, 7, 9]), 2),
        score_key(np.array([5, 6, 7, 8 + 2**32]), 2),
    ]
    assert len({key, *others}) == len(others) + 1


def test_a_scorer_is_weights_config_dtype_and_vocabulary_and_nothing_else(model_folder, tmp_path):
    first = scorer_of(str(model_folder()), "float32", 900)
    copied = shutil.copytree(model_folder(), tmp_path / "another name")
    (copied / "training_args.bin").write_text("learning_rate=1e-3")
    (copied / "model.safetensors").touch()
    assert scorer_of(str(copied), "float32", 900) == first
    others = [
        scorer_of(str(model_folder(seed=1)), "float32", 900),
        scorer_of(str(model_folder(rms_norm_eps=1e-3)), "float32", 900),
        scorer_of(str(copied), "bfloat16", 900),
        scorer_of(str(copied), "float32", None),
        scorer_of(str(copied), "float32", 901),
    ]
    files = {ScoreCache(tmp_path / "cache", scorer).path for scorer in (first, *others)}
    assert len(files) == len(others) + 1
    with pytest.raises(WrongInput):
        scorer_of(str(tmp_path / "nowhere"), "float32", None)


def test_what_is_written_is_read_exactly_by_whoever_opens_it(tmp_path):
    values = {"a": float(np.float32(-123.456)), "b": 0.0, "c": -1e-30, "d": -7.0, "f": -0.0}
    with closing(ScoreCache(tmp_path, SCORER)) as cache:
        assert cache.read(values) == {}
        cache.write(values)
        cache.write({"d": -8.0, "e": 1.0})
        assert len(cache) == 6
    again = ScoreCache(tmp_path, SCORER)
    assert again.read(["a", "b", "c", "d", "f", "nobody", "a"]) == values | {"d": -8.0}
    assert again.read([]) == {}
    assert ScoreCache(tmp_path, SCORER._replace(dtype="bfloat16")).read(values) == {}


def test_a_file_says_whose_scores_it_holds_however_often_it_is_opened(tmp_path):
    scorer = SCORER._replace(vocabulary=None)
    for _ in range(3):
        path = ScoreCache(tmp_path, scorer).path
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT model, dtype, vocabulary FROM scorer").fetchall() == [tuple(scorer)]


def test_more_keys_than_one_query_takes(tmp_path):
    scores = fill(tmp_path, 1700)
    assert ScoreCache(tmp_path, SCORER).read(scores) == scores


def test_a_batch_is_written_whole_or_not_at_all(tmp_path):
    cache = ScoreCache(tmp_path, SCORER)
    for value in (float("nan"), float("-inf")):
        with pytest.raises(ValueError, match="finite"):
            cache.write({"a": -1.0, "b": value})
    assert len(cache) == 0


def test_two_jobs_that_write_at_once_lose_nothing(tmp_path):
    jobs = [writer(tmp_path, name, 60) for name in ("a", "b")]
    outputs = [job.communicate(timeout=60)[0].split() for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0]
    assert [len(output) for output in outputs] == [61, 61]
    found = ScoreCache(tmp_path, SCORER).read(f"{n}-{i}-{j}" for n in "ab" for i in range(60) for j in range(8))
    assert len(found) == 2 * 60 * 8


@pytest.mark.parametrize("after", [1, 7])
def test_a_killed_job_loses_the_batch_it_was_at_and_no_other(tmp_path, after):
    with writer(tmp_path, "k", 10**6) as job:
        assert job.stdin is not None
        assert job.stdout is not None
        job.stdin.flush()
        seen = [job.stdout.readline().strip() for _ in range(after + 1)]
        time.sleep(0.01 * after)
        job.send_signal(signal.SIGKILL)
        seen += job.stdout.read().split()
    committed = int(seen[-1]) + 1
    assert committed >= after
    cache = ScoreCache(tmp_path, SCORER)
    known = cache.read(f"k-{i}-{j}" for i in range(committed) for j in range(8))
    assert len(known) == committed * 8
    assert all(known[f"k-{i}-{j}"] == -i for i in range(committed) for j in range(8))
    assert len(cache) in (committed * 8, (committed + 1) * 8)  # killed between its commit and its word of it
    cache.write({"later": -1.0})
    assert cache.read(["later"]) == {"later": -1.0}


@pytest.mark.parametrize("share", [0.001, 0.02, 0.3, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_said_set_aside_and_begun_anew(tmp_path, caplog, share):
    scores = fill(tmp_path)
    (path,) = tmp_path.glob("*.sqlite")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    cache = ScoreCache(tmp_path, SCORER)
    (aside,) = tmp_path.glob("*.damaged-*")  # found when it is opened, not in the middle of training
    assert cache.read(scores) == {}
    assert aside.read_bytes() == data[: int(len(data) * share)]
    (line,) = said(caplog)
    assert str(path) in line
    assert "damaged" in line
    assert aside.name in line
    cache.write(scores)
    assert ScoreCache(tmp_path, SCORER).read(scores) == scores


@pytest.mark.parametrize("garbage", [b"not a database at all", b"\0" * 5000, b"SQLite format 3\0" + b"\xff" * 8000])
def test_garbage_is_said_set_aside_and_begun_anew(tmp_path, caplog, garbage):
    path = tmp_path / f"{data_digest(SCORER)[:24]}.sqlite"
    path.write_bytes(garbage)
    cache = ScoreCache(tmp_path, SCORER)
    cache.write({"a": -1.0})
    assert ScoreCache(tmp_path, SCORER).read(["a"]) == {"a": -1.0}
    assert len(said(caplog)) == 1
    assert len(list(tmp_path.glob("*.damaged-*"))) == 1


def test_damage_that_comes_while_it_is_open_is_met_too(tmp_path, caplog):
    scores = fill(tmp_path)
    reader, idle = ScoreCache(tmp_path, SCORER), ScoreCache(tmp_path, SCORER)
    data = bytearray(reader.path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    data[27] ^= 1  # the count of changes: SQLite believes its own pages otherwise
    with reader.path.open("r+b") as file:
        file.write(data)
    assert reader.read(scores) == {}
    assert len(said(caplog)) == 1
    reader.write({"a": -1.0})
    idle.write({"b": -2.0})  # into the new file, and not into the one set aside
    assert ScoreCache(tmp_path, SCORER).read(["a", "b"]) == {"a": -1.0, "b": -2.0}
    assert len(list(tmp_path.glob("*.damaged-*"))) == 1


def test_who_has_a_file_open_that_another_job_sets_aside_goes_on_in_the_new_one(tmp_path):
    idle = ScoreCache(tmp_path, SCORER)
    idle.write({"a": -1.0})
    idle.path.rename(tmp_path / "aside")
    ScoreCache(tmp_path, SCORER).write({"b": -2.0})
    assert idle.read(["a", "b"]) == {"b": -2.0}
    idle.write({"c": -3.0})
    assert ScoreCache(tmp_path, SCORER).read("abc") == {"b": -2.0, "c": -3.0}


def test_damage_that_another_job_has_met_already_costs_the_new_file_nothing(tmp_path):
    late = ScoreCache(tmp_path, SCORER)
    late.path.rename(tmp_path / "aside")
    ScoreCache(tmp_path, SCORER).write({"a": -1.0})
    error = sqlite3.DatabaseError("what it met in the file that is aside now")
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    late._mend(error)
    assert late.read(["a"]) == {"a": -1.0}
    assert not list(tmp_path.glob("*.damaged-*"))


def test_of_several_that_find_the_damage_one_sets_it_aside(tmp_path):
    path = tmp_path / f"{data_digest(SCORER)[:24]}.sqlite"
    path.write_bytes(b"garbage" * 1000)
    jobs = [writer(tmp_path, name, 10) for name in ("a", "b", "c")]
    outputs = [job.communicate(timeout=60)[0].split() for job in jobs]
    assert [len(output) for output in outputs] == [11] * 3
    assert len(ScoreCache(tmp_path, SCORER)) == 3 * 10 * 8
    assert len(list(tmp_path.glob("*.damaged-*"))) == 1


@pytest.mark.parametrize("table", ["added", "scores"])
@pytest.mark.parametrize("wrong", [-1.25, None, "text", b"bytes"])
def test_a_damaged_row_is_absent_and_said(tmp_path, caplog, wrong, table):
    cache = ScoreCache(tmp_path, SCORER)
    cache.write({"a": -1.0, "b": -2.0, "c": -3.0})
    if table == "scores":
        assert len(cache) == 3  # puts them in order
    with closing(sqlite3.connect(cache.path)) as db, db:
        assert db.execute(f"UPDATE {table} SET value = ? WHERE key = 'b'", (wrong,)).rowcount == 1
    assert cache.read(["a", "b", "c"]) == {"a": -1.0, "c": -3.0}
    (line,) = said(caplog)
    assert "1 scores are damaged" in line
    cache.write({"b": -2.0})
    assert cache.read(["b"]) == {"b": -2.0}


def rows_of(cache, table):
    with closing(sqlite3.connect(cache.path)) as db:
        return [key for (key,) in db.execute(f"SELECT key FROM {table}")]


def test_rows_are_appended_and_whoever_reads_puts_them_in_order(tmp_path):
    cache, other = ScoreCache(tmp_path, SCORER), ScoreCache(tmp_path, SCORER)
    cache.write({"b": -1.0, "a": -2.0})
    other.write({"c": -3.0, "b": -4.0})
    assert rows_of(cache, "added") == ["b", "a", "c", "b"]
    assert rows_of(cache, "scores") == []
    assert other.read(["a", "b", "c"]) == {"a": -2.0, "b": -4.0, "c": -3.0}  # the last that was said holds
    assert rows_of(cache, "added") == []
    assert rows_of(cache, "scores") == ["a", "b", "c"]
    cache.write({"a": -5.0})
    assert cache.read(["a", "b"]) == {"a": -5.0, "b": -4.0}
    assert len(other) == 3


def test_an_append_changes_few_pages_however_large_the_table(tmp_path):
    """One by one in order, 200 random keys would change about as many pages of the 600."""
    cache = ScoreCache(tmp_path, SCORER)
    cache.write({score_key(np.arange(i, i + 5), 2): -1.0 for i in range(30_000)})
    assert len(cache) == 30_000
    before = cache.path.read_bytes()
    cache.write({score_key(np.arange(i, i + 6), 2): -1.0 for i in range(200)})
    after = cache.path.read_bytes()
    pages = range(0, max(len(before), len(after)), 4096)
    changed = sum(before[at : at + 4096] != after[at : at + 4096] for at in pages)
    assert changed < 30


def test_a_cache_of_before_is_read_and_added_to(tmp_path):
    cache = ScoreCache(tmp_path, SCORER)
    cache.write({"a": -1.0})
    assert len(cache) == 1
    with closing(sqlite3.connect(cache.path)) as db, db:
        db.execute("DROP TABLE added")  # which earlier versions did not have
    cache.close()
    again = ScoreCache(tmp_path, SCORER)
    again.write({"b": -2.0})
    assert again.read(["a", "b"]) == {"a": -1.0, "b": -2.0}


def test_a_row_without_a_key_is_no_obstacle(tmp_path):
    cache = ScoreCache(tmp_path, SCORER)
    cache.write({"a": -1.0, "b": -2.0})
    with closing(sqlite3.connect(cache.path)) as db, db:
        db.execute("UPDATE added SET key = NULL WHERE key = 'b'")
    assert cache.read(["a", "b"]) == {"a": -1.0}


def test_a_flipped_bit_of_the_file_is_never_a_wrong_score(tmp_path):
    value = -1234.5678
    cache = ScoreCache(tmp_path, SCORER)
    cache.write({"a": value})
    cache.close()
    data = cache.path.read_bytes()
    place = data.index(struct.pack(">d", value))
    for bit in range(64):
        flipped = bytearray(data)
        flipped[place + bit // 8] ^= 1 << bit % 8
        cache.path.write_bytes(flipped)
        with closing(ScoreCache(tmp_path, SCORER)) as opened:
            assert opened.read(["a"]) == {}


def refused(call, path) -> None:
    with pytest.raises(WrongInput, match="the score cache cannot be used") as error:
        call()
    line = str(error.value)
    assert str(path) in line
    assert "paths.cache_dir=" in line
    assert "\n" not in line


def test_a_folder_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    refused(lambda: ScoreCache(tmp_path / "file" / "cache", SCORER), tmp_path / "file")
    (tmp_path / "taken" / f"{data_digest(SCORER)[:24]}.sqlite").mkdir(parents=True)
    refused(lambda: ScoreCache(tmp_path / "taken", SCORER), tmp_path / "taken")


def test_a_full_disk_is_refused_and_leaves_what_was_there(tmp_path):
    cache = ScoreCache(tmp_path, SCORER)
    cache.write({"a": -1.0})
    pages = cache._connection.execute("PRAGMA page_count").fetchone()[0]
    cache._connection.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own "database or disk is full"
    refused(lambda: cache.write({f"much-{i}": -1.0 for i in range(5000)}), cache.path)
    assert len(cache) == 1
    assert ScoreCache(tmp_path, SCORER).read(["a"]) == {"a": -1.0}
    assert not list(tmp_path.glob("*.damaged-*"))


def test_a_disk_that_cannot_be_written_is_refused(tmp_path):
    cache = ScoreCache(tmp_path, SCORER)
    cache.write({"a": -1.0})
    cache._connection.execute("PRAGMA query_only = 1")
    refused(lambda: cache.write({"b": -1.0}), cache.path)
    assert not list(tmp_path.glob("*.damaged-*"))


def test_a_defect_of_ours_sets_no_good_file_aside(tmp_path):
    cache = ScoreCache(tmp_path, SCORER)
    cache.write({"a": -1.0})
    with pytest.raises(sqlite3.Error):
        cache.read([object()])  # type: ignore[list-item]
    assert ScoreCache(tmp_path, SCORER).read(["a"]) == {"a": -1.0}
    assert not list(tmp_path.glob("*.damaged-*"))
