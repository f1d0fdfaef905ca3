"""Decoding of an encoder–decoder token by token, in several ways at one time.

What transformers' ``generate`` does of this computes every row until the last one ends. Here what has ended is computed
no more, and what different ways write of one input is computed once as far as it is the same: the first step, which
reads the whole input, and mostly more, since samples of a model that is sure of itself begin as the likeliest does.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lightning_modules.language_model import output_head
from lightning_modules.logprobs import logits_of
from lightning_modules.seq2seq import IGNORED
from lightning_modules.token_draws import TokenDraws, random_numbers


@torch.no_grad()
def write_tokens(
    model: PreTrainedModel,
    states: Tensor,
    attention_mask: Tensor,
    ways: Sequence[TokenDraws],
    stops: Sequence[int],
    most: int,
) -> Tensor:
    """What the model writes to each of N inputs in each of W ways, from torch's own random state.

    A row's random numbers depend on neither its company nor when others end. Where the likeliest is taken none are
    drawn: whatever is drawn after that is as if nothing had been written.

    Args:
        model: In eval mode.
        states: (N, L, h), what its encoder made.
        attention_mask: (N, L), of the encoder's input.
        ways: How tokens are chosen; all of one vocabulary.
        stops: Tokens that end a row.
        most: Tokens a row, at most.

    Returns:
        (W, N, T) int64; what ended a row stands in it, -100 behind it. T is the longest row's length.
    """
    decoder, head, vocabulary = model.get_decoder(), output_head(model, ways[0].vocabulary), ways[0].vocabulary
    inputs, device = len(states), states.device
    made = torch.full((len(ways) * inputs, most), IGNORED, device=device)
    rows = torch.arange(len(made), device=device)  # those that go on, a way's below each other
    place = rows % inputs  # where each of them stands among the prefixes that are computed
    tokens = torch.full((inputs,), model.config.decoder_start_token_id, device=device)  # the last of each prefix
    ends, cache, step = torch.tensor(stops, device=device), None, 0
    while True:
        out = decoder(
            input_ids=tokens[:, None],
            encoder_hidden_states=states,
            encoder_attention_mask=attention_mask,
            past_key_values=cache,
            use_cache=True,
        )
        cache, logits = out.past_key_values, logits_of(out.last_hidden_state[:, -1], head)
        numbers = torch.cat([_numbers(way, inputs, device) for way in ways])[rows]
        next_tokens = _chosen(logits[place], numbers, (rows // inputs).bincount(minlength=len(ways)).tolist(), ways)
        made[rows, step], step = next_tokens, step + 1
        going = ~torch.isin(next_tokens, ends)
        rows, place, next_tokens = rows[going], place[going], next_tokens[going]
        if len(rows) == 0 or step == most:
            return made[:, :step].view(len(ways), inputs, step)
        prefixes, place = (place * vocabulary + next_tokens).unique(return_inverse=True)
        kept, tokens = prefixes // vocabulary, prefixes % vocabulary
        if len(kept) != len(states) or bool((kept[1:] == kept[:-1]).any()):
            cache.batch_select_indices(kept)
            states, attention_mask = states[kept], attention_mask[kept]


def _numbers(way: TokenDraws, count: int, device: torch.device) -> Tensor:
    return random_numbers(count, device) if way.temperature else torch.zeros(count, dtype=torch.int64, device=device)


def _chosen(logits: Tensor, numbers: Tensor, shares: list[int], ways: Sequence[TokenDraws]) -> Tensor:
    """(R,) the next token of each row; each way has its share of them, one way's below the other's."""
    pieces = zip(ways, logits.split(shares), numbers.split(shares), strict=True)
    return torch.cat([way.choose(scores, drawn) for way, scores, drawn in pieces if len(scores)])
