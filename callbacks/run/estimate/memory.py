"""Bytes that a dense decoder takes on a device, moment by moment.  Pure.

What autograd keeps of a layer, itemised a token in elements (h hidden, q query, k key width, f feed-forward width), is
the count of Korthikanti et al. 2022 (arXiv 2205.05198, section 4.1) redone for today's decoders as transformers writes
them, without dropout:

- a root-mean-square norm keeps its input and the normalised input (2·width), ``nn.LayerNorm`` its input only;
- the products keep what they read: 2h + q + f (queries, keys and values read one tensor, so do gate and up);
- attention keeps queries, keys, values: q + 2k, or 3q where a batch has padding: with a mask, keys and values are
  repeated for the heads that share them, and the mask is kept as numbers, a layer and row L²;
- a gated feed-forward keeps both branches and the activation (3f), a plain one its input (f).

In packed rows (``lightning_modules/packed_attention.py``) attention in blocks keeps queries, and keys and values
repeated (3q); its results before and after they are joined (q more); and for each response but a prompt's first keys
and values of prompt and response, laid out anew (2q of those tokens). Masks are made once for all layers;
FlexAttention's is four lists of blocks.

``tests/callbacks/run/estimate/test_memory.py`` holds it against what autograd says that it has kept.
"""

from typing import NamedTuple

from callbacks.run.estimate.adapter import Adapter, kept_by_adapter
from callbacks.run.estimate.shape import ModelShape

FLOAT = 4
CPU_CHUNK_LOGITS = 2**21
CPU_KEPT_LOGITS = 2**24
GPU_CHUNK_LOGITS = 2**27
"""Logits that exist at one time; the same as in ``lightning_modules/logprobs.py``, which a test holds."""
FLEX_SIDE, FLEX_LISTS = 128, 4
"""Tokens of FlexAttention's blocks, and its lists of them (``lightning_modules/packed_attention.py``)."""


class Precision(NamedTuple):
    """Bytes of a weight, and of a number in the matrix products."""

    weights: int = FLOAT
    products: int = FLOAT

    @property
    def autocast(self) -> bool:
        """Weights are wide and products narrow (``bf16-mixed``): products read narrow copies."""
        return self.products < self.weights


class Batch(NamedTuple):
    """A micro-batch at its largest."""

    rows: int
    """Sequences: twice the pairs."""
    length: int
    """Padded, in tokens."""
    predicted: int
    """Response tokens of all rows."""
    padded: bool = True
    """Rows differ in length, so that attention takes a mask."""
    packed: str | None = None
    """Which attention reads packed rows: ``blocks``, ``flex``, ``flash``, ``dense`` (one prompt a row); None: none."""
    copied: int = 0
    """Blocks: tokens of the responses but a prompt's first, each with its prompt's."""
    masked: int = 0
    """Blocks: numbers of the masks."""

    @property
    def tokens(self) -> int:
        """Padding included."""
        return self.rows * self.length


def layer_bytes(shape: ModelShape, batch: Batch, precision: Precision, adapter: Adapter | None = None) -> float:
    """What autograd keeps of one layer; see above. Under an adapter, what frozen weights would need is not kept."""
    narrow, copies = precision.products, 3 if precision.autocast else 1  # each product casts its own copy
    reads = (
        (copies + (2 if shape.gated and precision.autocast else 1)) * shape.hidden + shape.query + shape.intermediate
    )
    between = (3 if shape.gated else 1) * shape.intermediate
    wide = precision.weights
    scaled = 0 if adapter else max(wide, narrow)  # the normalised input, for the gradient of the norm's weight
    norms = (FLOAT + scaled) * shape.norms + wide * shape.norms_fused + FLOAT * shape.norm_rows
    token = norms + narrow * between + (0 if shape.eager else FLOAT * shape.heads)
    shared = adapter is not None and wide == narrow == FLOAT  # then A reads what the base reads, no copies of it
    if adapter is None or shared:
        token += narrow * reads + (FLOAT * adapter.between if adapter else 0)
    else:
        token += kept_by_adapter(adapter, wide, narrow)
    square = float(batch.rows * batch.length**2)
    if shape.eager:  # softmax in float32, its narrow copy, and the tanh of a soft cap
        kept = shape.heads * (FLOAT + (narrow if narrow < FLOAT else 0) + (narrow if shape.softcap else 0))
    else:
        kept = narrow if batch.padded and batch.packed is None else 0
    return batch.tokens * token + narrow * _attended(shape, batch) + square * kept


def _attended(shape: ModelShape, batch: Batch) -> float:
    """Numbers of queries, keys, values and, in blocks, results that a layer keeps."""
    if batch.packed == "blocks":
        return 4.0 * shape.query * batch.tokens + 2.0 * shape.query * batch.copied
    repeated = (batch.padded and batch.packed not in ("flex", "flash")) or shape.eager
    return float(batch.tokens) * (3 * shape.query if repeated else shape.query + 2 * shape.key_value)


def around_bytes(shape: ModelShape, batch: Batch, precision: Precision) -> float:
    """What is kept outside the layers: the last norm's, the states of response tokens, mask and ids."""
    norm = batch.tokens * shape.hidden * (FLOAT + max(precision.weights, precision.products))
    states = batch.predicted * shape.hidden * precision.products
    mask = float(batch.rows * batch.length**2 if batch.padded and batch.packed in (None, "dense") else 0)
    if batch.packed is not None:
        mask = mask * precision.products + batch.masked * precision.products + 8 * 3 * batch.predicted
    if batch.packed == "flex":  # which blocks of keys a block of queries sees in part or whole, and the other way
        mask += FLEX_LISTS * FLOAT * batch.rows * (-(-batch.length // FLEX_SIDE)) ** 2
    return norm + states + mask + 8 * 3 * batch.tokens


def activation_bytes(
    shape: ModelShape, batch: Batch, precision: Precision, checkpointing: bool, adapter: Adapter | None = None
) -> float:
    """What is kept between forward and backward pass; with checkpointing, of each layer its input only."""
    input_only = batch.tokens * shape.hidden * precision.weights
    layer = input_only if checkpointing else layer_bytes(shape, batch, precision, adapter)
    return shape.layers * layer + around_bytes(shape, batch, precision)


def passing_bytes(shape: ModelShape, batch: Batch, narrow: int) -> float:
    """The most that exists at one time within a layer where nothing is kept.

    Residual and normalised input with the feed-forward's branches and their product, or with queries, keys and values
    before and after the rotation.
    """
    wide_part = 2 * shape.hidden * max(narrow, 2)
    feed_forward = (3 if shape.gated else 2) * shape.intermediate
    attention = float(batch.tokens * (4 * shape.query + 2 * shape.key_value))
    if batch.packed == "blocks":  # queries, keys and values, these two repeated, and the results, joined and not
        attention = batch.tokens * (5.0 * shape.query + 2 * shape.key_value) + 2.0 * shape.query * batch.copied
    scores = (2 * FLOAT * shape.heads if shape.eager else narrow) if batch.padded or shape.eager else 0
    square = 0 if batch.packed in ("blocks", "flex", "flash") else batch.rows * batch.length**2 * (scores + 1)
    inside = max(float(batch.tokens * feed_forward), attention) + batch.masked
    return batch.tokens * wide_part + narrow * inside + square


def chunk_bytes(predicted: int, vocabulary: int, cuda: bool) -> float:
    """Float32 logits of one chunk of response tokens."""
    most = (GPU_CHUNK_LOGITS if cuda else CPU_CHUNK_LOGITS) // vocabulary
    return FLOAT * float(min(predicted, max(1, most)) * vocabulary)


def kept_logit_bytes(predicted: int, vocabulary: int, cuda: bool) -> float:
    """Float32 logits that a pass keeps for its backward pass: on a CPU all of them where they are few, else none."""
    few = not cuda and predicted * vocabulary <= CPU_KEPT_LOGITS
    return FLOAT * float(predicted * vocabulary) if few else 0.0


def head_cast_bytes(shape: ModelShape, vocabulary: int, narrow: int, cuda: bool) -> float:
    """The head's copy in the dtype of the product: float32 on a CPU, whatever the weights are."""
    return 0.0 if cuda or narrow == FLOAT else float(FLOAT * vocabulary * shape.hidden)


def cache_bytes(shape: ModelShape, rows: int, length: int, narrow: int) -> float:
    """Keys and values of all layers, 2·k·length a row and layer, and one layer's again while it grows."""
    return 2.0 * shape.key_value * rows * length * narrow * (shape.layers + 1)
