"""``sampler=vllm``: whose tokens, by which random numbers, and what is kept when it dies.

vLLM itself needs a GPU and is not here: a stand-in of its protocol answers, over the same tiny models.
"""

import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from lightning import Callback, Trainer
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM

from datamodules.collate import collate_prompts
from datamodules.wrong_input import WrongInput
from lightning_modules import SamplingModule
from lightning_modules.sampling import Sampling
from lightning_modules.token_draws import answer_key
from lightning_modules.vllm.reading import seed_of
from tests.lightning_modules.vllm.stand_in import gone
from tests.two_processes import in_two

PROMPTS = [[20, 30, 40], [50], [90, 80, 70, 60, 55], [20, 21]]
GREEDY = Sampling(temperature=0, max_new_tokens=9)


def batch(prompts=PROMPTS, seed=0):
    return collate_prompts(prompts, [f"row {n}" for n in range(len(prompts))], 0, seed)


class Loop:
    """Batches through Lightning's predict loop, one loader a model; keeps what came, in its order."""

    def __init__(self, folder):
        self.folder, self.came = folder, []

    def __call__(self, module, *loaders, callback=None, **trainer):
        self.came.clear()
        outer = self

        class Keep(Callback):
            def on_predict_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
                for got in outputs:
                    outer.came.append(got)
                    if callback is not None:
                        callback(trainer, got)

        settings = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False, **trainer}
        run = Trainer(callbacks=[Keep()], default_root_dir=self.folder, enable_model_summary=False, **settings)
        loads = [DataLoader(loader, batch_size=None) for loader in loaders or [[batch()]]]
        run.predict(module, loads, return_predictions=False)
        return self.told()

    def told(self):
        """(model, row) → text, tokens, finished."""
        each = [(got.model, *one) for got in self.came for one in zip(*got[1:], strict=True)]
        return {(model, row): rest for model, row, *rest in each}


@pytest.fixture
def loop(tmp_path):
    return Loop(tmp_path / "stage")


@pytest.fixture
def module(fake, tokenizer):
    def make(models, sampling, sampler="vllm", **vllm):
        settings = {"command": str(fake.path), "args": [], "startup_s": 60, "max_length": 64, **vllm}
        return SamplingModule(models, tokenizer, sampling, sampler=sampler, vllm=settings)

    return make


@pytest.fixture
def strange(model_folder, tokenizer, tmp_path):
    """A model with rows that stand for no token and would win nearly every draw, and which ends turns early.

    Gives its folder and the tokens that end a turn, of which the tokenizer knows one.
    """
    rows, folder = len(tokenizer), tmp_path / "strange"
    model = AutoModelForCausalLM.from_pretrained(model_folder(rows=rows + 300, seed=5))
    with torch.no_grad():
        model.lm_head.weight[rows:] = model.lm_head.weight[20:320] * 9
    model.save_pretrained(folder)
    made = torch.tensor([[*PROMPTS[0]]])
    with torch.no_grad():
        for _ in range(4):  # what it would go on with
            made = torch.cat([made, model(made).logits[:, -1:, :rows].argmax(-1)], 1)
    ends = sorted({int(made[0, -1]), tokenizer.eos_token_id})
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends, "temperature": 0.1, "top_k": 1}))
    return folder, ends


@pytest.mark.slow
def test_greedy_answers_are_those_of_the_other_samplers(module, loop, fake, model_folder, strange, tokenizer):
    fake.behave()
    folder, ends = strange
    models = {"chosen": model_folder(seed=1), "rejected": folder}
    sampling = {"chosen": GREEDY, "rejected": replace(GREEDY, max_new_tokens=5)}
    loads = [[batch(), batch([[33, 44]])]] * 2
    expected = loop(module(models, sampling, "batched"), *loads)
    assert loop(module(models, sampling), *loads) == expected
    assert len({text for text, *_ in expected.values()}) > 4
    assert expected["rejected", "row 0"][2]  # finished, by a token that only the model's folder tells of
    assert {len(got.row_ids) for got in loop.came} == {1}  # each as soon as it is there
    first, second = fake.told("start")
    assert [told["args"][1] for told in (first, second)] == [str(folder) for folder in models.values()]
    window = [told["args"][told["args"].index("--max-model-len") + 1] for told in (first, second)]
    assert window == [str(64 + 9), str(64 + 5)]
    assert first["written"] == [str(loop.folder / "vllm" / "chosen.written" / "tokenizer")]
    assert sorted(path.name for path in (loop.folder / "vllm").iterdir()) == ["chosen.log", "rejected.log"]
    bodies = fake.asked()
    assert ["logit_bias" in body for body in bodies] == [False] * 5 + [True] * 5
    assert sorted(map(int, bodies[-1]["logit_bias"])) == list(range(len(tokenizer), len(tokenizer) + 300))
    assert [bodies[0]["stop_token_ids"], bodies[-1]["stop_token_ids"]] == [[tokenizer.eos_token_id], ends]
    assert gone(fake)


def test_every_answer_has_a_seed_of_its_own(module, loop, fake, model_folder):
    models, warm = {"student": model_folder(seed=1)}, Sampling(temperature=1.5, top_p=0.9, top_k=50, max_new_tokens=8)
    same = [[50, 51]] * 6
    once = loop(module(models, warm), [batch(same)])
    assert len({text for text, *_ in once.values()}) > 4
    assert {body["seed"] for body in fake.asked()} == {seed_of(answer_key(0, f"row {n}")) for n in range(6)}
    assert loop(module(models, warm, requests=1), [batch(same)]) == once
    assert loop(module(models, warm), [batch(same, seed=1)]) != once
    body = fake.asked()[0]
    assert (body["temperature"], body["top_p"], body["top_k"], body["max_tokens"]) == (1.5, 0.9, 50, 8)


def test_so_many_are_under_way_at_once(module, loop, fake, model_folder):
    fake.behave(canned=True, delay_s=0.4)
    seen = []
    loop(
        module({"student": model_folder()}, GREEDY, requests=3),
        [batch([[50]] * 7)],
        callback=lambda *_: seen.append(len(fake.asked())),
    )
    assert seen[0] <= 6  # the first was there before the last was asked
    assert max(seen) == 7


def test_what_was_answered_before_it_died_is_kept_and_nothing_is_left_behind(module, loop, fake, model_folder):
    fake.behave(canned=True, crash_after=3)
    with pytest.raises(WrongInput) as refused:
        loop(module({"student": model_folder()}, GREEDY, requests=1), [batch([[50 + n] for n in range(9)])])
    assert "OutOfMemoryError: CUDA out of memory" in refused.value.what
    assert refused.value.where == str(loop.folder / "vllm" / "student.log")
    assert len(loop.came) == 3
    assert gone(fake)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"token_ids": [99999, 1]}, "token 99999 is none of the tokenizer's"),
        ({"token_ids": [5, 6]}, "another reason"),
        ({"prompt_token_ids": [1]}, "another prompt"),
    ],
)
def test_tokens_that_cannot_be_are_refused(module, loop, fake, model_folder, wrong, said):
    fake.behave(canned=True, wrong=wrong)
    with pytest.raises(WrongInput, match="cannot be taken at its word") as refused:
        loop(module({"student": model_folder()}, GREEDY))
    assert said in refused.value.what
    assert not loop.came
    assert gone(fake)


@pytest.mark.parametrize("error", [OSError("the disk is full"), KeyboardInterrupt()])
def test_it_ends_with_the_loop_however_that_ends(module, loop, fake, model_folder, error):
    fake.behave(canned=True, delay_s=0.1)
    still = []

    def fails(trainer, got):
        still.append(len(fake.alive()))
        raise error

    ours = module({"student": model_folder()}, GREEDY, requests=1)
    with pytest.raises((OSError, SystemExit)):  # Lightning makes an exit of Ctrl-C
        loop(ours, callback=fails)
    assert still == [3]
    assert gone(fake)
    assert [path.name for path in (loop.folder / "vllm").iterdir()] == ["student.log"]


def test_asked_to_end_it_ends_at_once(module, loop, fake, model_folder):
    fake.behave(canned=True, delay_s=0.5)
    ours = module({"student": model_folder()}, GREEDY, requests=1)
    with pytest.raises(SystemExit) as ended:
        loop(ours, [batch([[50]] * 40)], callback=lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert ended.value.code == 143
    assert 1 <= len(loop.came) < 10
    assert gone(fake)


def test_several_processes_are_refused(module, loop, fake, model_folder):
    def rank():
        with pytest.raises(WrongInput, match="2 processes"):
            loop(module({"student": model_folder()}, GREEDY), devices=2, strategy="ddp", use_distributed_sampler=False)

    in_two(rank)
    assert not fake.told("start")
