"""Serving of workloads by transformers' continuous batching, by frozen models and by policies in training."""

from lightning_modules.serving.engine import Engine, check_schedulers
from lightning_modules.serving.module import ServingModule
from lightning_modules.serving.serve import Served, serve

__all__ = ["Engine", "Served", "ServingModule", "check_schedulers", "serve"]
