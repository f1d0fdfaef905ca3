"""Loads that cannot be are refused from their settings alone, as the data module refuses them."""

import inspect

import pytest

from datamodules.workload import WorkloadDataModule, check_load
from datamodules.workload.offered_load import OfferedRates, offered_rates
from datamodules.wrong_input import WrongInput

GOOD = {
    "models": ["student", "teacher"],
    "seeds": [0, 1],
    "duration_s": 2.0,
    "warmup_s": 0.5,
    "loads": [0.5, 2],
    "rates": None,
    "time_scales": None,
    "trace": None,
    "relative_to": "teacher",
}
WRONG = [
    ({"loads": None}, "0 of loads, rates and time_scales"),
    ({"rates": [1.0]}, "2 of loads, rates and time_scales"),
    ({"loads": []}, r"loads are \[\]"),
    ({"loads": [0.5, 0]}, r"loads are \[0.5, 0.0\]"),
    ({"loads": [float("nan")]}, "loads are"),
    ({"loads": None, "rates": [float("inf")]}, "rates are"),
    ({"loads": None, "time_scales": [1.0]}, "time_scales without a trace"),
    ({"seeds": []}, r"seeds \[\]"),
    ({"duration_s": 0}, "duration_s 0"),
    ({"warmup_s": -1}, "warmup_s -1"),
]


def test_what_can_be_passes():
    check_load(**GOOD)
    check_load(**GOOD | {"loads": None, "rates": [3], "relative_to": "none of these"})  # it is not asked for
    assert offered_rates(None, [3], None, None) == OfferedRates("rates", [3.0])


@pytest.mark.parametrize(("changed", "said"), WRONG)
def test_what_cannot_be_is_refused_here_and_by_the_data_module(changed, said, tmp_path):
    settings = GOOD | changed
    with pytest.raises(WrongInput, match=said):
        check_load(**settings)
    takes = inspect.signature(WorkloadDataModule).parameters
    rest = {name: value for name, value in settings.items() if name in takes and name != "models"}
    with pytest.raises(WrongInput, match=said):
        WorkloadDataModule(None, settings["models"], ["fifo"], folder=tmp_path, **rest)


def test_a_trace_and_a_model_that_are_not_there():
    with pytest.raises(WrongInput, match=r"nowhere\.csv.*check trace="):
        check_load(**GOOD | {"trace": "nowhere.csv"})
    with pytest.raises(WrongInput, match="no capacity of big .*name one of student, teacher"):
        check_load(**GOOD | {"relative_to": "big"})
