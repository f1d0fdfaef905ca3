"""Templates that a query may choose among, those that it did, and how the best of each cluster are found."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from lightning_modules.rast.drawing import Draw

Clustering = Callable[[Sequence[str], int], Sequence[int]]
"""(templates, K) → a label for each, at most K different ones."""


class TemplateBank(Protocol):
    """What is asked of a bank. It may grow; what stands in it keeps its place."""

    @property
    def texts(self) -> Sequence[str]:
        """The templates by number."""
        ...


class Candidates(NamedTuple):
    """The templates that a query may choose among, best first; C of them for each of B queries."""

    positions: Tensor
    """(B, C) int64, in the bank."""
    scores: Tensor
    """(B, C) inner products, in [-1, 1]."""
    logps: Tensor
    """(B, C) log p_φ(z|z0), the log-softmax of the scores; differentiable."""


class Style(NamedTuple):
    """One template that was chosen for a query."""

    template: str
    number: int
    """Its position in the bank."""
    score: float
    """Inner product with the query, in [-1, 1]."""
    cluster: int
    """0 is the best candidate's."""


class Styles(NamedTuple):
    """K templates for each of B passages."""

    templates: list[list[str]]
    positions: Tensor
    """(B, K) int64, in the bank."""
    scores: Tensor
    """(B, K) retrieval scores, without gradient."""
    draw: Draw
    """What the retriever's gradient needs."""
    entropy: Tensor
    """(B,) nats, of p_φ over the candidates; without gradient."""


def best_of_clusters(labels: Sequence[int], candidates: int, count: int) -> list[tuple[int, int]]:
    """Which candidates to take: the best of each cluster, then the best of what is left; (place, cluster), best first.

    Args:
        labels: Of the candidates, best first.
        candidates: How many there are.
        count: How many to take, at most.

    Returns:
        Clusters are numbered by the ranks of their best candidates.

    Raises:
        ValueError: There is not one label a candidate.
    """
    if len(labels) != candidates:
        raise ValueError(f"{len(labels)} labels for {candidates} templates")
    names = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    firsts = [labels.index(label) for label in names][:count]
    others = [place for place in range(candidates) if place not in firsts]
    return [(place, names[labels[place]]) for place in sorted([*firsts, *others[: count - len(firsts)]])]
