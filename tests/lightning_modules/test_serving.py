"""The serving engine around a model: what it delivers, what it refuses, and what it leaves as it was."""

import copy
import random
import sys

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from datamodules.batches import LoadRequest, Workload
from datamodules.wrong_input import WrongInput
from lightning_modules import ServingModule
from lightning_modules.language_model import build_language_model
from lightning_modules.serving import Engine, serve

SMALL = {"max_batch_tokens": 32, "max_requests": 4, "cache_tokens": 512}


def workload(requests, scheduler="fifo", seed=0):
    return Workload("w", "m", scheduler, None, 1.0, seed, None, requests)


def burst(tokenizer, count=6, most=5, measured=lambda n: True):
    ids = [tokenizer("The lowest price is 4 crowns.")["input_ids"] + [5 + n] for n in range(count)]
    return [LoadRequest(str(n), 0.02 * n, ids[n], most, measured(n)) for n in range(count)]


def random_states():
    legacy = np.random.get_state()[1].tolist()  # noqa: NPY002 (it is what libraries draw from)
    return torch.get_rng_state().tolist(), random.getstate(), legacy


@pytest.fixture
def model(model_folder, tokenizer):
    return build_language_model(str(model_folder("qwen2")), tokenizer)


@pytest.mark.parametrize("scheduler", ["fifo", "prefill_first"])
def test_every_measured_request_comes_with_a_time_for_each_token(model, tokenizer, scheduler):
    requests = burst(tokenizer, measured=lambda n: n >= 2)
    served = serve(model, tokenizer, workload(requests, scheduler), Engine(ignore_eos=True, **SMALL))
    assert {one.request_id for one in served} == {"2", "3", "4", "5"}
    for one in served:
        assert one.status == "ok"
        assert one.output_tokens == one.expected_tokens == len(one.token_s) == 5
        assert one.submit_s == 0.02 * int(one.request_id)
        assert one.token_s == sorted(one.token_s)
        assert one.token_s[0] > 0


def test_greedy_answers_are_those_of_generate(model, tokenizer, monkeypatch):
    requests = burst(tokenizer, count=3, most=6)
    seen = {}
    engine_room = sys.modules["lightning_modules.serving.serve"]  # the package gives its function that name
    real = engine_room._exchange

    def watched(manager, *rest):
        deliver = manager.output_router.deliver_batch

        def noted(outputs):
            seen.update({one.request_id: one.generated_tokens for one in outputs})
            deliver(outputs)

        manager.output_router.deliver_batch = noted
        return real(manager, *rest)

    monkeypatch.setattr(engine_room, "_exchange", watched)
    serve(model, tokenizer, workload(requests), Engine(temperature=0.0, ignore_eos=True, **SMALL))
    for request in requests:
        given = torch.tensor([request.input_ids])
        config = GenerationConfig(max_new_tokens=6, do_sample=False, eos_token_id=-1, pad_token_id=0)
        model.generation_config = GenerationConfig()
        made = model.generate(given, attention_mask=torch.ones_like(given), generation_config=config)
        assert seen[request.request_id] == made[0, given.shape[1] :].tolist()


@pytest.mark.parametrize("ignored", [True, False])
def test_answers_end_at_a_stop_token_unless_it_is_ignored(model, tokenizer, ignored):
    model.generation_config.eos_token_id = list(range(500))  # half of the vocabulary: about every other token
    requests = burst(tokenizer, most=100)
    engine = Engine(temperature=5.0, ignore_eos=ignored, **SMALL | {"cache_tokens": 2048})
    lengths = [one.output_tokens for one in serve(model, tokenizer, workload(requests), engine)]
    assert lengths == [100] * 6 if ignored else 1 <= min(lengths) <= max(lengths) < 50


def test_a_late_answer_does_not_delay_the_next_request(model, tokenizer):
    """Open loop: the clock sends. With room for one request the others wait, and their time counts from when due."""
    requests = [LoadRequest(str(n), 0.0, [7, 8, 9], 20, True) for n in range(4)]
    engine = Engine(max_batch_tokens=8, max_requests=1, cache_tokens=128, ignore_eos=True)
    served = sorted(serve(model, tokenizer, workload(requests), engine), key=lambda one: one.token_s[0])
    for before, after in zip(served, served[1:], strict=False):
        assert after.token_s[0] > before.token_s[-1]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_model_and_process_are_as_before_to_the_bit(model, tokenizer, training, attention):
    model.set_attn_implementation(attention)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train(training)
    model.lm_head.eval()
    weights = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    config, generation = model.config.to_json_string(), model.generation_config.to_dict()
    states = random_states()
    serve(model, tokenizer, workload(burst(tokenizer)), Engine(**SMALL))
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in weights.items())
    assert [module.training for module in model.modules()] == modes
    assert model.config._attn_implementation == attention
    assert model.is_gradient_checkpointing
    assert (model.config.to_json_string(), model.generation_config.to_dict()) == (config, generation)
    assert random_states() == states
    assert torch.is_grad_enabled()


def test_it_serves_within_inference_mode(model, tokenizer):
    with torch.inference_mode():
        assert len(serve(model, tokenizer, workload(burst(tokenizer)), Engine(**SMALL))) == 6
        assert torch.is_inference_mode_enabled()


def test_what_is_open_when_the_time_is_up_is_cancelled_with_its_tokens(model, tokenizer):
    requests = [*burst(tokenizer, count=1, most=3), LoadRequest("late", 60.0, [7, 8], 3, True)]
    served = serve(model, tokenizer, workload(requests), Engine(ignore_eos=True, time_limit_s=1.0, **SMALL))
    assert [(one.request_id, one.status, one.output_tokens) for one in served] == [
        ("0", "ok", 3),
        ("late", "cancelled", 0),
    ]


def test_an_engine_that_dies_leaves_its_requests_as_failed(model, tokenizer, monkeypatch):
    calls = []
    forward = model.forward

    def breaks(*args, **kwargs):
        calls.append(1)
        if len(calls) > 3:
            raise RuntimeError("out of luck")
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", breaks)
    served = serve(model, tokenizer, workload(burst(tokenizer, most=20)), Engine(ignore_eos=True, **SMALL))
    assert len(served) == 6
    assert {one.status for one in served} == {"failed"}
    assert any("out of luck" in one.error for one in served)
    assert any(one.token_s for one in served)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scheduler": "lifo"}, "unknown scheduler 'lifo'"),
        ({"requests": [LoadRequest("long", 0.0, [5] * 300, 5, True)]}, "request long needs 305 tokens"),
    ],
)
def test_what_cannot_be_served_is_refused(model, tokenizer, change, said):
    with pytest.raises(WrongInput, match=said):
        serve(model, tokenizer, workload(burst(tokenizer))._replace(**change), Engine(**SMALL))


@pytest.mark.parametrize(
    "wrong", [{"max_requests": 0}, {"temperature": -1.0}, {"time_limit_s": 0.0}, {"page_tokens": 2}]
)
def test_engines_that_cannot_run_are_refused(wrong):
    with pytest.raises(WrongInput, match="no such engine"):
        Engine(**wrong)


def test_the_module_serves_several_models_in_turn(model_folder, tokenizer):
    folders = {"a": str(model_folder("qwen2")), "b": str(model_folder("llama"))}
    module = ServingModule(folders, tokenizer, Engine(ignore_eos=True, **SMALL))
    for name in folders:
        served = module.predict_step(workload(burst(tokenizer, count=2))._replace(model=name), 0)
        assert [one.output_tokens for one in served] == [5, 5]
