"""Rows of like length go through a model together: padding costs a processor as much as text does."""

from collections.abc import Sequence

import torch

PASS_TOKENS = {"cpu": 128}
"""What a further pass through a model costs, in tokens of one, by kind of device: on a CPU calls are cheap."""
MANY_TOKENS = 16384
"""The same of other devices, which compute rows side by side and wait for calls."""


def pass_tokens(device: torch.device) -> int:
    """What a further pass costs on the device, for ``groups_of_like_length``."""
    return PASS_TOKENS.get(device.type, MANY_TOKENS)


def groups_of_like_length(lengths: Sequence[int], pass_cost: int) -> list[list[int]]:
    """Rows in groups such that the fewest tokens are computed, padding and passes included.

    The groups have the least Σ (rows · longest + ``pass_cost``) of all: in order of length each group is a run of rows,
    and the best ways to cut off the last one are built on the best ways to group the rows before it.

    Args:
        lengths: Of N rows, in tokens.
        pass_cost: Of a group, in tokens.

    Returns:
        Groups of row numbers, each row in one; the shortest rows' first.
    """
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    best: list[tuple[int, int]] = [(0, 0)]  # (cost, first row of the last group) of the first n rows
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        best.append(min((best[start][0] + (end - start) * longest + pass_cost, start) for start in range(end)))
    groups, end = [], len(order)
    while end:
        start = best[end][1]
        groups.append(sorted(order[start:end]))
        end = start
    return groups[::-1]
