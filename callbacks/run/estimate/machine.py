"""The device that a run would use: what memory it has, and how fast it multiplies and reads."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from callbacks.run.estimate.settings import Settings

GIB = 2**30
PROBE_S = 0.5
CPU_WIDTH, GPU_WIDTH = 1024, 8192
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


class Machine(NamedTuple):
    """A device."""

    name: str
    cuda: bool
    here: bool
    """False: the trainer asks for a GPU and there is none."""
    devices: int
    memory: float | None
    """Bytes of one device; None: not known."""


def machine_of(trainer: dict[str, Any], settings: Settings) -> Machine:
    """The device that a trainer's config asks for."""
    given = None if settings.memory_gib is None else settings.memory_gib * GIB
    found = torch.cuda.is_available()
    cuda = {"cpu": False, "auto": found}.get(trainer["accelerator"], True)
    asked = trainer.get("devices", 1)
    if not cuda:
        devices = asked if isinstance(asked, int) and asked > 0 else 1
        # processes share the RAM
        return Machine("CPU", False, True, devices, given or _ram() / devices)
    if not found:
        return Machine("GPU, none here", True, False, asked if isinstance(asked, int) and asked > 0 else 1, given)
    count = torch.cuda.device_count()
    devices = len(asked) if isinstance(asked, list) else count if asked in ("auto", -1, "-1") else int(asked)
    memory = given or float(torch.cuda.get_device_properties(0).total_memory)
    return Machine(torch.cuda.get_device_name(0), True, True, devices, memory)


def _ram() -> float:
    """Of the machine, or what the control group leaves of it."""
    total = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        limit = Path(file)
        if limit.is_file() and (text := limit.read_text().strip()).isdigit():
            total = min(total, float(text))
    return total


def matmul_rate(machine: Machine, dtype: str, threads: int | None) -> float | None:
    """Operations a second of a square matrix product, measured for half a second; None: the device is not here."""
    if not machine.here:
        return None
    device, width = ("cuda", GPU_WIDTH) if machine.cuda else ("cpu", CPU_WIDTH)
    a, b = (torch.randn(width, width, device=device).to(DTYPES[dtype]) for _ in range(2))
    with torch.no_grad():
        seconds = _seconds(lambda: a @ b, threads)
    return 2.0 * width**3 / seconds


def read_rate(machine: Machine, threads: int | None) -> float | None:
    """Bytes a second of reading memory once, measured; None: the device is not here."""
    if not machine.here:
        return None
    x = torch.ones(2**28 if machine.cuda else 2**26, device="cuda" if machine.cuda else "cpu")
    vector = torch.ones(2**14, device=x.device)
    # a matrix times a vector, as in sampling
    return x.numel() * x.element_size() / _seconds(lambda: x.view(-1, 2**14) @ vector, threads)


def _seconds(work: Callable[[], Any], threads: int | None) -> float:
    """Of one call, the best of those that half a second has room for."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    work()
    wait()
    best, end = float("inf"), time.perf_counter() + PROBE_S
    while time.perf_counter() < end or best == float("inf"):
        start = time.perf_counter()
        work()
        wait()
        best = min(best, time.perf_counter() - start)
    torch.set_num_threads(before)
    return best
