"""How large batches and rows may be, checked before any stage runs."""

from typing import Any

from datamodules.wrong_input import WrongInput


def check_batches(
    *, batch_size: Any = 1, max_length: Any = None, token_budget: Any = None, sort_window: Any = 1
) -> None:
    """Refuse settings that no batch could have.

    Args:
        batch_size: Rows or pairs a batch and process.
        max_length: Tokens of prompt and response; None: not asked.
        token_budget: Tokens a packed row; None: one row a batch.
        sort_window: Steps whose rows are sorted by length among them.

    Raises:
        WrongInput: One of them is no whole number, or too small.
    """
    if not _from(1, batch_size):
        raise WrongInput(f"batches of {batch_size!r}", "batch_size", "set 1 or more")
    if max_length is not None and not _from(2, max_length):
        mend = "set 2 or more: a prompt has a token, and its response too"
        raise WrongInput(f"rows of {max_length!r} tokens at most", "max_length", mend)
    if token_budget is not None and not _from(1, token_budget):
        raise WrongInput(f"a row of {token_budget!r} tokens", "token_budget", "set 1 or more, or null for one row")
    if not _from(1, sort_window):
        raise WrongInput(f"sorted among {sort_window!r} steps", "sort_window", "set 1 (not at all) or more")


def _from(least: int, value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
