"""A rollout: what is retrieved, written and marked, once each."""

import math

import pytest
import torch

from lightning_modules.rast.objective import objective
from lightning_modules.rast.rewards import jaccard
from tests.lightning_modules.rast.rollouts import GREEDY, rollout_of


@pytest.mark.parametrize("pass_cost", [0, 1000])
def test_rewards_are_the_naive_ones(pass_cost, rast, question_batch, monkeypatch):
    """Each length by itself, or all questions together."""
    module, passes = rast(), []
    module.configure_model()
    module._frozen.qa.get_encoder().register_forward_hook(lambda *_: passes.append("encode"))
    monkeypatch.setattr("lightning_modules.rast.writing.pass_tokens", lambda device: pass_cost)
    rollout = rollout_of(module, question_batch())
    assert (len(passes) > 1) == (pass_cost == 0)
    qa, tokenizer, encoder = module._frozen.qa, module.tokenizer, module.questioner.encoder
    for i, example in enumerate(rollout.asked.examples):
        question, template = rollout.asked.questions[i], rollout.asked.templates[i]
        ids = torch.tensor([encoder.qa(example.context, question)])
        labels = torch.tensor([encoder.ids(example.answer)])
        cost = qa(input_ids=ids, labels=labels).loss
        assert rollout.parts["consistency"].flatten()[i].item() == pytest.approx(math.exp(-cost), rel=1e-4)
        overlap = jaccard(set(question.split()), set(template.replace("[MASK]", "").split()))
        assert rollout.parts["diversity"].flatten()[i].item() == pytest.approx(overlap)
        assert tokenizer.decode(rollout.written.labels[i].clamp(min=0), skip_special_tokens=True).strip() == question
    assert rollout.parts["diversity"].max() > 0


def test_sampling_and_greedy_share_one_pass_of_the_encoder_and_one_decoding(rast, question_batch):
    module, passes = rast(), []
    module.configure_model()
    module.policy.get_encoder().register_forward_hook(lambda *_: passes.append("encode"))

    def decoding(_, given, kept):
        if kept["use_cache"] and kept["past_key_values"] is None:
            passes.append("decode")

    module.policy.get_decoder().register_forward_pre_hook(decoding, with_kwargs=True)
    rollout = rollout_of(module, question_batch())
    objective(module.objective, module.policy, module._frozen.reference, rollout, None)
    assert passes == ["encode", "decode"]
    assert rollout.encoded.states.requires_grad


def test_questions_that_are_alike_are_marked_once_and_all_the_same(rast, question_batch):
    module, rows = rast(sampling=GREEDY), []
    module.configure_model()
    encoder = module._frozen.qa.get_encoder()
    encoder.register_forward_hook(lambda _, given, kept, made: rows.append(len(kept["input_ids"])), with_kwargs=True)
    rollout = rollout_of(module, question_batch((0, 1, 2, 0)))
    asked = rollout.asked
    different = {(e.context, y, e.answer) for e, y in zip(asked.examples, asked.questions, strict=True)}
    assert sum(rows) == len(different)
    assert len(different) < len(asked.questions)
    alone = torch.stack([marked_alone(module, *one) for one in zip(asked.examples, asked.questions, strict=True)])
    torch.testing.assert_close(asked.answer_nlls, alone, rtol=1e-4, atol=1e-5)


def marked_alone(module, example, question):
    """What the QA model pays for an answer, in a forward pass of transformers' own."""
    encoder = module.questioner.encoder
    ids, labels = (torch.tensor([row]) for row in (encoder.qa(example.context, question), encoder.ids(example.answer)))
    with torch.no_grad():
        return module._frozen.qa(input_ids=ids, labels=labels).loss


def test_greedy_questions_are_transformers_own(rast, question_batch):
    module = rast(sampling=GREEDY)
    rollout = rollout_of(module, question_batch())
    rows = zip(rollout.asked.examples, rollout.asked.templates, strict=True)
    for i, (example, template) in enumerate(rows):
        ids = torch.tensor([module.questioner.encoder.styled(example, template)])
        made = module.policy.generate(input_ids=ids, max_new_tokens=6, do_sample=False)[0, 1:]
        assert module.tokenizer.decode(made, skip_special_tokens=True).strip() == rollout.asked.questions[i]
    # sampled and greedy are the same here, so the self-critical advantage is none
    for name, part in rollout.parts.items():
        torch.testing.assert_close(part, rollout.greedy_parts[name])


def test_dropout_is_off_whoever_asks(rast, question_batch):
    module = rast(retriever={"dtype": "float32"})
    module.configure_model()
    module.train()
    assert not any(part.training for part in module.modules())
    first, second = (rollout_of(module, question_batch()) for _ in range(2))
    assert torch.equal(first.encoded.states, second.encoded.states)
    assert first.asked.questions == second.asked.questions
    torch.nn.Module.train(module.policy)
    with pytest.raises(RuntimeError, match="dropout is on"):
        rollout_of(module, question_batch())


def test_own_templates_are_not_drawn(rast, question_batch):
    module, batch = rast(retriever={"candidates": 100}), question_batch()
    own = torch.tensor([2, 5, 11, 0])
    module.configure_model()
    for seed in range(15):
        drawn = rollout_of(module, batch._replace(own_template=own), seed).styles.positions
        assert not (drawn == own[:, None]).any()


def test_first_questions_come_from_the_vanilla_generator(rast, question_batch):
    batch = question_batch()
    module, without = rast(sampling=GREEDY), rast(vanilla=None)
    for one in (module, without):
        one.configure_model()
    firsts = module.questioner.first_templates(module._frozen.vanilla, batch)
    for i, example in enumerate(batch.examples):
        ids = torch.tensor([module.questioner.encoder.passage(example)])
        made = module._frozen.vanilla.generate(input_ids=ids, max_new_tokens=6, do_sample=False)[0]
        question = module.tokenizer.decode(made, skip_special_tokens=True).strip()
        assert firsts[i] == module.questioner.template_of(question, example.context, example.answer)
    assert without.questioner.first_templates(None, batch)[0] == "who built [MASK] [MASK] [MASK] ?"


def test_first_questions_are_asked_once_an_example(rast, question_batch):
    module, passes = rast(), []
    module.configure_model()
    vanilla = module._frozen.vanilla
    encoder = vanilla.get_encoder()
    encoder.register_forward_hook(lambda _, given, kept, made: passes.append(len(kept["input_ids"])), with_kwargs=True)
    first = module.questioner.queries(vanilla, question_batch((0, 1)))
    again = module.questioner.queries(vanilla, question_batch((1, 2, 0)))
    assert passes == [2, 1]
    assert (again[0], again[2]) == (first[1], first[0])
    assert again == rast().questioner.first_templates(vanilla, question_batch((1, 2, 0)))
