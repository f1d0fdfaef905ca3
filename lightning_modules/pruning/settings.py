"""What a student by pruning will be, and whether it can be, before any weights are read."""

from collections.abc import Collection, Mapping
from pathlib import Path

from transformers import PreTrainedModel

from datamodules.wrong_input import WrongInput
from lightning_modules.language_model import build_skeleton
from lightning_modules.loading import ModelSource
from lightning_modules.pruning.groups import IMPORTANCES, torch_pruning
from lightning_modules.pruning.surgery import check_prunable, check_widths, plan_widths, with_widths


def check_pruning(
    *,
    ratio: float,
    importance: str,
    widths: Collection[str],
    multiple_of: int = 1,
    rows: int | None = None,
    model: ModelSource | None = None,
) -> None:
    """Refuse settings before any stage runs; arguments: see ``PruningModule``.

    Args:
        ratio: Share of all parameters to take out.
        importance: One of ``IMPORTANCES``.
        widths: Which are pruned.
        multiple_of: Of hidden and intermediate sizes.
        rows: How many are read to calibrate; None: all.
        model: What is pruned; looked into where its folder is here.

    Raises:
        WrongInput: A setting that cannot be, a model that cannot be pruned so, or Torch-Pruning is not installed.
    """
    if importance not in IMPORTANCES:
        raise WrongInput(f"unknown importance {importance!r}", "importance", f"one of {', '.join(IMPORTANCES)}")
    check_widths(ratio, widths, multiple_of)
    if rows is not None and (isinstance(rows, bool) or not isinstance(rows, int) or rows < 1):
        raise WrongInput(f"{rows!r} rows were asked for", "calibration_rows", "at least 1, or null for all")
    torch_pruning()
    if isinstance(model, Mapping) or (model is not None and Path(model).is_dir()):
        skeleton = build_skeleton(model)
        check_prunable(skeleton)
        plan_widths(skeleton, ratio, widths, multiple_of)


def pruned_skeleton(
    skeleton: PreTrainedModel, ratio: float, widths: Collection[str], multiple_of: int = 1
) -> PreTrainedModel:
    """What is left of a model without weights when it is pruned: a model without weights; see ``PruningModule``.

    Raises:
        WrongInput: It cannot be pruned so.
    """
    check_prunable(skeleton)
    return with_widths(skeleton, plan_widths(skeleton, ratio, widths, multiple_of))
