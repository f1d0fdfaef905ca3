import os
import resource
from array import array

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.disk_rows import Chosen, DiskRows

ROWS = st.lists(st.tuples(st.text(), st.lists(st.integers())), max_size=20)
PLACES = st.integers(-25, 25)


@given(ROWS, PLACES, st.slices(20))
def test_it_is_the_list_that_was_given(rows, place, some):
    kept = DiskRows(rows)
    assert len(kept) == len(rows)
    assert list(kept) == rows
    assert list(kept[some]) == rows[some]
    assert list(kept[some][::-1]) == rows[some][::-1]
    if -len(rows) <= place < len(rows):
        assert kept[place] == rows[place]
    else:
        with pytest.raises(IndexError):
            kept[place]


@given(st.lists(st.integers(0, 9)), PLACES)
def test_chosen_rows_are_read_in_their_own_order(places, place):
    rows = [f"row {i}" for i in range(10)]
    expected = [rows[i] for i in places]
    for chosen in (Chosen(rows, places), Chosen(DiskRows(rows), np.array(places, dtype=np.int64))):
        assert list(chosen) == expected
        assert list(chosen[1:4]) == expected[1:4]
        assert bool(chosen) == bool(expected)
        if -len(places) <= place < len(places):
            assert chosen[place] == expected[place]
        else:
            with pytest.raises(IndexError):
                chosen[place]


def test_nothing_lies_in_the_folder_and_a_folder_is_made(tmp_path):
    rows = DiskRows([1, 2], tmp_path / "new" / "one")
    assert list((tmp_path / "new" / "one").iterdir()) == []
    assert list(rows) == [1, 2]


def test_rows_that_are_not_asked_for_take_eight_bytes_each(tmp_path):
    count, before = 2000, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows = DiskRows((bytes(100_000) for _ in range(count)), tmp_path)
    assert sum(len(row) for row in rows) == count * 100_000
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown < count * 100_000 / 10


def test_forked_processes_read_at_the_same_time(tmp_path):
    rows = DiskRows([array("q", [i] * 1000) for i in range(200)], tmp_path)
    before = os.lseek(rows._file.fileno(), 0, os.SEEK_CUR)
    if (child := os.fork()) == 0:
        os._exit(0 if all(list(row) == [i] * 1000 for i, row in enumerate(rows)) else 1)
    assert all(list(row) == [i] * 1000 for i, row in enumerate(rows))
    assert os.waitpid(child, 0)[1] == 0
    assert os.lseek(rows._file.fileno(), 0, os.SEEK_CUR) == before  # the one offset that they share is left alone
