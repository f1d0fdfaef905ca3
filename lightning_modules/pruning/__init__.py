"""Students by pruning: whole heads, channels and hidden units taken out of a teacher, by what calibration rows say."""

from lightning_modules.pruning.module import PruningModule
from lightning_modules.pruning.plan import Widths

__all__ = ["PruningModule", "Widths"]
