"""Chunks to tokens, and JSON read in pieces."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.latency_logs import json_pieces
from datamodules.latency_logs.chunks import arrival_times, spread_over_chunks
from datamodules.latency_logs.json_pieces import JsonScanner
from datamodules.wrong_input import WrongInput

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(max_size=4), values, max_size=5), st.integers(1, 7), st.sampled_from([None, 1]))
def test_scanner_equals_json_load_whatever_it_reads_at_a_time(document, step, indent):
    json_pieces._READ, before = step, json_pieces._READ
    try:
        whole = json.dumps(document, indent=indent, ensure_ascii=False)
        scanner = JsonScanner(io.StringIO(whole + "\n" + whole), "here")
        for _ in range(2):
            result = {}
            for key in scanner.members():
                result[key] = list(scanner.items()) if scanner.peek() == "[" else scanner.value()
            assert result == document
        assert scanner.peek() == ""
    finally:
        json_pieces._READ = before


@pytest.mark.parametrize("text", ["[1, 2", "[1 2]", '{"a" 1}', '{"a": }', "{1: 2}", "[1,]", "[nul]"])
def test_broken_json_is_refused(text):
    scanner = JsonScanner(io.StringIO(text), "here.json")
    with pytest.raises(WrongInput, match=r"not valid JSON.*here\.json"):
        list(scanner.items()) if text.startswith("[") else [scanner.value() for _ in scanner.members()]


def test_nan_and_infinity_pass():
    first, second, third = JsonScanner(io.StringIO("[NaN, Infinity, -Infinity]"), "here").items()
    assert math.isnan(first)
    assert (second, third) == (math.inf, -math.inf)


@given(st.integers(1, 30), st.integers(0, 90))
def test_tokens_are_spread_evenly(n_chunks, n_tokens):
    chunks = np.cumsum(np.ones(n_chunks))
    tokens = spread_over_chunks(chunks, n_tokens)
    assert len(tokens) == n_tokens
    assert (np.diff(tokens) >= 0).all()
    sizes = np.array([(tokens == chunk).sum() for chunk in chunks])
    if n_tokens >= n_chunks:
        assert sizes.max() - sizes.min() <= 1
    else:
        assert sizes.max() <= 1
    if n_tokens:
        assert tokens[0] == chunks[0]
    if n_tokens > 1:
        assert tokens[-1] == chunks[-1]


def test_no_chunks_no_tokens():
    assert len(spread_over_chunks(np.zeros(0), 5)) == 0
    assert arrival_times(0.5, []).tolist() == [0.5]
