"""The plan of a run: what each stage would take, without taking it."""

import os
from dataclasses import asdict
from typing import Any, NamedTuple

import hydra
from omegaconf import DictConfig, OmegaConf

from callbacks.run.estimate.fitting import GIB, SLACK, mend, peak_bytes
from callbacks.run.estimate.machine import Machine, machine_of, matmul_rate, read_rate
from callbacks.run.estimate.moments import Moments
from callbacks.run.estimate.reading import Parts, Reader
from callbacks.run.estimate.settings import Settings
from callbacks.run.estimate.stages import work_of
from callbacks.run.estimate.training import activations_of
from callbacks.run.estimate.training_work import Planned
from callbacks.run.estimate.work import Cost, Work, cost_of, largest_batch, moments_of
from datamodules.wrong_input import WrongInput

TEXT_BYTES = 5
"""Of a sampled token on disk, as UTF-8."""
FIXED = "MALLOC_MMAP_THRESHOLD_"
"""With it glibc gives large tensors back as they are freed."""
SCORE_BYTES = 120
"""Of a score in its SQLite file: key, value, checksum, page."""


class Rates(NamedTuple):
    """What a device does a second; None: not known."""

    flops: float | None
    bytes_read: float | None


class StagePlan(NamedTuple):
    """What a stage would take, one device where memory is meant, all of them where hours are."""

    name: str
    parameters: dict[str, int]
    cost: Cost
    moments: Moments
    """Bytes by moment and by what holds them, without the allocator's holes and the process."""
    worst: str
    """The moment of the peak."""
    peak: float
    peak_other: float | None
    """With gradient checkpointing where the stage has none, without where it has; None: it trains nothing."""
    checkpointing: bool
    host: float
    """Bytes of activations that wait in the host's memory."""
    disk: float
    hours: float | None
    fits: bool | None
    """None: the device's memory is not known."""
    mend: str
    assumed: tuple[str, ...]


class Plan(NamedTuple):
    """All stages on one machine."""

    machine: Machine
    rates: Rates
    settings: Settings
    stages: list[StagePlan]
    others: list[str]
    """Stages that are not planned: their time is not a model's work."""


def plan_of(config: DictConfig, settings: Settings | None = None, rates: Rates | None = None) -> Plan:
    """Plan the stages of a composed config. No weights are read, nothing is trained or written.

    Args:
        config: As ``conf/train.yaml`` composes it.
        settings: Default: the config's ``estimate``.
        rates: Default: measured on the device, or set.

    Raises:
        WrongInput: No stage works with a model, or what the stages need is not there.
    """
    parts: Any = OmegaConf.to_container(config.estimate, resolve=True)
    asked = Parts(**{name: hydra.utils.instantiate(parts.pop(name)) for name in Parts._fields})
    settings = settings or Settings(**parts)
    reader = Reader(config, settings, asked)
    trainer = reader.stage(config.stages[0])["trainer"]
    machine = machine_of(trainer, settings)
    found = {name: work_of(reader, name, machine.cuda, machine.devices) for name in config.stages}
    works = {name: planned for name, planned in found.items() if planned is not None}
    if not works:
        raise WrongInput(
            "there is nothing to plan: no stage of this experiment trains, scores or samples with a model",
            "plan=true",
            "choose a daDPO experiment, or leave plan=true out",
        )
    rates = rates or measured_rates(machine, settings, str(trainer.get("precision", "32-true")), config)
    stages = [_staged(name, planned, machine, rates, settings) for name, planned in works.items()]
    return Plan(machine, rates, settings, stages, [name for name in found if name not in works])


def measured_rates(machine: Machine, settings: Settings, precision: str, config: DictConfig) -> Rates:
    """What was set, else what short probes find."""
    dtype = "bfloat16" if "16" in precision else "float32"
    threads = config.get("threads")
    flops = settings.tflops * 1e12 if settings.tflops else matmul_rate(machine, dtype, threads)
    return Rates(flops, settings.gbps * 1e9 if settings.gbps else read_rate(machine, threads))


def slack_of(machine: Machine, settings: Settings) -> tuple[float, float]:
    """The allocator's slack, and the process's own bytes on the device."""
    slack = SLACK["GPU" if machine.cuda else "CPU"]
    if not machine.cuda and FIXED in os.environ:
        slack = 0.0
    if settings.allocator_slack is not None:
        slack = settings.allocator_slack
    return slack, settings.process_gib * GIB


def _staged(name: str, planned: Planned, machine: Machine, rates: Rates, settings: Settings) -> StagePlan:
    work, (slack, process) = planned.work, slack_of(machine, settings)
    moments, cost = moments_of(work), cost_of(work)
    worst, most = peak_bytes(work, slack, process)
    other = None
    if work.policy is not None:
        turned = work._replace(policy=work.policy._replace(checkpointing=not work.policy.checkpointing))
        other = peak_bytes(turned, slack, process)[1]
    fits = None if machine.memory is None else most <= machine.memory
    parameters = {model: frozen.shape.parameters for model, frozen in work.models.items()}
    if work.policy is not None:
        adapter = work.policy.adapter
        trained = {} if adapter is None else {"its adapter": adapter.parameters}
        whose = "before" if work.kind == "pruning" else "policy"
        parameters = {whose: work.policy.shape.parameters, **trained, **parameters}
        if work.kind == "pruning":
            parameters["pruned"] = work.left
    return StagePlan(
        name=name,
        parameters=parameters,
        cost=cost,
        moments=moments,
        worst=worst,
        peak=most,
        peak_other=other,
        checkpointing=work.policy is not None and work.policy.checkpointing,
        host=0.0 if work.policy is None else activations_of(work.policy, largest_batch(work, work.policy.reading)).host,
        disk=_disk(work, cost),
        hours=_hours(work, cost, rates, machine, settings),
        fits=fits,
        mend=mend(work, machine.memory, slack, process) if fits is False and machine.memory is not None else "",
        assumed=planned.assumed,
    )


def _disk(work: Work, cost: Cost) -> float:
    """The newest checkpoint beside the one that is being written, and what is left; or texts; or scores."""
    if work.kind == "pruning":
        return work.leaves
    if work.policy is not None:
        return (3 if work.handed_on else 2) * work.policy.checkpoint + work.policy.exported
    if work.kind == "sampling":
        return TEXT_BYTES * work.count * len(work.models) * float(work.new[0])
    return float(SCORE_BYTES * work.count * work.sharing * len(work.models)) if work.kind == "scoring" else 0.0


def _hours(work: Work, cost: Cost, rates: Rates, machine: Machine, settings: Settings) -> float | None:
    if rates.flops is None:
        return None
    seconds = cost.flops / (rates.flops * settings.utilisation)
    if cost.streamed:
        if rates.bytes_read is None:
            return None
        seconds = max(seconds, cost.streamed / rates.bytes_read)
    return seconds / 3600 / machine.devices


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan as it is written: bytes, operations, hours."""
    stages = {
        stage.name: stage._asdict() | {"cost": stage.cost._asdict(), "assumed": list(stage.assumed)}
        for stage in plan.stages
    }
    return {
        "machine": plan.machine._asdict(),
        "rates": plan.rates._asdict(),
        "settings": asdict(plan.settings),
        "stages": stages,
        "not_planned": plan.others,
    }
