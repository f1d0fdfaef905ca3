"""``rounds=2``, tiny: what the stages are, that each learns from the policy before it, and that it is one training."""

import json
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from peft import PeftModel
from safetensors.torch import load_file
from torch.nn.utils import clip_grad_norm_
from transformers import AutoModelForCausalLM, AutoTokenizer, get_cosine_schedule_with_warmup

import train
from callbacks.run import unrolled
from datamodules.preference_pairs import PreferencePairsDataModule
from datamodules.score_cache import ScoreCache
from datamodules.shares import RowShare
from lightning_modules import DaDPOModule
from lightning_modules.trainable import parameter_groups
from tests.conf.test_wrong_inputs import pairs
from tests.conf.tiny import CONF, TINY

FIRST = ["teacher", "teacher_responses", "dsft", "pairs", "scores"]
TWO = ["dadpo_1", "pairs_2", "scores_2", "dadpo"]
GREEDY = ["sampling.rejected.temperature=0", "lr=1e-2", "checkpoint_every=2"]
"""So that transformers' own decoding says the same, and a policy other things than the one before it."""


@pytest.fixture(scope="module")
def rounds(tmp_path_factory):
    """A run of two rounds with every score that it writes; gives a function that runs stages in the same folders."""
    folder = tmp_path_factory.mktemp("rounds")

    def run(*overrides, stages=("scores", "dadpo"), more=("rounds=2",)):
        paths = [f"paths.output_dir={folder}/out", f"paths.cache_dir={folder}/cache", "name=test", "logger=csv"]
        with initialize_config_dir(CONF, version_base="1.3"):
            settings = ["experiment=dadpo_quickstart", *TINY, *GREEDY, *paths, *more]
            config = compose("train", overrides=[*settings, f"stages=[{','.join(stages)}]", *overrides])
        return train.run(config)

    written, write = [], ScoreCache.write
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            ScoreCache,
            "write",
            lambda self, scores: (written.extend((self.path, k) for k in scores), write(self, scores)),
        )
        metrics = run(stages=(*FIRST, "dadpo", "answers", "evaluate"))
    return folder / "out", run, metrics, written


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def text(row, side):
    return row[side][-1]["content"]


def test_the_rejected_of_a_round_are_those_of_the_policy_before_it(rounds):
    folder, *_ = rounds
    tokenizer = AutoTokenizer.from_pretrained(folder / "teacher/model")
    before, after = (AutoModelForCausalLM.from_pretrained(folder / stage / "model") for stage in ("dsft", "dadpo_1"))
    refreshed = rows_of(folder / "pairs_2/pairs.jsonl")
    answers = {before: [], after: []}
    for model, found in answers.items():
        for row in refreshed:
            turns = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}
            inputs = tokenizer.apply_chat_template(row["prompt"], **turns)
            made = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
            found.append(tokenizer.decode(made, skip_special_tokens=True))
    rejected = [text(row, "rejected") for row in refreshed]
    assert answers[after] == rejected
    assert answers[before] != rejected


def test_each_prompt_is_in_one_round_with_the_response_that_it_had(rounds):
    folder, _, metrics, _ = rounds
    whole = {f"pairs.jsonl:{n}": row for n, row in enumerate(rows_of(folder / "pairs/pairs.jsonl"), start=1)}
    second = {row["id"]: row for row in rows_of(folder / "pairs_2/pairs.jsonl")}
    assert 0 < len(second) < len(whole)
    assert all(row["chosen"] == whole[place]["chosen"] for place, row in second.items())
    assert not (folder / "pairs_2/responses/chosen.jsonl").exists()
    dropped = metrics["pairs_2/empty"] + metrics["pairs_2/equal"]
    assert metrics["dadpo_1/pairs"] + metrics["dadpo/pairs"] + dropped == metrics["pairs/rows"] == len(whole)
    assert abs(metrics["dadpo_1/pairs"] - metrics["dadpo/pairs"] - dropped) <= 1


def test_no_score_is_computed_twice(rounds):
    folder, _, metrics, written = rounds
    assert len(written) == len(set(written)) > 0
    assert len({path for path, _ in written}) == 2  # the teacher's and the first reference's
    first, second = (
        {
            (json.dumps(row["prompt"]), text(row, side))
            for row in rows_of(folder / f"{stage}/pairs.jsonl")
            for side in sides
        }
        for stage, sides in (("pairs", ("chosen", "rejected")), ("pairs_2", ("rejected",)))
    )
    assert metrics["scores_2/computed"] == 2 * len(second - first)
    assert len(written) == 2 * len(second | first)


def test_the_same_run_again_does_nothing_and_says_the_same(rounds, caplog):
    _, run, metrics, _ = rounds
    again = run(stages=(*FIRST, "dadpo", "answers", "evaluate"))
    assert again["scores_2/computed"] == 0
    new = {f"{stage}/{key}" for stage in ("scores", "scores_2") for key in ("computed", "reused")}
    assert {k: v for k, v in again.items() if k not in new} == {k: v for k, v in metrics.items() if k not in new}


def test_the_rounds_are_one_training(rounds):
    """Weights, moments and learning rate go on: a plain loop over both rounds' batches ends with the same weights."""
    folder, *_ = rounds
    shares = [list(RowShare(str(folder / "pairs/pairs.jsonl"), 1, 2)), rows_of(folder / "pairs_2/pairs.jsonl")]
    tokenizer = AutoTokenizer.from_pretrained(folder / "teacher/model")
    models = {"reference": str(folder / "dsft/model"), "teacher": str(folder / "teacher/model")}
    settings = {"cache_dir": folder.parent / "cache/scores", "batch_size": 8, "max_length": 256}
    module = DaDPOModule(models["reference"], tokenizer, beta_ref=0.1, beta_teacher=0.4, packing="off")
    policy = module.trained_policy
    optimizer = torch.optim.AdamW(parameter_groups(policy.parameters()), lr=1e-2, weight_decay=0.0)
    for number, rows in enumerate(shares):
        data = PreferencePairsDataModule(rows, tokenizer, **models, **settings)
        data.setup("fit")
        batches = data.train_dataloader()
        steps = len(batches)
        scratch = torch.optim.SGD([torch.zeros(1)], lr=1e-2)
        rate = get_cosine_schedule_with_warmup(scratch, round(0.1 * 2 * steps), 2 * steps).lr_lambdas[0]
        for step, batch in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = 1e-2 * rate(number * steps + step)
            optimizer.zero_grad()
            module.losses(batch).loss.mean().backward()
            clip_grad_norm_(policy.parameters(), 1.0)
            optimizer.step()
    found, start = (load_file(folder / stage / "model/model.safetensors") for stage in ("dadpo", "dadpo_1"))
    for name, weight in policy.state_dict().items():
        torch.testing.assert_close(found.get(name, weight), weight, rtol=1e-4, atol=1e-5)
    assert max((found[name] - start[name]).abs().max() for name in found) > 1e-3


def curve(folder: Path, stage: str, key: str) -> list[float]:
    """What was logged of each step, the last line of a step counting."""
    lines = rows_of(folder / stage / "curve.jsonl")
    return list({row["step"]: row[f"{stage}/train/{key}"] for row in lines if f"{stage}/train/{key}" in row}.values())


@pytest.mark.slow
@pytest.mark.parametrize("killed_in", ["dadpo_1", "dadpo"])
def test_killed_in_a_round_it_ends_with_the_same_student(rounds, monkeypatch, killed_in):
    folder, run, metrics, _ = rounds
    whole = load_file(folder / "dadpo/model/model.safetensors")
    step, dead = DaDPOModule.training_step, []

    def killed(self, batch, batch_idx):
        if self.name == killed_in and self.global_step == 3 and not dead:
            dead.append(True)
            raise RuntimeError("killed")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(DaDPOModule, "training_step", killed)
    again = f"beta_ref={0.1 + 1e-12 * len(killed_in)}"  # stages of their own
    with pytest.raises(RuntimeError, match="killed"):
        run(again)
    assert (folder / killed_in / "checkpoints" / "step=2.ckpt").exists()
    resumed = run(again)
    assert dead
    assert resumed["dadpo/val/loss"] == pytest.approx(metrics["dadpo/val/loss"], rel=1e-4)
    for name, weight in load_file(folder / "dadpo/model/model.safetensors").items():
        torch.testing.assert_close(weight, whole[name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_one_round_is_the_run_without_rounds(rounds, composed):
    folder, run, metrics, _ = rounds
    config = composed("experiment=dadpo_quickstart", *TINY)
    assert unrolled(config) is config
    made = {stage: (folder / stage).resolve() for stage in FIRST}
    one = run(stages=(*FIRST, "dadpo"), more=())
    assert {stage: (folder / stage).resolve() for stage in FIRST} == made
    assert one["scores/computed"] == 0
    assert one["dadpo/pairs"] == metrics["pairs/rows"]
    assert not [key for key in one if key.startswith(("dadpo_", "pairs_", "scores_"))]
    run()


@pytest.mark.slow
def test_what_moves_over_the_run_moves_over_all_rounds(rounds):
    folder, run, _, _ = rounds
    run("beta_schedule=linear", "beta_teacher_start=0.1")
    betas = [value for stage in ("dadpo_1", "dadpo") for value in curve(folder, stage, "beta_teacher")]
    assert betas[0] == pytest.approx(0.1)
    assert betas[-1] == pytest.approx(0.4)
    steps = [after - before for before, after in zip(betas, betas[1:], strict=False)]
    assert max(steps) == pytest.approx(min(steps), rel=0.35)  # rounds may differ by a step
    rates = [value for stage in ("dadpo_1", "dadpo") for value in curve(folder, stage, "lr")]
    top = rates.index(max(rates))
    assert rates[0] == 0.0
    assert top < len(rates) / 4
    assert rates[top:] == sorted(rates[top:], reverse=True)


@pytest.mark.slow
def test_adapters_are_gone_on_with_and_belong_to_the_first_reference(rounds):
    folder, run, _, _ = rounds
    lora = ["lora=all_linear", "lora.rank=4", "lr=3e-3"]
    cached = run(*lora, "export_as=adapter")
    first, last = (load_file(folder / stage / "model/adapter_model.safetensors") for stage in ("dadpo_1", "dadpo"))
    assert max((first[name] - last[name]).abs().max() for name in first) > 0
    base = json.loads((folder / "dadpo/model/adapter_config.json").read_text())["base_model_name_or_path"]
    assert Path(base) == (folder / "dsft/model").resolve()
    apart = AutoModelForCausalLM.from_pretrained(base)
    theirs = PeftModel.from_pretrained(apart, folder / "dadpo/model").merge_and_unload().state_dict()
    merged = run(*lora)
    for name, weight in load_file(folder / "dadpo/model/model.safetensors").items():
        torch.testing.assert_close(weight, theirs[name], rtol=1e-4, atol=1e-5)
    assert cached["dadpo/val/loss"] == pytest.approx(merged["dadpo/val/loss"], rel=1e-5)
    live = run(*lora, "mode=live", stages=["dadpo"])
    assert "scores_2/computed" not in live
    assert live["dadpo/val/loss"] == pytest.approx(merged["dadpo/val/loss"], rel=1e-4)


def test_given_pairs_are_refreshed_too(command, model_folder, tmp_path):
    said = [
        ("How are you", "Well.", "Bad."),
        ("Who is it", "Me.", "No."),
        ("Is it so", "Yes.", "It."),
        ("Why", "So.", "A."),
    ]
    given = [
        {
            "prompt": [{"role": "user", "content": prompt}],
            **{side: [{"role": "assistant", "content": text}] for side, text in (("chosen", good), ("rejected", bad))},
        }
        for prompt, good, bad in said
    ]
    data = pairs(tmp_path / "data.jsonl", *given)
    settings = [f"teacher={model_folder(seed=1)}", f"student={model_folder(seed=2)}", f"data={data}", "trainer=cpu"]
    settings += ["trainer.precision=32-true", "dtype=float32", "+trainer.enable_progress_bar=false", "batch_size=1"]
    settings += ["+stage.pairs.callbacks.writer.keep_unfinished=true", "sampling.rejected.max_new_tokens=4"]
    code, err = command("experiment=dadpo_qwen", *settings, "stages=[scores,dadpo]", "rounds=2")
    assert code == 0, err
    out = tmp_path / "outputs/dadpo_qwen"
    refreshed = rows_of(out / "pairs_2/pairs.jsonl")
    before = {text(row, "chosen"): text(row, "rejected") for row in given}
    assert refreshed
    assert all(text(row, "rejected") != before[text(row, "chosen")] for row in refreshed)
    assert [path.name for path in (out / "pairs_2/responses").iterdir()] == ["rejected.jsonl"]
