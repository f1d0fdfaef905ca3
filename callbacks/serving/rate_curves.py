"""From the scored logs of a load test to curves over the rate: smooth goodput rises, peaks, and falls."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from lightning import Callback, LightningModule, Trainer

from datamodules.responses import ResponseLog, replace_file
from datamodules.wrong_input import WrongInput

FIGURES = (
    "smooth_goodput_tps",
    "token_throughput_tps",
    "goodput_ttft_tbt_tps",
    "attainment_reading",
    "idle_mean_s",
    "idle_p50_s",
    "idle_p99_s",
    "ttft_p99_s",
    "tbt_p99_s",
    "requests",
    "requests_failed",
)
"""What is told of each rate."""


class Spread(NamedTuple):
    """One figure over the seeds."""

    mean: float
    low: float
    high: float


class RateCurves(Callback):
    """Gathers the logs of ``ServedLogs`` after ``GoodputLogsCallback`` has scored them, seeds together.

    Leaves a curve for each model and scheduler in its file, and ``final_metrics``: at each rate
    ``MODEL-SCHEDULER/loadX/NAME`` (or ``rateX``; mean over seeds, ``_low`` and ``_high`` their range),
    ``MODEL-SCHEDULER/peak_smooth_goodput_tps`` and ``…/peak_rps`` where smooth goodput is highest, and
    ``…/peak_rps_alpha_A`` where it would be with another alpha; with `against`, see `beside_the_quality`.

    Args:
        scores: ``goodput.json`` of the logs.
        index: ``ServedLogs``'s.
        path: Where the curves go, JSON.
        against: The model that the others are held against.
    """

    def __init__(self, scores: str | Path, index: str | Path, path: str | Path, against: str | None = None):
        self.scores, self.index, self.path, self.against = Path(scores), Path(index), Path(path), against
        self.final_metrics: dict[str, float] = {}

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read, gather, write."""
        content = json.loads(self.scores.read_text(encoding="utf-8"))
        index = ResponseLog(self.index).read()
        unknown = [log["name"] for log in content["logs"] if log["name"] not in index]
        if unknown:
            raise WrongInput(f"no line about the log {unknown[0]}", str(self.index), "run the stage `serve` anew")
        served = [(index[log["name"]], log) for log in content["logs"]]
        curves = gather_curves(served, content["settings"]["reading_speed_tps"], content["settings"]["alpha"])
        self.final_metrics = dict(curve_metrics(curves)) | beside_the_quality(curves, self.against)
        replace_file(self.path, json.dumps({"settings": content["settings"], "curves": curves}) + "\n")


def gather_curves(
    served: Sequence[tuple[dict[str, Any], dict[str, Any]]], speed_tps: float, alpha: float
) -> list[dict[str, Any]]:
    """Curves by model and scheduler.

    Args:
        served: A line of the index and the scores of that log, for each workload.
        speed_tps: Reading speed of the scores, tokens a second.
        alpha: Of the scores.

    Returns:
        For each curve: ``model``, ``scheduler``, ``points`` by rate (``name``, ``load``, ``rps`` as offered, figures as
        `Spread`, ``by_alpha`` means of smooth goodput, ``by_seed``), ``peaks`` by alpha (index into the points).
    """
    groups: dict[tuple[str, str], dict[float, list]] = {}
    for line, log in served:
        rates = groups.setdefault((line["model"], line["scheduler"]), {})
        rates.setdefault(line["rate_rps"], []).append((line, log))
    curves = []
    for (model, scheduler), rates in groups.items():
        points = [_point(rates[rate], speed_tps, alpha) for rate in sorted(rates)]
        alphas = sorted(points[0]["by_alpha"], key=float)
        peaks = {a: max(range(len(points)), key=lambda n, a=a: points[n]["by_alpha"][a]) for a in alphas}
        curves.append({"model": model, "scheduler": scheduler, "alpha": f"{alpha:g}", "points": points, "peaks": peaks})
    return curves


def _point(runs: list[tuple[dict[str, Any], dict[str, Any]]], speed_tps: float, alpha: float) -> dict[str, Any]:
    """One rate, its seeds together."""
    line = runs[0][0]
    name = f"load{line['load']:g}" if line["load"] is not None else f"rate{line['rate_rps']:.4g}"
    figures = {}
    for figure in FIGURES:
        values = [value for _, log in runs if (value := log["metrics"].get(figure)) is not None]
        if values:
            figures[figure] = Spread(fmean(values), min(values), max(values))._asdict()
    grids = [log["readers"] for _, log in runs]
    column = grids[0]["speeds_tps"].index(speed_tps)
    by_alpha = {
        f"{value:g}": fmean(grid["smooth_goodput_tps"][row][column] for grid in grids)
        for row, value in enumerate(grids[0]["alphas"])
    }
    offered = [one["offered_rps"] for one, _ in runs if one["offered_rps"] is not None]
    return {
        "name": name,
        "load": line["load"],
        "rate_rps": line["rate_rps"],
        "rps": fmean(offered) if offered else line["rate_rps"],
        "time_scale": None if line["time_scale"] is None else fmean(one["time_scale"] for one, _ in runs),
        "figures": figures,
        "by_alpha": by_alpha,
        "by_seed": {str(one["seed"]): log["metrics"]["smooth_goodput_tps"] for one, log in runs},
    }


def curve_metrics(curves: Sequence[dict[str, Any]]) -> list[tuple[str, float]]:
    """Every number of the curves by name."""
    told: list[tuple[str, float]] = []
    for curve in curves:
        name = f"{curve['model']}-{curve['scheduler']}"
        for point in curve["points"]:
            told.append((f"{name}/{point['name']}/offered_rps", point["rps"]))
            for figure, spread in point["figures"].items():
                told.append((f"{name}/{point['name']}/{figure}", spread["mean"]))
            worth = point["figures"]["smooth_goodput_tps"]
            told += [(f"{name}/{point['name']}/smooth_goodput_tps_{end}", worth[end]) for end in ("low", "high")]
        best = curve["points"][curve["peaks"][curve["alpha"]]]
        told.append((f"{name}/peak_smooth_goodput_tps", best["figures"]["smooth_goodput_tps"]["mean"]))
        told.append((f"{name}/peak_rps", best["rps"]))
        told += [(f"{name}/peak_rps_alpha_{a}", curve["points"][n]["rps"]) for a, n in curve["peaks"].items()]
    return told


def beside_the_quality(curves: Sequence[dict[str, Any]], against: str | None) -> dict[str, float]:
    """Smooth goodput of each model at its best rate, by the names that its quality is told under.

    Args:
        curves: Of `gather_curves`; of several schedulers the first counts.
        against: The model that the others are held against; with None there is nothing to be told.

    Returns:
        ``teacher/peak_smooth_goodput_tps`` for `against`; for another model ``student/MODEL/`` the same, and
        ``peak_goodput_ratio``: how many times it serves what `against` does, each at its best rate, the mean over the
        seeds, with their range ``_low`` and ``_high``. No ratio where the other's peak is not above 0.
    """
    best: dict[str, dict[str, Any]] = {}
    for curve in curves:
        best.setdefault(curve["model"], curve["points"][curve["peaks"][curve["alpha"]]])
    if against is None or against not in best:
        return {}
    other, told = best[against]["by_seed"], {}
    for model, point in best.items():
        name = "teacher" if model == against else f"student/{model}"
        told[f"{name}/peak_smooth_goodput_tps"] = point["figures"]["smooth_goodput_tps"]["mean"]
        ratios = [worth / other[seed] for seed, worth in point["by_seed"].items() if other.get(seed, 0.0) > 0]
        if ratios and model != against:
            key = f"{name}/peak_goodput_ratio"
            told |= {key: fmean(ratios), f"{key}_low": min(ratios), f"{key}_high": max(ratios)}
    return told
