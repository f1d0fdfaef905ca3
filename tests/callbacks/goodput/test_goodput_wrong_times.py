"""What cannot be a delivery timeline, or a setting, is refused in one line that says where."""

from __future__ import annotations

import math

import pytest
import torch

from callbacks.goodput.functional import smooth_goodput, user_idle_latency

nan, inf = math.nan, math.inf


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([0.1, 0.3, 0.2], r"token_times\[1, 2\] = 0.2: the times go backwards"),
        ([-0.1, 0.3, nan], r"token_times\[1, 0\] = -0.1: the time is negative"),
        ([0.1, nan, 0.3], r"token_times\[1, 1\] = nan: the time is NaN inside the request"),
        ([nan, nan, 0.3], r"token_times\[1, 0\] = nan: the time is NaN inside the request"),
        ([0.1, inf, nan], r"token_times\[1, 1\] = inf: the time is infinite"),
        ([0.1, inf, inf], r"token_times\[1, 1\] = inf: the time is infinite"),
        ([0.1, 0.2, inf], r"token_times\[1, 2\] = inf: the time is infinite"),
        ([-inf, 0.2, nan], r"token_times\[1, 0\] = -inf: the time is infinite"),
        ([15000.0, 15001.0, nan], r"token_times\[1, 0\] = 15000: .* cannot be seconds"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wrong_times(row, message, dtype):
    times = torch.tensor([[0.1, 0.2, 0.3], row, [nan, nan, nan]], dtype=dtype)
    with pytest.raises(ValueError, match=message) as caught:
        smooth_goodput(times, window_s=1.0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reading_speed": 0.0}, "reading_speed must be above 0"),
        ({"reading_speed": nan}, "reading_speed must be above 0"),
        ({"alpha": -1.0}, "alpha must be above 0"),
        ({"window_s": 0.0}, "window_s must be above 0"),
        ({"window_s": inf}, "window_s must be above 0"),
        ({"patience_s": 0.0}, "patience_s must be above 0"),
        ({"penalty": "square"}, "penalty must be one of"),
        ({"origin": "start"}, "origin must be"),
        ({"expected_tokens": torch.ones(3)}, r"expected_tokens must be \(1,\)"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        smooth_goodput(torch.tensor([[0.1]]), **{"window_s": 1.0, **settings})


@pytest.mark.parametrize("times", [torch.zeros(3), torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 2).half()])
def test_wrong_tensors(times):
    with pytest.raises(ValueError, match="token_times must be"):
        user_idle_latency(times)


def test_negative_nan_is_still_padding():
    """Arithmetic may leave NaN with its sign set; it is padding like any other."""
    times = torch.tensor([[0.1, -math.nan, math.nan]], dtype=torch.float64)
    assert user_idle_latency(times).tolist() == [0.0]
