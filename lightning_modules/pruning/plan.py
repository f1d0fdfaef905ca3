"""How wide a pruned decoder is to be: counting parameters, and choosing widths for a ratio.  Pure."""

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

TOLERANCE = 0.01
"""By what share the number of parameters may miss what is wanted."""


@dataclass(frozen=True)
class Widths:
    """The widths of a decoder whose layers are all alike, named as in its config."""

    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int


@dataclass(frozen=True)
class Anatomy:
    """What of a decoder pruning leaves as it is.

    Args:
        layers: Number of them.
        head_dim: Width of a head.
        embedding_rows: Rows of all embeddings and heads: vocabulary × 2, × 1 where they are tied.
        query_bias: The projections to queries, keys and values have biases.
        output_bias: The projection from the heads has one.
        mlp_bias: Those of the feed-forward part have.
        others: Parameters whose number no width changes.
    """

    layers: int
    head_dim: int
    embedding_rows: int
    query_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    others: int = 0

    def parameters(self, widths: Widths) -> int:
        """Number of parameters at these widths; tied weights count once."""
        hidden, inner = widths.hidden_size, widths.intermediate_size
        queries = self.head_dim * widths.num_attention_heads
        projected = queries + 2 * self.head_dim * widths.num_key_value_heads
        layer = hidden * (projected + queries + 3 * inner + 2)  # matrices, and two norms
        layer += self.query_bias * projected + self.output_bias * hidden + self.mlp_bias * (2 * inner + hidden)
        return self.layers * layer + (self.embedding_rows + 1) * hidden + self.others


def ranked_widths(
    full: Widths, anatomy: Anatomy, ratio: float, pruned: Collection[str], multiple_of: int = 1
) -> list[Widths]:
    """Widths that leave (1 − ratio) of the parameters, within ``TOLERANCE``; the most even ones first.

    Even means that the widths that are pruned keep about the same share each: the spread of the logarithms of the
    shares is smallest. Heads go in whole: where keys and values have heads of their own, a query head of each goes at a
    time, so that all keep equally many; where each query head has its own, they go together.

    Args:
        full: The widths before.
        anatomy: The rest of the model.
        ratio: Share of all parameters to take out, above 0 and below 1.
        pruned: Of ``heads``, ``intermediate``, ``hidden``.
        multiple_of: Of hidden and intermediate sizes.

    Returns:
        None, one or many.
    """
    wanted = (1 - ratio) * anatomy.parameters(full)
    found = []
    for heads in _head_counts(full, "heads" in pruned):
        for hidden in _sizes(full.hidden_size, "hidden" in pruned, multiple_of):
            narrow = replace(heads, hidden_size=hidden)
            for inner in _inner_sizes(narrow, anatomy, wanted, "intermediate" in pruned, multiple_of):
                widths = replace(narrow, intermediate_size=inner)
                miss = abs(anatomy.parameters(widths) / wanted - 1)
                if miss <= TOLERANCE:
                    found.append((_unevenness(widths, full, pruned), miss, widths))
    return [widths for *_, widths in sorted(found, key=lambda one: one[:2])]


def _head_counts(full: Widths, pruned: bool) -> Iterator[Widths]:
    """The same widths with all head counts that can be, the full one first."""
    kept, shared = full.num_key_value_heads, full.num_attention_heads // full.num_key_value_heads
    if not pruned:
        yield full
    elif shared == 1:
        for count in range(kept, 0, -1):
            yield replace(full, num_attention_heads=count, num_key_value_heads=count)
    else:
        for queries in range(shared, 0, -1):
            yield replace(full, num_attention_heads=kept * queries)


def _sizes(full: int, pruned: bool, multiple_of: int) -> list[int]:
    """The full size, and where it is pruned the multiples below it."""
    return [full, *(range(multiple_of, full, multiple_of) if pruned else ())]


def _inner_sizes(narrow: Widths, anatomy: Anatomy, wanted: float, pruned: bool, multiple_of: int) -> set[int]:
    """The intermediate sizes nearest to the wanted number of parameters, which is linear in them."""
    full = narrow.intermediate_size
    if not pruned:
        return {full}
    zero = anatomy.parameters(replace(narrow, intermediate_size=0))
    exact = (wanted - zero) * full / (anatomy.parameters(narrow) - zero)
    below = math.floor(exact / multiple_of) * multiple_of
    return {min(full, size) for size in (below, below + multiple_of) if size > 0}


def _unevenness(widths: Widths, full: Widths, pruned: Collection[str]) -> float:
    """log(largest share kept / smallest share kept) of the widths that are pruned."""
    fields = {"heads": "num_attention_heads", "intermediate": "intermediate_size", "hidden": "hidden_size"}
    shares = [getattr(widths, fields[name]) / getattr(full, fields[name]) for name in pruned]
    return math.log(max(shares) / min(shares))
