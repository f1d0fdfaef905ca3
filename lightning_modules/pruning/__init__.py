"""Students by pruning: whole heads, channels and hidden units taken out of a teacher, by what calibration rows say."""

from lightning_modules.pruning.module import PruningModule
from lightning_modules.pruning.plan import Widths
from lightning_modules.pruning.settings import check_pruning, pruned_skeleton

__all__ = ["PruningModule", "Widths", "check_pruning", "pruned_skeleton"]
