"""Distribution-aware DPO (daDPO, arXiv 2506.15717): loss and module."""

from lightning_modules.dadpo.loss import DaDPOLoss, dadpo_loss, overshoot_factor
from lightning_modules.dadpo.module import DaDPOModule

__all__ = ["DaDPOLoss", "DaDPOModule", "dadpo_loss", "overshoot_factor"]
