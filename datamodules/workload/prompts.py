"""What served requests ask: prompts by chance, or cut and stretched to recorded lengths."""

import numpy as np
from transformers import PreTrainedTokenizerBase

from datamodules.batches import LoadRequest
from datamodules.encoding import encode_prompt
from datamodules.pairs import RowSource, open_rows, read_prompt, source_name
from datamodules.workload.trace import Trace
from datamodules.wrong_input import WrongInput


class PromptPool:
    """Encoded prompts to draw requests from.

    Args:
        data: Rows with ``prompt``.
        tokenizer: Of the served models.
        max_length: Tokens of prompt and answer; what is longer is refused, and recorded lengths are cut to it.
        max_new_tokens: Of an answer.

    Raises:
        WrongInput: There are no prompts, or one is wrong or too long.
    """

    def __init__(
        self,
        data: RowSource,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int = 2048,
        max_new_tokens: int = 256,
    ):
        if not 1 <= max_new_tokens < max_length:
            what = f"answers of {max_new_tokens} tokens within {max_length} of prompt and answer"
            raise WrongInput(what, "max_new_tokens, max_length", "give 1 ≤ max_new_tokens < max_length")
        self.max_length, self.max_new_tokens = max_length, max_new_tokens
        self.prompts = [encode_prompt(tokenizer, read_prompt(row), row.place, max_length) for row in open_rows(data)]
        if not self.prompts:
            raise WrongInput("there are no prompts", source_name(data), "give rows with a `prompt`")

    def requests(
        self, arrivals: np.ndarray, seed: int, *, warmup_s: float = 0.0, trace: Trace | None = None
    ) -> list[LoadRequest]:
        """A request for each arrival.

        Args:
            arrivals: (n,) seconds, ascending.
            seed: Of the draw of prompts; independent of that of the arrivals.
            warmup_s: Requests before it are not measured.
            trace: Gives request i the lengths of its i-th: prompts are repeated or cut to fit.
        """
        drawn = np.random.default_rng([seed, 1]).integers(len(self.prompts), size=len(arrivals))
        requests = []
        for number, (arrival, index) in enumerate(zip(arrivals.tolist(), drawn.tolist(), strict=True)):
            ids, most = self.prompts[index], self.max_new_tokens
            if trace is not None:
                most = min(int(trace.generated_tokens[number]), most)
                length = min(int(trace.context_tokens[number]), self.max_length - most)
                ids = (ids * -(-length // len(ids)))[:length]
            most = min(most, self.max_length - len(ids))
            requests.append(LoadRequest(f"{number}", arrival, ids, most, arrival >= warmup_s))
        return requests
