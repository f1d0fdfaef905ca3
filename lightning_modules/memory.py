"""How much memory a device has left."""

import os
from pathlib import Path

import torch

GROUP = Path("/sys/fs/cgroup")


def free_memory(device: torch.device) -> int:
    """Bytes that may still be taken.

    Of a GPU: what is free, and what PyTorch's allocator holds and does not use. Of a CPU: what Linux calls available,
    within what the control group leaves; elsewhere the free pages.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return int(min(_available(), _left_by_group()))


def _available() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def _left_by_group() -> float:
    """Of the control group's limit (version 2, or 1); file pages that it could let go count as left."""
    for limit, used, stats, cached in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
    ):
        try:
            most, taken = ((GROUP / name).read_text().strip() for name in (limit, used))
            files = dict(line.split() for line in (GROUP / stats).read_text().splitlines())
        except (OSError, ValueError):
            continue
        if most.isdigit():
            return int(most) - int(taken) + int(files.get(cached, 0))
    return float("inf")
