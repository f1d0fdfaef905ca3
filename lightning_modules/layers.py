"""Where the layers of a transformers model are, whatever its family."""

import re

from torch import nn
from transformers import PreTrainedModel

NUMBERED = re.compile(r"(^|\.)\d+$")


def layers_of(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Name → layer, in the model's order; transformers names their classes, since no device map may split them.

    Empty where a family does not tell.
    """
    names = set(model._no_split_modules or ())
    return {name: part for name, part in model.named_modules() if type(part).__name__ in names}


def stacks_of(model: PreTrainedModel) -> list[nn.Module]:
    """What runs layers one after another: a decoder, or an encoder and a decoder. None lies in another."""
    names = {NUMBERED.sub("", name).rpartition(".")[0] for name in layers_of(model)}
    outer = [name for name in sorted(names) if not any(name.startswith(f"{other}.") for other in names - {name})]
    return [model.get_submodule(name) for name in outer]
