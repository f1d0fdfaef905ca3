"""Arrivals recorded from a real service, with the lengths of what was asked and answered."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
from numpy.typing import NDArray

from datamodules.wrong_input import WrongInput

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


class Trace(NamedTuple):
    """N recorded requests."""

    arrival_s: NDArray[np.float64]
    """(N,) seconds since the first, ascending."""
    context_tokens: NDArray[np.int64]
    """(N,) lengths of the prompts."""
    generated_tokens: NDArray[np.int64]
    """(N,) lengths of the answers."""

    @property
    def rate_rps(self) -> float:
        """Mean arrivals a second."""
        return (len(self.arrival_s) - 1) / float(self.arrival_s[-1])

    def since(self, start_s: float) -> "Trace":
        """The requests from a time on, which becomes 0; none if the trace is over by then."""
        first = int(np.searchsorted(self.arrival_s, start_s))
        return Trace(self.arrival_s[first:] - start_s, self.context_tokens[first:], self.generated_tokens[first:])

    def stretch(self, first: int, count: int) -> "Trace":
        """`count` requests from number `first` on, whose first is at 0; fewer if the trace is over by then."""
        times = self.arrival_s[first : first + count]
        lengths = self.context_tokens[first : first + count], self.generated_tokens[first : first + count]
        return Trace(times - times[:1], *lengths)


def read_trace(path: str | Path) -> Trace:
    """Read a trace in the format of Azure's public LLM traces: CSV with the columns of ``COLUMNS``.

    Args:
        path: The file. Its timestamps have a date, a time and any number of decimals, or are seconds.

    Raises:
        WrongInput: The file is not there, is no such CSV, goes backwards in time, or holds fewer than two requests.
    """
    try:
        table = csv.read_csv(path, convert_options=csv.ConvertOptions(column_types={"TIMESTAMP": pa.string()}))
        missing = [name for name in COLUMNS if name not in table.column_names]
        if missing:
            raise ValueError(f"no column {', '.join(missing)}")
        counts = [table[name].cast(pa.int64()).to_numpy() for name in COLUMNS[1:]]
        times = _seconds(table["TIMESTAMP"])
    except (OSError, ValueError) as error:  # pyarrow's errors are of these kinds
        reason = str(error).splitlines()[0]
        mend = f"give a CSV with the columns {', '.join(COLUMNS)}"
        raise WrongInput(f"not readable as a trace: {reason}", str(path), mend) from error
    if len(times) < 2 or times[-1] == times[0]:
        raise WrongInput("the trace holds no two requests at different times", str(path), "give a longer one")
    if (back := np.flatnonzero(np.diff(times) < 0)).size:
        raise WrongInput("time goes backwards", f"{path}, row {back[0] + 3}", "sort the rows by TIMESTAMP")
    for name, count in zip(COLUMNS[1:], counts, strict=True):
        if (wrong := np.flatnonzero(count < 1)).size:
            raise WrongInput(f"{name} is {count[wrong[0]]}", f"{path}, row {wrong[0] + 2}", "give lengths of 1 or more")
    return Trace(times - times[0], *counts)


def _seconds(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """Timestamps as seconds."""
    told = column.to_numpy().astype(str)
    try:
        return told.astype(np.float64)
    except ValueError:
        return told.astype("datetime64[ns]").astype(np.int64) / 1e9
