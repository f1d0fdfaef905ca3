"""The load that settings ask for, and what cannot be asked for: said before anything is served, or trained."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from datamodules.wrong_input import WrongInput


class OfferedRates(NamedTuple):
    """How fast requests come, in one of three ways of saying it."""

    kind: str
    """``loads``, ``rates`` or ``time_scales``; see ``WorkloadDataModule``."""
    values: list[float]


def offered_rates(
    loads: Sequence[float] | None, rates: Sequence[float] | None, time_scales: Sequence[float] | None, trace: object
) -> OfferedRates:
    """The one of the three that is given.

    Args:
        loads: See ``WorkloadDataModule``.
        rates: The same.
        time_scales: The same.
        trace: None: there is none, and so no time to scale.

    Raises:
        WrongInput: None or several are given, or values that are no rates.
    """
    given = {"loads": loads, "rates": rates, "time_scales": time_scales}
    named = {name: values for name, values in given.items() if values is not None}
    if len(named) != 1:
        mend = "give one, null for the others"
        raise WrongInput(f"{len(named)} of loads, rates and time_scales are given", "config", mend)
    ((kind, wanted),) = named.items()
    values = [float(value) for value in wanted]
    if not values or not all(0 < value < math.inf for value in values):
        raise WrongInput(f"{kind} are {values}", kind, "give numbers above 0")
    if kind == "time_scales" and trace is None:
        raise WrongInput("time_scales without a trace", "time_scales", "give trace=FILE, or loads or rates")
    return OfferedRates(kind, values)


def check_times(seeds: Sequence[int], duration_s: float, warmup_s: float) -> None:
    """Refuse arrivals that measure nothing.

    Raises:
        WrongInput: No seed, no time to measure in, or a negative time before it.
    """
    if not seeds or not 0 < duration_s < math.inf or not 0 <= warmup_s < math.inf:
        what = f"seeds {list(seeds)}, duration_s {duration_s}, warmup_s {warmup_s}"
        raise WrongInput(what, "config", "a seed or more, duration_s above 0, warmup_s of 0 or more")


def check_load(
    *,
    models: Sequence[str],
    seeds: Sequence[int],
    duration_s: float,
    warmup_s: float,
    loads: Sequence[float] | None,
    rates: Sequence[float] | None,
    time_scales: Sequence[float] | None,
    trace: str | None,
    relative_to: str | None,
) -> None:
    """Refuse what the stage that serves would refuse, as far as settings tell; its module has the arguments.

    Raises:
        WrongInput: As ``offered_rates`` and ``check_times``; or a trace that is not there, or loads relative to a model
            that is not served.
    """
    kind, _ = offered_rates(loads, rates, time_scales, trace)
    check_times(seeds, duration_s, warmup_s)
    if trace is not None and not Path(trace).is_file():
        raise WrongInput("no such file", trace, "check trace=")
    if kind == "loads" and relative_to is not None and relative_to not in models:
        raise WrongInput(f"no capacity of {relative_to}", "relative_to", f"name one of {', '.join(models)}")
