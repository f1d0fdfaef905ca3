"""Token counts against a loop over batches as the datamodules make them."""

from hypothesis import given
from hypothesis import strategies as st

from callbacks.run.estimate.tokens import Sequences, padded

ROWS = st.lists(
    st.builds(Sequences, st.integers(1, 40), st.tuples(st.integers(1, 40), st.integers(1, 40))), min_size=1, max_size=40
)


@given(ROWS, st.integers(1, 9))
def test_all_rows_by_length(rows, batch_size):
    read = padded(rows, len(rows), batch_size, by_length=True)
    lengths = sorted((row.longest for row in rows), reverse=True)
    size = min(batch_size, len(rows))
    expected = sum(2 * len(lengths[i : i + size]) * lengths[i] for i in range(0, len(lengths), size))
    assert read.tokens == expected
    assert read.filled == sum(2 * row.prompt + sum(row.responses) for row in rows)
    assert read.predicted == sum(sum(row.responses) for row in rows)
    assert read.largest.rows == 2 * size
    assert read.largest.length == lengths[0]


@given(ROWS, st.integers(1, 9), st.integers(1, 5))
def test_padding_adds_and_more_rows_scale(rows, batch_size, times):
    once, often = padded(rows, len(rows), batch_size), padded(rows, times * len(rows), min(batch_size, len(rows)))
    assert once.tokens >= once.filled
    assert abs(often.tokens - times * once.tokens) < 1e-6 * often.tokens
    assert once.tokens <= 2 * len(rows) * once.largest.length


def test_one_row_a_batch_has_padding_only_between_the_two_of_a_pair():
    read = padded([Sequences(5, (3, 7)), Sequences(2, (4, 4))], 2, 1)
    assert read.tokens == 2 * 12 + 2 * 6
    assert read.scores == 2 * 144 + 2 * 36
