"""Operations against what torch's own counter sees a tiny model do."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from callbacks.run.estimate.flops import frozen_flops, sampling_flops, training_flops
from callbacks.run.estimate.models import Reading
from callbacks.run.estimate.packed import lay_out
from callbacks.run.estimate.shape import shape_of
from callbacks.run.estimate.tokens import Sequences
from datamodules.collate import collate_responses
from datamodules.packing import pack
from lightning_modules.language_model import build_language_model, freeze
from lightning_modules.response_logps import response_logps

FIELDS = {
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}
ROWS = [(5, 7), (3, 4), (8, 2)]  # prompt and response; padded to 12
VOCABULARY = 600


def batch():
    ids = [list(range(3, 3 + prompt + response)) for prompt, response in ROWS]
    return collate_responses(ids, [prompt for prompt, _ in ROWS], ["a", "b", "c"], 0)


def counted(work):
    """What the counter sees, with the product in place that it does not know."""

    def added(_, a_shape, b_shape, **__):
        return 2 * a_shape[0] * a_shape[1] * b_shape[1]

    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: added}) as counter:
        work()
    return counter.get_total_flops()


def built(family, tokenizer, checkpointing=False):
    # plain attention: torch's counter does not know the CPU's fused one
    build = {"attn_implementation": "eager", "gradient_checkpointing": checkpointing}
    return build_language_model({**FIELDS, "model_type": family}, tokenizer, **build)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", ["qwen2", "llama", "gemma"])
def test_training(family, checkpointing, tokenizer):
    model = built(family, tokenizer, checkpointing).train()
    seen = counted(lambda: response_logps(model, batch(), vocabulary=VOCABULARY).sum().backward())
    # the rotary angles are a product too: a thousandth
    assert training_flops(shape_of(model), 3 * 12, 3 * 12**2, 13, VOCABULARY, checkpointing, True) == pytest.approx(
        seen, rel=5e-3
    )


@pytest.mark.parametrize("family", ["qwen2", "llama", "gemma"])
def test_scoring(family, tokenizer):
    model = freeze(built(family, tokenizer))
    seen = counted(lambda: response_logps(model, batch(), vocabulary=VOCABULARY))
    assert frozen_flops(shape_of(model), 3 * 12, 3 * 12**2, 13, VOCABULARY) == pytest.approx(seen, rel=5e-3)


@pytest.mark.parametrize("token_budget", [None, 30])
def test_scoring_packed_rows(token_budget, tokenizer):
    model = freeze(build_language_model({**FIELDS, "model_type": "qwen2"}, tokenizer))
    pairs = [(5, 7, 3), (3, 4, 9), (8, 2, 2)]
    sides = [(i, [5] * pair[side]) for side in (1, 2) for i, pair in enumerate(pairs)]
    batch = pack([[5] * pair[0] for pair in pairs], sides, ["pair"] * 6, 0, token_budget)
    response_logps(model, batch)  # chooses its attention
    with sdpa_kernel(SDPBackend.MATH):
        seen = counted(lambda: response_logps(model, batch, vocabulary=VOCABULARY))
    rows = [Sequences(prompt, responses) for prompt, *responses in pairs]
    laid = lay_out(rows, Reading("blocks"), token_budget)
    predicted = frozen_flops(shape_of(model), laid.batch.tokens, laid.scores, laid.batch.predicted, VOCABULARY)
    assert predicted == pytest.approx(seen, rel=5e-3)


def test_sampling(tokenizer):
    model = freeze(built("qwen2", tokenizer))
    ids = torch.full((3, 9), 5)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        made = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, min_new_tokens=20, do_sample=False
        )
    assert made.shape == (3, 29)
    # the last token made is never read
    assert sampling_flops(shape_of(model), 3, 9, 20) == pytest.approx(counter.get_total_flops(), rel=0.05)
