"""The one exception that means: the user can mend this.

Raised anywhere, it ends a run with one line on standard error and exit code 2 (see ``train.py``).
"""


class WrongInput(Exception):
    """A wrong input or setting, told in one line: what is wrong, where, and the mend.

    Args:
        what: What is wrong, e.g. ``"the response is empty"``.
        where: The file and row, or the config key, e.g. ``"pairs.jsonl, row 12"``.
        mend: What to do about it, e.g. ``"drop the row or fill in its `chosen`"``.
    """

    exit_code = 2

    def __init__(self, what: str, where: str, mend: str):
        super().__init__(what, where, mend)  # all three, so that it survives pickling between processes
        self.what, self.where, self.mend = what, where, mend

    def __str__(self) -> str:
        """One line, whatever line breaks the parts brought along."""
        return " ".join(f"{self.what} ({self.where}): {self.mend}".split())


def check_switch(value: object, where: str) -> None:
    """Refuse what is neither true nor false: ``off`` and ``no`` are words to Hydra, and words count as true.

    Args:
        value: Of a switch.
        where: Its key.

    Raises:
        WrongInput: It is something else.
    """
    if not isinstance(value, bool):
        raise WrongInput(f"{where} is {value!r}", where, "true or false")
