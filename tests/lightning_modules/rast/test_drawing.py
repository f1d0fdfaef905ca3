"""Drawing one template a cluster: which, how often, and with what log-probability."""

import pytest
import torch

from lightning_modules.rast.drawing import draw_templates

LOGPS = torch.tensor([0.3, 0.25, 0.2, 0.15, 0.1], dtype=torch.float64).log().requires_grad_()
LABELS = [7, 2, 7, 9, 2]


def draws(labels, count, rows=4000, seed=0):
    given = None if labels is None else [labels] * rows
    return draw_templates(LOGPS.expand(rows, 5), given, count, torch.Generator().manual_seed(seed))


def test_one_a_cluster_in_the_order_of_their_best_candidates():
    drawn = draws(LABELS, 3)
    assert drawn.clusters[0].tolist() == [0, 1, 2]
    for column, members in enumerate([{0, 2}, {1, 4}, {3}]):
        assert set(drawn.positions[:, column].tolist()) == members
    assert all(len(set(row)) == 3 for row in drawn.positions.tolist())


def test_within_a_cluster_it_draws_by_the_policy():
    drawn = draws(LABELS, 3)
    assert (drawn.positions[:, 0] == 0).double().mean() == pytest.approx(0.6, abs=0.03)
    assert (drawn.positions[:, 1] == 1).double().mean() == pytest.approx(0.25 / 0.35, abs=0.03)


def test_log_probabilities():
    drawn = draws(LABELS, 3, rows=50)
    p = LOGPS.exp().tolist()
    mass = [p[0] + p[2], p[1] + p[4], p[3]]
    for i, row in enumerate(drawn.positions.tolist()):
        for k, z in enumerate(row):
            assert drawn.within_logps[i, k].exp().item() == pytest.approx(p[z] / mass[k])
            assert drawn.cluster_logps[i, k].exp().item() == pytest.approx(mass[k])
            assert drawn.weights[i, k].item() == pytest.approx(mass[k])
    whole = drawn.within_logps + drawn.cluster_logps
    torch.testing.assert_close(whole, LOGPS.expand(50, 5).gather(1, drawn.positions))
    assert whole.requires_grad
    assert not drawn.weights.requires_grad


def test_fewer_clusters_than_draws_share_their_weight():
    drawn = draws([0, 0, 1, 1, 1], 3, rows=50)
    assert drawn.clusters[0].tolist() == [0, 1, 0]
    torch.testing.assert_close(drawn.weights[0], torch.tensor([0.275, 0.45, 0.275], dtype=torch.float64))


def test_without_clusters_draws_are_independent():
    drawn = draws(None, 3)
    for column in range(3):
        shares = torch.bincount(drawn.positions[:, column], minlength=5) / 4000
        torch.testing.assert_close(shares.double(), LOGPS.detach().exp(), rtol=0, atol=0.03)
    assert (drawn.positions[:, 0] == drawn.positions[:, 1]).any()
    torch.testing.assert_close(drawn.weights, torch.full((4000, 3), 1 / 3, dtype=torch.float64))
    assert drawn.cluster_logps.abs().max() < 1e-12


def test_the_generator_decides():
    assert torch.equal(draws(LABELS, 3).positions, draws(LABELS, 3).positions)
    assert not torch.equal(draws(LABELS, 3).positions, draws(LABELS, 3, seed=1).positions)


def test_wrong_labels():
    with pytest.raises(ValueError, match="up to 3 clusters for 1 of 2 draws"):
        draws(LABELS, 2, rows=1)
    with pytest.raises(ValueError, match="4 labels for 5 candidates"):
        draws(LABELS[:4], 3, rows=1)
    with pytest.raises(ValueError, match=r"logps must be \(B, C\)"):
        draw_templates(LOGPS, None, 2)
