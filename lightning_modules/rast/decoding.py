"""Several questions from one passage without templates: beam search, sampling, and diverse beam search."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedModel, PreTrainedTokenizerBase

from datamodules.wrong_input import WrongInput
from lightning_modules.rast.writing import Encoded, Written, decode, write
from lightning_modules.sampling import Sampling, generation_config

Decoding = Callable[[PreTrainedModel, PreTrainedTokenizerBase, Encoded, int], Written]
"""(model, tokenizer, B encoded rows, N) → B·N written ones, a row's N below each other."""


def beam_search(max_new_tokens: int = 32) -> Decoding:
    """The N best of N beams."""

    def search(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, encoded: Encoded, count: int) -> Written:
        config = generation_config(model, tokenizer, Sampling(temperature=0.0, max_new_tokens=max_new_tokens))
        config.num_beams = config.num_return_sequences = count
        return decode(model, tokenizer, encoded, config)

    return search


def sampled(how: Sampling) -> Decoding:
    """N samples."""
    return partial(_sample, how=how)


def _sample(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, encoded: Encoded, count: int, *, how: Sampling
) -> Written:
    return write(model, tokenizer, encoded.repeated(count), how)


def diverse_beam_search(max_new_tokens: int = 32, penalty: float = 1.0) -> Decoding:
    """N groups of one beam each: each writes what is likeliest, less ``penalty`` for what groups before it wrote.

    Source: Vijayakumar et al. (2018), "Diverse Beam Search", with Hamming diversity and B' = 1, as it is mostly used to
    get N different outputs. transformers 5 has none of its own any more.

    Raises:
        WrongInput: The penalty is negative.
    """
    if not 0 <= penalty < float("inf"):
        raise WrongInput(f"the penalty of diverse beam search is {penalty}", "penalty", "0 or more")

    def search(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, encoded: Encoded, count: int) -> Written:
        config = generation_config(model, tokenizer, Sampling(temperature=0.0, max_new_tokens=max_new_tokens))
        processor = GroupDiversity(count, penalty, config.eos_token_id)  # type: ignore[arg-type]
        return decode(model, tokenizer, encoded.repeated(count), config, [processor])

    return search


class GroupDiversity(LogitsProcessor):
    """Takes ``penalty`` off a token's logit for each earlier group of the same input that chooses it in this step.

    For greedy decoding of rows of which each ``groups`` are one input's. What a group that has ended would write is
    no choice, and counts for nothing.

    Args:
        groups: Of each input.
        penalty: λ of the paper.
        ends: Tokens that end a row.
    """

    def __init__(self, groups: int, penalty: float, ends: list[int]):
        self.groups, self.penalty, self.ends = groups, penalty, ends

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(B·G, V) scores, the later groups' penalised."""
        ended = torch.isin(input_ids[:, 1:], torch.tensor(self.ends, device=input_ids.device)).any(1)
        ended, scores = ended.view(-1, self.groups), scores.view(-1, self.groups, scores.shape[-1]).clone()
        taken = torch.zeros_like(scores[:, 0])
        for group in range(self.groups):
            scores[:, group] -= self.penalty * taken
            choice = scores[:, group].argmax(-1, keepdim=True)
            taken.scatter_add_(1, choice, (~ended[:, group, None]).to(taken.dtype))
        return scores.flatten(0, 1)
