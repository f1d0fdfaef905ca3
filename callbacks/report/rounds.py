"""Curves of a training in rounds, put one behind the other."""

import itertools
from collections.abc import Iterable, Mapping

from callbacks.report.run_files import Curve


def in_a_row(curves: Mapping[str, Mapping[str, Curve]], known: Iterable[str]) -> dict[str, Mapping[str, Curve]]:
    """The curves with those of ``STAGE_1``, ``STAGE_2``, … before those of ``STAGE``, which counts on from them.

    Args:
        curves: Stage → name → its curve.
        known: Keys of the run's metrics, ``STAGE/…``: folders that another run has left are no rounds of this one.

    Returns:
        Stage → name → its curve, without the rounds as stages of their own.
    """
    ran = {key.partition("/")[0] for key in known}
    found = dict(curves)
    for stage in curves:
        names = itertools.takewhile(lambda name: name in ran and name in curves, _rounds_of(stage))
        if rounds := list(names):
            found[stage] = _joined([curves[name] for name in (*rounds, stage)])
            for name in rounds:
                del found[name]
    return found


def _rounds_of(stage: str) -> Iterable[str]:
    return (f"{stage}_{number}" for number in itertools.count(1))


def _joined(parts: list[Mapping[str, Curve]]) -> dict[str, Curve]:
    joined: dict[str, Curve] = {}
    before = 0.0
    for part in parts:
        for name, (steps, values) in part.items():
            earlier = joined.get(name, ([], []))
            joined[name] = (earlier[0] + [before + step for step in steps], earlier[1] + values)
        before += max((step for steps, _ in part.values() for step in steps), default=0.0)
    return joined
