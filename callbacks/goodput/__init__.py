"""Smooth goodput: what a stream of tokens is worth to its reader (arXiv 2410.14257).

`timeline`, `functional`, `slo`, `companions` and `sketch` are functions on plain tensors; `metric`, `distributions` and
`collection` are torchmetrics over them. None of them needs more than torch and torchmetrics.
"""

from callbacks.goodput.collection import GoodputReport
from callbacks.goodput.functional import benefit, score_requests, smooth_goodput, user_idle_latency
from callbacks.goodput.metric import SmoothGoodput

__all__ = [
    "GoodputReport",
    "SmoothGoodput",
    "benefit",
    "score_requests",
    "smooth_goodput",
    "user_idle_latency",
]
