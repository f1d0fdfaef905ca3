"""What a step of RAST is watched by."""

import torch
from torch import Tensor

from lightning_modules.rast.advantages import Advantages
from lightning_modules.rast.policy_gradient import PolicyGradientLoss
from lightning_modules.rast.rewards import copy_rate
from lightning_modules.rast.rollout import Rollout
from lightning_modules.seq2seq import IGNORED


def monitors(rollout: Rollout, gain: Advantages, loss: PolicyGradientLoss) -> dict[str, Tensor]:
    """Scalars, means over the batch's questions where not said otherwise.

    * ``loss``, ``generator_loss``, ``retriever_loss``, ``kl`` (of a question, nats)
    * ``reward``: r; ``reward_NAME``: each part, not weighted; ``greedy_reward_NAME``: of the greedy questions
    * ``advantage_std``: spread of the generator's advantages
    * ``copy_rate``: share of a question's words that stand in its passage
    * ``question_tokens``: length, end token included; ``unfinished_share``: cut at the maximum
    * ``distinct_templates``: share of the batch's drawn templates that are different ones
    * ``retriever_entropy``: nats, of the policy over an input's candidates
    """
    written, asked = rollout.written, rollout.asked
    copied = [copy_rate(y, example.context) for y, example in zip(asked.questions, asked.examples, strict=True)]
    drawn = rollout.styles.positions
    values = {
        "loss": loss.total,
        "generator_loss": loss.generator,
        "retriever_loss": loss.retriever,
        "kl": loss.divergence,
        "reward": gain.reward.mean(),
        "advantage_std": gain.generator.std(correction=0),
        "copy_rate": torch.tensor(copied).mean(),
        "question_tokens": (written.labels != IGNORED).sum(1).float().mean(),
        "unfinished_share": 1 - written.finished.float().mean(),
        "distinct_templates": torch.tensor(drawn.unique().numel() / drawn.numel()),
        "retriever_entropy": rollout.styles.entropy.mean(),
    }
    values |= {f"reward_{name}": part.mean() for name, part in rollout.parts.items()}
    values |= {f"greedy_reward_{name}": part.mean() for name, part in (rollout.greedy_parts or {}).items()}
    return {name: value.detach() for name, value in values.items()}
