"""The definitions once more, one request after the other in plain Python: what the vectorised code is held against."""

from __future__ import annotations

import math

import torch
from hypothesis import strategies as st


def idle(times, speed, origin="commit"):
    if not times:
        return None
    start = times[0] if origin == "first_token" else 0.0
    return max(0.0, max(t - start - i / speed for i, t in enumerate(times, start=1)))


def benefit(times, speed, alpha, penalty="linear_s", origin="commit", patience=10.0):
    waited = idle(times, speed, origin) or 0.0
    lost = {
        "linear_s": waited,
        "linear_tok": waited * speed,
        "fraction": len(times) * min(1.0, waited / patience),
    }[penalty]
    return len(times) - alpha * lost


def smooth_goodput(requests, window, speed=5.0, alpha=2.5, penalty="linear_s", origin="commit", patience=10.0):
    return sum(benefit(times, speed, alpha, penalty, origin, patience) for times in requests) / window


def player(times, speed):
    """How long a reader waits who takes 1/speed a token and stops when the next one is not there."""
    position = 0.0
    waited = 0.0
    for time in times:
        ready = position + 1 / speed  # has read up to here and could take the next token
        position = max(time, ready)
        waited += position - ready
    return waited


def andes_qoe(times, speed, ttft):
    if not times:
        return 0.0
    actual, ideal = [], []
    for i, time in enumerate(times):
        ideal.append(ttft + i / speed)
        actual.append(max(time, actual[-1] + 1 / speed) if i else max(time, ideal[0]))
    return 1 - (sum(actual) - sum(ideal)) / sum(actual)


def fluidity(times, first, following, periods=False):
    """Etalon's way of counting: slack carried along, gone after a miss."""
    met = total = 0
    slack = 0.0
    previous = 0.0
    for i, time in enumerate(times):
        allowed = (first if i == 0 else following) + slack
        gap = time - previous
        previous = time
        if gap <= allowed:
            slack = allowed - gap
            met += 1
            total += 1
        else:
            total += 1 + int((gap - allowed) // following) if periods else 1
            slack = 0.0
    return met, total


def pad(requests, dtype=torch.float64):
    width = max([1, *(len(times) for times in requests)])
    rows = [list(times) + [math.nan] * (width - len(times)) for times in requests]
    return torch.tensor(rows, dtype=dtype).reshape(len(requests), width)


#: Times on a grid of binary fractions: sums and differences are exact, so that equalities may be asked for to the bit.
grid_gaps = st.integers(min_value=0, max_value=64).map(lambda n: n / 16)
float_gaps = st.floats(min_value=0, max_value=5, allow_subnormal=False)


def streams(gaps=float_gaps, min_size=0, max_size=12):
    """One request: ascending times."""
    return st.lists(gaps, min_size=min_size, max_size=max_size).map(_cumulate)


def logs(gaps=float_gaps, min_size=1, max_size=8, min_tokens=0):
    """Several requests, some of which may have delivered nothing."""
    return st.lists(streams(gaps, min_tokens), min_size=min_size, max_size=max_size)


def _cumulate(gaps):
    times, now = [], 0.0
    for gap in gaps:
        now += gap
        times.append(now)
    return times


def squared_idle(idle_s, tokens):
    """A user's own penalty; at the top of a module, so that it pickles."""
    return idle_s**2


def example_log(n=60, seed=0):
    """(token times, submission times, failed, spread) of requests of which some delivered nothing."""
    generator = torch.Generator().manual_seed(seed)
    requests = []
    for row in range(n):
        gaps = torch.rand(row % 7 * 3, generator=generator, dtype=torch.float64) * (0.4 + row % 5)
        requests.append(gaps.cumsum(0).tolist())
    submits = torch.rand(n, generator=generator, dtype=torch.float64) * 30 + 1.7e9
    failed = torch.arange(n) % 11 == 3
    return pad(requests), submits, failed, torch.arange(n) % 4 == 1


def assert_same(a, b):
    a, b = ({"value": x} if isinstance(x, torch.Tensor) else x for x in (a, b))
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-9, atol=1e-9, equal_nan=True, msg=name)
