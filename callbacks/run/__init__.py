"""A run: its stages, what each leaves behind, and how it is told."""

from callbacks.run.estimate import plan_of, print_plan, write_plan
from callbacks.run.loggers import close_loggers
from callbacks.run.messages import exit_line
from callbacks.run.outcome import print_table, write_metrics
from callbacks.run.plan import check_config, register_resolvers
from callbacks.run.rounds import unrolled
from callbacks.run.sharded import FSDP2Strategy
from callbacks.run.stage import first_process, run_stage

__all__ = [
    "FSDP2Strategy",
    "check_config",
    "close_loggers",
    "exit_line",
    "first_process",
    "plan_of",
    "print_plan",
    "print_table",
    "register_resolvers",
    "run_stage",
    "unrolled",
    "write_metrics",
    "write_plan",
]
