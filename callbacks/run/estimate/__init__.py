"""What a run would take: parameters, tokens, operations, memory, disk and hours of each stage, before any is run."""

from callbacks.run.estimate.printing import print_plan, write_plan
from callbacks.run.estimate.run import Plan, plan_of

__all__ = ["Plan", "plan_of", "print_plan", "write_plan"]
