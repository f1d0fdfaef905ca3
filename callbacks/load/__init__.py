"""Load on a served model: `endpoint` sees that it is there, `aiperf` makes the load, `callback` keeps the logs."""

from callbacks.load.callback import LoadCallback

__all__ = ["LoadCallback"]
