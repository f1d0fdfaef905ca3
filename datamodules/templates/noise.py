"""Disturbed templates for the fine-tuning of the style generator.

Retrieved templates never fit as well as a question's own one. A generator that has seen only own ones copies what it is
given; one that has seen disturbed ones learns to take the style and leave the rest.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from datamodules.templates.words import MASK, with_masks
from datamodules.wrong_input import WrongInput


@dataclass(frozen=True)
class Noise:
    """How often each disturbance is drawn, one draw an example; what is left over leaves the template as it is.

    The defaults are those of RAST's released recipes, whose deletion takes any token; the paper's takes a mask.
    """

    replace_mask: float = 0.4
    """One mask becomes a random entity."""
    insert_entity: float = 0.2
    """A random entity is put in anywhere."""
    swap_template: float = 0.1
    """Another example's template instead."""
    delete: float = 0.1
    """One of ``deleted`` is left out."""
    deleted: Literal["token", "mask"] = "token"

    def __post_init__(self) -> None:
        shares = (self.replace_mask, self.insert_entity, self.swap_template, self.delete)
        if min(shares) < 0 or sum(shares) > 1 + 1e-9:
            raise WrongInput(f"probabilities of noise {shares}", "noise", "none below 0, together at most 1")
        if self.deleted not in ("token", "mask"):
            raise WrongInput(f"noise cannot delete a {self.deleted!r}", "noise.deleted", "choose token or mask")


def noised_templates(
    templates: Sequence[str], entities: Sequence[str], seed: int, noise: Noise | None = None
) -> list[str]:
    """Each template disturbed by one draw that depends on the seed and its place alone.

    Args:
        templates: N templates, one an example.
        entities: What masks of the data stand for, to draw from.
        seed: Of the draws.
        noise: How often what is drawn; None for the defaults.

    Returns:
        N templates. Where a draw cannot be done (no mask, no entity, no other template, a single token) the template
        stays as it is.
    """
    kinds = noise or Noise()
    return [
        _noised(template, templates, entities, random.Random(f"{seed}/noise/{place}"), kinds)
        for place, template in enumerate(templates)
    ]


def _noised(template: str, templates: Sequence[str], entities: Sequence[str], rng: random.Random, noise: Noise) -> str:
    shares = [noise.replace_mask, noise.insert_entity, noise.swap_template, noise.delete]
    (drawn,) = rng.choices(["replace", "insert", "swap", "delete", "leave"], [*shares, max(0.0, 1 - sum(shares))])
    if drawn == "swap":
        other = rng.choice(templates)
        for _ in range(20):  # a few tries find another one, unless (nearly) all are the same
            if other != template:
                break
            other = rng.choice(templates)
        return other
    tokens = template.split()
    masks = [place for place, token in enumerate(tokens) if token == MASK]
    if drawn == "replace" and masks and entities:
        tokens[rng.choice(masks)] = rng.choice(entities)
    elif drawn == "insert" and entities:
        tokens.insert(rng.randrange(len(tokens) + 1), rng.choice(entities))
    elif drawn == "delete" and len(tokens) > 1 and (masks or noise.deleted == "token"):
        del tokens[rng.choice(masks) if noise.deleted == "mask" else rng.randrange(len(tokens))]
    return with_masks(" ".join(tokens))  # masks that became neighbours are one run
