"""The figures of an agreement against a loop and scipy, and what is said where nothing can be compared."""

import logging
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr

from callbacks.agreement import agreement
from callbacks.teacher_agreement import TeacherAgreement
from datamodules.wrong_input import WrongInput


def scores(seed, pairs=7, spread=1.0, like=None):
    rng = np.random.default_rng(seed)
    if like is None:
        lengths = rng.integers(1, 9, (pairs, 2))
        return [tuple((-rng.exponential(2, n)).tolist() for n in both) for both in lengths]
    return [tuple([x + spread * rng.normal() for x in side] for side in both) for both in like]


def test_figures_are_those_of_a_loop():
    full, reference = scores(0), scores(2)
    near = scores(1, like=full, spread=0.8)
    found = agreement(full, near, reference)
    apart, deltas = [], []
    for f, n, r in zip(full, near, reference, strict=True):
        apart += [abs(a - b) for x, y in zip(f, n, strict=True) for a, b in zip(x, y, strict=True)]
        deltas.append([(sum(t[0]) - sum(r[0])) - (sum(t[1]) - sum(r[1])) for t in (f, n)])
    d = np.array(deltas)
    assert found.pairs == 7
    assert found.tokens == len(apart)
    assert found.token_logp_mae == pytest.approx(np.mean(apart))
    assert found.delta_te_mae == pytest.approx(abs(d[:, 0] - d[:, 1]).mean())
    assert found.delta_te_max == pytest.approx(abs(d[:, 0] - d[:, 1]).max())
    assert found.delta_te_mean_abs == pytest.approx(abs(d[:, 0]).mean())
    assert found.delta_te_correlation == pytest.approx(pearsonr(*d.T).statistic)
    assert found.delta_te_sign_agreement == pytest.approx((np.sign(d[:, 0]) == np.sign(d[:, 1])).mean())
    assert 0 < found.delta_te_sign_agreement < 1 or found.delta_te_correlation < 0.999  # the case says something


def test_a_perfect_approximation_and_a_single_pair():
    full, reference = scores(3), scores(4)
    found = agreement(full, full, reference)
    assert found[2:5] == (0, 0, 0)
    assert found.delta_te_correlation == pytest.approx(1)
    assert found.delta_te_sign_agreement == 1
    assert math.isnan(agreement(full[:1], full[:1], reference[:1]).delta_te_correlation)


class Full(SimpleNamespace):
    """A module whose teacher in full does not fit."""

    def approximation(self, name):
        return "in nf4"

    def check_room(self, name):
        raise self.error


@pytest.mark.parametrize(
    "error", [WrongInput("its weights need 9 GiB", "the teacher", "…"), torch.OutOfMemoryError("CUDA out of memory\n…")]
)
def test_what_does_not_fit_is_said_or_refused(error, tmp_path, caplog):
    data = SimpleNamespace(
        frozen={"teacher": "somewhere"},
        sample=lambda name, count: iter(()),
        score_dtype="float32",
        cache=lambda name: SimpleNamespace(scorer=name),
        cache_dir=tmp_path,
    )
    trainer: Any = SimpleNamespace(is_global_zero=True, datamodule=data)
    auto = TeacherAgreement("auto")
    with caplog.at_level(logging.WARNING):
        auto.setup(trainer, Full(error=error), "predict")  # type: ignore[arg-type]
    assert "the teacher in nf4 is not compared with the full one: " in caplog.text
    assert auto.final_metrics == {}
    with pytest.raises(WrongInput, match="the full teacher cannot be run.*agreement_pairs"):
        TeacherAgreement(4).setup(trainer, Full(error=error), "predict")  # type: ignore[arg-type]
    none = TeacherAgreement(0)
    none.setup(trainer, Full(error=error), "predict")  # type: ignore[arg-type]
    assert none.final_metrics == {}
