"""How far scores of a bfloat16 forward pass are from those in float32, and what float32 log-softmax and sums save."""

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lightning_modules.language_model import freeze
from lightning_modules.response_logps import response_logps

FOUR_LAYERS = {"vocab_size": 600, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4}
FOUR_LAYERS |= {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.1}
TOKENS = 32


@pytest.mark.parametrize("seed", [0, 1])
def test_bfloat16_costs_thousandths_of_a_nat_a_token_and_half_precision_throughout_more(token_batch, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = freeze(AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen2", **FOUR_LAYERS)))
    half = freeze(copy.deepcopy(model).to(torch.bfloat16))
    batch = token_batch([(6, TOKENS)] * 32, seed=seed)
    exact = response_logps(model, batch)
    ours = response_logps(half, batch)
    logits = half(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[:, :-1]
    per_token = logits.log_softmax(-1).gather(-1, batch.input_ids[:, 1:, None]).squeeze(-1)
    assert per_token.dtype == torch.bfloat16
    theirs = torch.stack([row[mask].sum() for row, mask in zip(per_token, batch.response_mask[:, 1:], strict=True)])
    off, off_in_half = ((scores.float() - exact).abs().mean().item() / TOKENS for scores in (ours, theirs))
    assert 0 < off < 0.003
    assert off_in_half > 2 * off
