"""Judges: who says which of two answers is better."""

from callbacks.judges.openai import OpenAIJudge
from callbacks.judges.rule import RuleJudge
from callbacks.judges.verdict import Comparison, Judge, Outcome, Verdict, check_judge

__all__ = ["Comparison", "Judge", "OpenAIJudge", "Outcome", "RuleJudge", "Verdict", "check_judge"]
