"""When requests arrive: by chance at a mean rate, or as they once did."""

import numpy as np
from numpy.typing import NDArray

from datamodules.workload.trace import Trace


def poisson_arrivals(rate_rps: float, duration_s: float, seed: int) -> NDArray[np.float64]:
    """Arrivals of a Poisson process: independent of each other, at a constant mean rate.

    Args:
        rate_rps: Mean arrivals a second.
        duration_s: How long, in seconds.
        seed: The same seed gives the same arrivals; at another rate the same pattern, stretched.

    Returns:
        (n,) seconds, ascending, below `duration_s`; n is Poisson distributed with mean ``rate_rps * duration_s``.
    """
    rng = np.random.default_rng(seed)
    mean = rate_rps * duration_s
    gaps = rng.exponential(size=int(mean + 10 * mean**0.5 + 20))  # ten standard deviations more than are expected
    times = np.cumsum(gaps) / rate_rps
    return times[times < duration_s]


def replayed_arrivals(trace: Trace, time_scale: float, duration_s: float) -> NDArray[np.float64]:
    """The first arrivals of a trace, faster or slower than they were.

    Args:
        trace: The arrivals.
        time_scale: By what their times are multiplied: 0.1 is ten times as fast.
        duration_s: How long, in seconds after scaling.

    Returns:
        (n,) seconds, ascending, below `duration_s`; the whole trace if it is shorter.
    """
    times = trace.arrival_s * time_scale
    return times[times < duration_s]
