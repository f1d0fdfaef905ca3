"""RAST (arXiv 2310.14503): question generation by retrieved style templates, with a policy and a retriever."""

from lightning_modules.rast.asking import AskingModule
from lightning_modules.rast.decoding import beam_search, diverse_beam_search, sampled
from lightning_modules.rast.methods import Plain, Styled
from lightning_modules.rast.module import RASTModule
from lightning_modules.rast.retriever import StyleRetriever
from lightning_modules.rast.rewards import Diversity, consistency
from lightning_modules.rast.settings import check_asking, check_methods, check_rl

__all__ = [
    "AskingModule",
    "Diversity",
    "Plain",
    "RASTModule",
    "StyleRetriever",
    "Styled",
    "beam_search",
    "check_asking",
    "check_methods",
    "check_rl",
    "consistency",
    "diverse_beam_search",
    "sampled",
]
