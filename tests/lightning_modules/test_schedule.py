"""Learning rates: transformers' schedule, whole or in parts that make the whole."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_cosine_schedule_with_warmup

from datamodules.wrong_input import WrongInput
from lightning_modules.schedule import cosine_schedule


def optimizer(lr=0.3):
    return torch.optim.SGD([{"params": [torch.zeros(1)]}, {"params": [torch.zeros(1)], "lr": lr / 2}], lr=lr)


def rates(scheduler, steps):
    found = []
    for _ in range(steps):
        found.append([group["lr"] for group in scheduler.optimizer.param_groups])
        scheduler.optimizer.step()
        scheduler.step()
    return found


@given(steps=st.integers(1, 9), parts=st.integers(1, 4), warmup=st.sampled_from([0.0, 0.1, 0.3, 1.0]))
def test_parts_make_the_whole(steps, parts, warmup):
    whole = steps * parts
    theirs = rates(get_cosine_schedule_with_warmup(optimizer(), round(warmup * whole), whole), whole)
    ours = [
        rate for k in range(parts) for rate in rates(cosine_schedule(optimizer(), warmup, steps, (k + 1, parts)), steps)
    ]
    assert torch.tensor(ours).allclose(torch.tensor(theirs))


def test_one_that_is_gone_on_with_keeps_its_part():
    first = cosine_schedule(optimizer(), 0.1, 6, (2, 3))
    expected = rates(first, 6)
    again = cosine_schedule(optimizer(), 0.1, 6, (2, 3))
    rates(again, 2)
    resumed = cosine_schedule(optimizer(), 0.1, 6, (2, 3))
    resumed.load_state_dict(again.state_dict())
    resumed.optimizer.load_state_dict(again.optimizer.state_dict())
    assert torch.tensor(rates(resumed, 4)).allclose(torch.tensor(expected[2:]))


@pytest.mark.parametrize("part", [(0, 1), (2, 1), (1, 0)])
def test_a_part_that_there_is_not(part):
    with pytest.raises(WrongInput, match="no part"):
        cosine_schedule(optimizer(), 0.1, 4, part)
