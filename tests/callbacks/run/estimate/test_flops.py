"""Operations against what torch's own counter sees a tiny model do."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from callbacks.run.estimate.flops import frozen_flops, sampling_flops, training_flops
from callbacks.run.estimate.shape import shape_of
from datamodules.collate import collate_responses
from lightning_modules.language_model import build_language_model, freeze
from lightning_modules.scoring import response_logps

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
