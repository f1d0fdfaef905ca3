"""RAST (arXiv 2310.14503): question generation by retrieved style templates, with a policy and a retriever."""

from lightning_modules.rast.module import RASTModule
from lightning_modules.rast.retriever import StyleRetriever
from lightning_modules.rast.rewards import Diversity, consistency

__all__ = ["Diversity", "RASTModule", "StyleRetriever", "consistency"]
