"""Run an experiment: compose its config, run its stages in order, and say what came of it.

python train.py experiment=dadpo_quickstart [key=value …]        (-m for a sweep)
"""

import logging
import os
import sys
import warnings
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from transformers.utils import logging as transformers_logging

from callbacks.run import (
    check_config,
    close_loggers,
    exit_line,
    first_process,
    plan_of,
    print_plan,
    print_table,
    register_resolvers,
    run_stage,
    unrolled,
    write_metrics,
    write_plan,
)

register_resolvers()
log = logging.getLogger("smoothtalk")
ASKED_FOR_TRACEBACK = "SMOOTHTALK_FULL_ERROR"


def run(config: DictConfig) -> dict[str, float]:
    """Run the stages of a composed config.

    Args:
        config: As ``conf/train.yaml`` composes it.

    Returns:
        All numbers, by ``group/name``; they stand in ``metrics.json`` too. With ``plan=true`` none: no stage is
        run, and ``plan.json`` and a table say what each would take.
    """
    config = unrolled(config)
    check_config(config)
    output_dir = Path(config.paths.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    if first_process():
        OmegaConf.save(config, output_dir / "config.yaml", resolve=False)
    if config.plan:
        if first_process():
            plan = plan_of(config)
            write_plan(output_dir, plan)
            print_plan(plan)
        return {}
    logger = hydra.utils.instantiate(config.logger) if config.get("logger") else None
    metrics: dict[str, float] = {}
    digests: dict[str, str] = {}
    for number, name in enumerate(config.stages, start=1):
        step = f"[{number}/{len(config.stages)}] {name}"
        tell(step)
        record = run_stage(config, name, digests, logger)
        how = "unchanged, taken from before" if record.reused else f"done in {record.seconds:.0f} s"
        tell(f"{step}: {how} → {output_dir / name}")
        metrics |= record.metrics
        if first_process():
            write_metrics(output_dir, metrics)
    if first_process():
        if config.get("report"):
            page = hydra.utils.instantiate(config.report)(output_dir, metrics, OmegaConf.to_yaml(config))
            tell(f"report → {page}")
        print_table(metrics)
    return metrics


def tell(line: str) -> None:
    """One line on what is going on, from one of the processes of a run."""
    if first_process():
        log.info(line)


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> None:
    """Hydra's entry: one job."""
    finished = False
    try:
        run(config)
        finished = True
    except Exception as error:
        if HydraConfig.get().mode == RunMode.RUN:
            leave(error)  # before Hydra adds a line of its own; the jobs of a sweep are its to end
        raise
    finally:
        close_loggers(ok=finished)


def command_line() -> None:
    """Run ``main``; an error that the user can mend ends with one line and exit code 2."""
    os.environ.setdefault(ASKED_FOR_TRACEBACK, os.environ.get("HYDRA_FULL_ERROR", "0"))  # other ranks are children
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors on as they are, instead of printing and exiting itself
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its warning about forks would drown ours
    warnings.filterwarnings("ignore", module="lightning")  # advice on workers and empty loaders, a page a stage
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        main()
    except Exception as error:
        leave(error)
        raise


def leave(error: Exception) -> None:
    """Exit with the error's one line and code, unless it is a defect of ours or the traceback was asked for."""
    line = exit_line(error)
    if line is not None and os.environ.get(ASKED_FOR_TRACEBACK) != "1":
        print(f"error: {line.text}", file=sys.stderr)
        sys.exit(line.code)


if __name__ == "__main__":
    command_line()
