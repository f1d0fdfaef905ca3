"""Curves of rounds, one behind the other."""

from callbacks.report.rounds import in_a_row

CURVES = {
    "dsft": {"train/loss": ([1.0], [3.0])},
    "dadpo": {"train/loss": ([5.0, 10.0], [0.5, 0.4]), "val/loss": ([11.0], [0.6])},
    "dadpo_1": {"train/loss": ([5.0, 10.0], [0.9, 0.8]), "val/loss": ([12.0], [0.7])},
    "dadpo_2": {"train/loss": ([5.0], [0.7]), "train/lr": ([5.0], [1e-3])},
}
RAN = ["dsft/train/loss", "dadpo_1/pairs", "dadpo_2/pairs", "dadpo/pairs"]


def test_steps_count_on_over_the_rounds():
    found = in_a_row(CURVES, RAN)
    assert set(found) == {"dsft", "dadpo"}
    assert found["dadpo"] == {
        "train/loss": ([5.0, 10.0, 17.0, 22.0, 27.0], [0.9, 0.8, 0.7, 0.5, 0.4]),
        "val/loss": ([12.0, 28.0], [0.7, 0.6]),
        "train/lr": ([17.0], [1e-3]),
    }
    assert found["dsft"] == CURVES["dsft"]


def test_what_another_run_left_is_no_round_of_this_one():
    found = in_a_row(CURVES, ["dadpo/pairs", "dsft/train/loss"])
    assert found == CURVES


def test_rounds_that_were_not_all_run_are_not_joined():
    curves = {name: curve for name, curve in CURVES.items() if name != "dadpo_1"}
    assert in_a_row(curves, RAN) == curves
