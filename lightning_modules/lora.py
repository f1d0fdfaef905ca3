"""The settings of a LoRA adapter (Hu et al. 2021, arXiv 2106.09685), checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from datamodules.wrong_input import WrongInput

ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class LoRA:
    """What is put beside the frozen layers. The scale s is alpha / rank.

    Args:
        rank: Width of A and B.
        alpha: Numerator of the scale.
        dropout: Of what A reads, in training. A killed run that goes on draws other masks.
        target_modules: ``all-linear``: every linear layer but the head; or last names of layers, e.g. ``q_proj``.
        rslora: The scale is alpha / √rank (Kalajdzievski 2023, arXiv 2312.03732).

    Raises:
        WrongInput: There is no such adapter.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: str | Sequence[str] = ALL_LINEAR
    rslora: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        targets = self.target_modules
        named = isinstance(targets, Sequence) and not isinstance(targets, str)
        problems = {
            "rank": not _number(self.rank, int) or self.rank < 1,
            "alpha": not _number(self.alpha, (int, float)) or not self.alpha > 0,
            "dropout": not _number(self.dropout, (int, float)) or not 0 <= self.dropout < 1,
            "target_modules": not (
                targets and all(isinstance(t, str) for t in targets) if named else targets == ALL_LINEAR
            ),
            "rslora": not isinstance(self.rslora, bool),
        }
        mends = {
            "rank": "a whole number from 1; lora=none trains all weights",
            "alpha": "a number above 0",
            "dropout": "from 0 to below 1",
            "target_modules": f"{ALL_LINEAR}, or a list of last names of layers",
            "rslora": "true or false",
        }
        for name in (name for name, wrong in problems.items() if wrong):
            raise WrongInput(f"lora.{name} is {getattr(self, name)!r}", f"lora.{name}", mends[name])


def lora_of(settings: Mapping[str, Any] | None) -> LoRA | None:
    """The adapter that a config describes; None: none.

    Raises:
        WrongInput: Unknown keys, or values that cannot be.
    """
    if settings is None:
        return None
    known = [field.name for field in fields(LoRA)]
    if not isinstance(settings, Mapping) or (unknown := sorted(map(str, set(settings) - set(known)))):
        what = f"unknown keys {', '.join(unknown)}" if isinstance(settings, Mapping) else f"{settings!r} is no adapter"
        raise WrongInput(what, "lora", f"null, or any of {', '.join(known)}")
    return LoRA(**settings)


def _number(value: Any, kinds: Any) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)
