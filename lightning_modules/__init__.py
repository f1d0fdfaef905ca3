"""How it learns: Lightning modules, with the maths beside them in pure files."""

from lightning_modules.answering import AnsweringModule
from lightning_modules.dadpo import DaDPOModule
from lightning_modules.fine_tuning import FineTuningModule
from lightning_modules.fluency import FluencyModule
from lightning_modules.pruning import PruningModule
from lightning_modules.rast import AskingModule, RASTModule
from lightning_modules.sampling import SamplingModule
from lightning_modules.scoring import ScoringModule
from lightning_modules.serving import ServingModule

__all__ = [
    "AnsweringModule",
    "AskingModule",
    "DaDPOModule",
    "FineTuningModule",
    "FluencyModule",
    "PruningModule",
    "RASTModule",
    "SamplingModule",
    "ScoringModule",
    "ServingModule",
]
