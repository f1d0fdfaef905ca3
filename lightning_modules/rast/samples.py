"""A few questions to look at: what was asked by which template, and what a QA model answers to it."""

from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from lightning_modules.rast.rollout import Questioner, Rollout


class Sample(NamedTuple):
    """A row of the table."""

    example: str
    template: str
    question: str
    answer: str
    """The gold answer."""
    qa_answer: str
    """What the QA model answers to the question; empty where there is no QA model."""
    reward: float


def sample_table(questioner: Questioner, rollout: Rollout, qa: PreTrainedModel | None, rows: int) -> list[Sample]:
    """The rollout's first questions."""
    asked = rollout.asked
    questions, examples = asked.questions[:rows], asked.examples[:rows]
    answers = [""] * len(questions) if qa is None else questioner.answers(qa, examples, questions)
    weighted = questioner.rewards.weighted(rollout.parts)
    rewards = torch.stack(list(weighted.values())).sum(0).flatten().tolist()
    return [
        Sample(example.id, str(template), question, example.answer, answer, reward)
        for example, template, question, answer, reward in zip(
            examples, asked.templates[:rows], questions, answers, rewards[:rows], strict=True
        )
    ]
