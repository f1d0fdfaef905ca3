"""Distribution-aware DPO (daDPO, arXiv 2506.15717): loss, variants and module."""

from lightning_modules.dadpo.loss import DaDPOLoss, dadpo_loss, overshoot_factor
from lightning_modules.dadpo.module import DaDPOModule
from lightning_modules.dadpo.settings import Variants, check_dadpo

__all__ = ["DaDPOLoss", "DaDPOModule", "Variants", "check_dadpo", "dadpo_loss", "overshoot_factor"]
