"""What goes to the host by the plan, against what did go."""

import contextlib

import pytest
import torch

from callbacks.run.estimate.fitting import mend, peak_bytes
from callbacks.run.estimate.memory import Batch, Precision, activation_bytes, around_bytes
from callbacks.run.estimate.models import Policy
from callbacks.run.estimate.offload import moving_bytes, offloaded
from callbacks.run.estimate.shape import shape_of
from callbacks.run.estimate.tokens import Sequences
from callbacks.run.estimate.training import training_moments
from callbacks.run.estimate.work import Work
from lightning_modules.activation_offload import ActivationOffload
from lightning_modules.host_copies import COPIES
from lightning_modules.language_model import build_language_model, hidden_states
from tests.callbacks.run.estimate.test_memory import FIELDS, LENGTH, ROWS
from tests.lightning_modules.late_copies import LateCopies

ONE_A_TOKEN = ROWS * LENGTH * 4
READ = Batch(ROWS, LENGTH, 60)


def went(model, autocast, monkeypatch) -> int:
    made = []
    monkeypatch.setitem(COPIES, "cpu", lambda device: made.append(LateCopies(device)) or made[-1])
    ActivationOffload(model, smallest=ONE_A_TOKEN + 1)
    ids = torch.full((ROWS, LENGTH), 5)
    mask = torch.ones_like(ids)
    mask[0, -7:] = 0
    with torch.autocast("cpu", dtype=torch.bfloat16) if autocast else contextlib.nullcontext():
        hidden_states(model, ids, mask)
    return made[0].went


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", [Precision(4, 4), Precision(4, 2), Precision(2, 2)])
@pytest.mark.parametrize("family", ["qwen2", "llama", "gemma2"])
def test_what_a_layer_sends(family, precision, checkpointing, tokenizer, monkeypatch):
    dtype = "float32" if precision.weights == 4 else "bfloat16"
    build = {"dtype": dtype, "gradient_checkpointing": checkpointing}
    fields = [{**FIELDS, "model_type": family, "num_hidden_layers": n} for n in (1, 2)]
    models = [build_language_model(one, tokenizer, **build).train() for one in fields]
    one, two = (went(model, precision.autocast, monkeypatch) for model in models)
    shape = shape_of(models[0])
    tolerance = 0.12 if family == "gemma2" else 0.02  # some of its scores are cut, and kept twice
    assert moving_bytes(shape, READ, precision, checkpointing) == pytest.approx(two - one, rel=tolerance)


def test_two_layers_stay_and_all_go(tokenizer):
    shape = shape_of(build_language_model({**FIELDS, "model_type": "qwen2", "num_hidden_layers": 8}, tokenizer))
    width = ROWS * LENGTH * 32 * 4
    around = around_bytes(shape, READ, Precision())
    assert offloaded(shape, READ, Precision(), True) == (2 * width + around, 8 * width)
    plain = activation_bytes(shape, READ, Precision(), False)
    here, host = offloaded(shape, READ, Precision(), False)
    assert here + host == pytest.approx(plain + host / 4)
    one = Policy(shape, Precision(), 600, False, False, 2, cuda=True)
    forward = training_moments(one, READ)["forward"]["activations"]
    assert training_moments(one._replace(offload=True), READ)["forward"]["activations"] == here < forward == plain


def test_it_is_offered_on_a_gpu_only(tokenizer):
    shape = shape_of(build_language_model({**FIELDS, "model_type": "qwen2", "num_hidden_layers": 32}, tokenizer))
    policy = Policy(shape, Precision(), 600, True, False, 2, cuda=True)
    rows = [Sequences(200, (600, 400))] * 64
    work = Work("training", {}, rows, 64, 1, 600, True, policy=policy)
    least = peak_bytes(work._replace(policy=policy._replace(offload=True)), 0.0, 0.0)[1]
    assert least < peak_bytes(work, 0.0, 0.0)[1]
    assert mend(work, least, 0.0, 0.0) == "set activation_offload=true"
    on_a_cpu = work._replace(cuda=False, policy=policy._replace(cuda=False))
    assert "activation_offload" not in mend(on_a_cpu, least, 0.0, 0.0)
