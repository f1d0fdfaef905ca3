"""A plan as a table, and as ``plan.json``."""

import json
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from callbacks.run.estimate.run import Plan, StagePlan, as_json
from datamodules.responses import replace_file

WIDTH = 150
UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def write_plan(folder: Path, plan: Plan) -> None:
    """Write ``plan.json``: bytes, operations, tokens, hours."""
    replace_file(folder / "plan.json", json.dumps(as_json(plan), indent=1) + "\n")


def print_plan(plan: Plan) -> None:
    """A row a stage, then a line for each stage that does not fit, and what was assumed."""
    console = Console(width=None if Console().is_terminal else WIDTH)
    heads = ("parameters", "tokens", "FLOPs", "peak\nmemory", "with / without\ncheckpointing", "disk", "hours", "fits")
    table = Table(Column("stage", overflow="fold"), *heads)
    for stage in plan.stages:
        table.add_row(*_cells(stage))
    table.caption = _caption(plan)
    console.print(table)
    for stage in plan.stages:
        if stage.fits is False:
            assert plan.machine.memory is not None
            room = _bytes(plan.machine.memory)
            print(f"{stage.name} will not fit: {_bytes(stage.peak)} of {room} at {stage.worst}: {stage.mend}")
    for stage in plan.stages:
        if stage.host:
            print(f"{stage.name} puts {_bytes(stage.host)} of activations a device into the host's memory")
    for stage in plan.stages:
        if stage.assumed:
            print(f"{stage.name} assumes {'; '.join(stage.assumed)}")
    if plan.others:
        print(f"not planned: {', '.join(plan.others)}")


def _cells(stage: StagePlan) -> list[str]:
    both = "–"
    if stage.peak_other is not None:
        two = (stage.peak, stage.peak_other) if stage.checkpointing else (stage.peak_other, stage.peak)
        both = " / ".join(_bytes(size) for size in two)
    fits = {True: "yes", False: "no", None: "?"}[stage.fits]
    return [
        stage.name,
        "\n".join(f"{name} {_count(number)}" for name, number in stage.parameters.items()),
        _count(stage.cost.tokens),
        _count(stage.cost.flops),
        _bytes(stage.peak),
        both,
        _bytes(stage.disk),
        "–" if stage.hours is None else f"{stage.hours:.3g}",
        fits,
    ]


def _caption(plan: Plan) -> str:
    machine, settings = plan.machine, plan.settings
    memory = "memory not known (plan_memory_gib=)" if machine.memory is None else f"{_bytes(machine.memory)} each"
    rate = "rate not known (plan_tflops=)"
    if plan.rates.flops is not None:
        how = "given" if settings.tflops else "measured"
        rate = f"{plan.rates.flops / 1e12:.3g} TFLOP/s {how}, of which {settings.utilisation:.0%} are reached"
    total = sum(stage.hours or 0.0 for stage in plan.stages)
    said = "" if plan.rates.flops is None else f"; {total:.3g} hours in all"
    return f"{machine.devices} × {machine.name}, {memory}; {rate}{said}"


def _count(number: float) -> str:
    """Three digits and a letter; beyond 10¹⁵ in powers of ten."""
    if number >= 1e15:
        return f"{number:.2e}"
    for size, letter in UNITS:
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.3g}"


def _bytes(number: float) -> str:
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"
