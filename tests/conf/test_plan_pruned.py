"""``plan=true`` of a student that is still to be pruned: as large as it will be, and what pruning takes."""

import json

import pytest
import torch
from omegaconf import OmegaConf

from callbacks.run import plan_of
from callbacks.run.estimate.run import Rates
from lightning_modules.language_model import build_language_model
from lightning_modules.pruning.groups import coupled_layers
from lightning_modules.pruning.surgery import count_parameters, plan_widths, prune

WIDTHS = ["heads", "intermediate", "hidden"]
TEACHER = {"hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture
def planned(composed, model_folder, tmp_path):
    """Its stages by name, of 6 prompts without responses, on ``trainer=cpu`` in float32."""
    teacher = model_folder("llama", **TEACHER, num_key_value_heads=2)
    (tmp_path / "data.jsonl").write_text("".join(json.dumps({"prompt": f"{i} + 2 ="}) + "\n" for i in range(6)))

    files = [f"teacher={teacher}", f"data={tmp_path}/data.jsonl", f"eval_data={tmp_path}/data.jsonl"]
    quick = ["trainer=cpu", "trainer.precision=32-true", "dtype=float32", "prune_multiple_of=1", "prune_ratio=0.3"]
    quick.append(f"prune_widths=[{','.join(WIDTHS)}]")
    config = composed("experiment=dadpo_vicuna_pruned", *files, *quick, "estimate.memory_gib=64")

    def run(*stages, **settings):
        changed = OmegaConf.create(OmegaConf.to_container(config))
        for key, value in settings.items():
            OmegaConf.update(changed, key, value, force_add=True)
        changed.stages = ["teacher_responses", "prune", *stages]
        found = plan_of(changed, rates=Rates(1e12, 1e10))
        assert not found.others
        return {stage.name: stage for stage in found.stages}

    return teacher, run


def really_pruned(folder):
    """A model with its weights, pruned by chance: how wide it is does not hang on which units go."""
    model = build_language_model(folder)
    plan, groups = plan_widths(model, 0.3, WIDTHS, 1), coupled_layers(model, WIDTHS)
    prune(model, plan, groups, [torch.rand(group.size) for group in groups])
    return count_parameters(model)


def test_the_student_is_planned_as_large_as_pruning_leaves_it(planned):
    teacher, run = planned
    stages = run("dsft", "pairs", "scores", "dadpo")
    before, after = count_parameters(build_language_model(teacher)), really_pruned(teacher)
    assert after < 0.72 * before
    assert stages["prune"].parameters == {"before": before, "pruned": after}
    for name in ("dsft", "dadpo"):
        assert stages[name].parameters == {"policy": after}
    assert stages["pairs"].parameters == {"chosen": before, "rejected": after}
    assert stages["scores"].parameters == {"teacher": before, "reference": after}


def test_what_pruning_takes(planned):
    _, run = planned
    stage, blind = run()["prune"], run(importance="magnitude")["prune"]
    weights = 4 * stage.parameters["before"]
    assert stage.disk == 4 * stage.parameters["pruned"]
    assert stage.moments["forward"].keys() == {"weights", "activations", "logits"}
    assert stage.moments["worth of units"]["gradients"] == stage.moments["forward"]["weights"] == weights
    assert stage.cost.flops > 0 == blind.cost.flops
    assert set(blind.moments) == {"worth of units"}
    assert blind.moments["worth of units"]["weights"] == weights
    fewer = run(calibration_rows=3)["prune"]
    assert fewer.cost.tokens == pytest.approx(stage.cost.tokens / 2, rel=0.2)
    everywhere = run(**{"trainer.devices": 2})["prune"]
    assert everywhere.moments["worth of units"]["gradient buckets"] == weights


def test_no_adapter_is_offered_to_shards_which_take_none(planned):
    _, run = planned
    tight = {"estimate.memory_gib": 0.0001}
    assert "lora=all_linear" in run("dsft", **tight)["dsft"].mend
    sharded = run("dsft", **tight, trainer={"strategy": "fsdp2", "devices": 8})["dsft"]
    assert sharded.fits is False
    assert "lora" not in sharded.mend
