"""What ``rounds=`` makes of a config: which stages there are, what they cost, and what is refused."""

import json

import pytest

from callbacks.run import check_config, unrolled
from callbacks.run.plan import stage_config
from tests.conf.test_rounds import FIRST, TWO
from tests.conf.test_wrong_inputs import GOOD, GOOD2, one_line, pairs
from tests.conf.tiny import TINY


def test_the_stages_of_three_rounds_compose(composed):
    config = unrolled(composed("experiment=dadpo_quickstart", "rounds=3", "+stage.dadpo.seed=7"))
    check_config(config)
    later = [f"{stage}_{number}" for number in (2, 3) for stage in ("pairs", "scores", "dadpo")]
    assert list(config.stages)[:12] == [*FIRST, "dadpo_1", *later[:-1], "dadpo"]
    assert list(config.stages)[12:14] == ["ddpo", "sft_chosen"]
    out = config.paths.output_dir
    stages = {name: stage_config(config, name) for name in config.stages}
    assert all(stage["name"] == name for name, stage in stages.items())
    for number, name in enumerate(("dadpo_1", "dadpo_2", "dadpo"), start=1):
        stage = stages[name]
        assert stage["module"]["part"] == [number, 3]
        assert stage["module"]["student"] == stage["module"]["reference"] == f"{out}/dsft/model"
        assert stage["seed"] == 7
        assert ("state" in stage["callbacks"]) == (number < 3)
    assert [stages[name]["resume"] for name in ("dadpo_1", "dadpo_2", "dadpo")] == [
        None,
        f"{out}/dadpo_1/state",
        f"{out}/dadpo_2/state",
    ]
    assert stages["pairs_3"]["module"]["models"] == {
        "chosen": f"{out}/teacher/model",
        "rejected": f"{out}/dadpo_2/model",
    }
    assert (
        stages["scores_3"]["datamodule"]["data"]
        == stages["dadpo"]["datamodule"]["data"]
        == f"{out}/pairs_3/pairs.jsonl"
    )
    assert (
        stages["ddpo"]["datamodule"]["data"] == stages["sft_chosen"]["datamodule"]["data"] == f"{out}/pairs/pairs.jsonl"
    )
    assert list(stages["evaluate"]["module"]["models"]) == ["dsft", "sft_chosen", "ddpo", "dadpo"]


def test_stages_can_be_named_one_by_one(composed):
    chosen = "stages=[scores_2,dadpo]"
    assert list(unrolled(composed("experiment=dadpo_quickstart", "rounds=2", chosen)).stages) == ["scores_2", "dadpo"]
    live = unrolled(composed("experiment=dadpo_quickstart", "rounds=2", "mode=live", "stages=[dadpo]"))
    assert list(live.stages) == ["dadpo_1", "pairs_2", "dadpo"]
    other = unrolled(composed("experiment=dadpo_claim", "rounds=2", "method=ddpo"))
    assert not [name for name in other.stages if name.startswith(("dadpo", "pairs_", "scores_"))]


def test_a_plan_counts_the_rounds(command, tmp_path):
    def planned(*overrides):
        settings = ["plan=true", "plan_tflops=1", "estimate.gbps=1", *TINY, *overrides]
        code, err = command("experiment=dadpo_quickstart", *settings)
        assert code == 0, err
        return json.loads((tmp_path / "outputs/dadpo_quickstart/plan.json").read_text())["stages"]

    one, two = planned(), planned("rounds=2")
    assert list(two)[5:9] == TWO
    assert two["scores"]["cost"] == one["scores"]["cost"]
    trained = [two[stage]["cost"]["flops"] for stage in ("dadpo_1", "dadpo")]
    assert sum(trained) == pytest.approx(one["dadpo"]["cost"]["flops"], rel=0.1)
    assert set(two["pairs_2"]["parameters"]) == {"rejected"}
    assert two["scores_2"]["cost"]["filled"] < 0.48 * one["scores"]["cost"]["filled"]
    assert two["dadpo_1"]["disk"] > two["dadpo"]["disk"] == one["dadpo"]["disk"]


WRONG = {
    "rounds=0": "no such number of rounds: 0",
    "rounds=1.5": "no such number of rounds: 1.5",
    "rounds=true": "no such number of rounds: True",
    "rounds=null": "no such number of rounds: None",
    "rounds=many": "no such number of rounds: many",
    "rounds=2 stage.dadpo.resume=checkpoints": "stage.dadpo.resume",
    "rounds=2 stages=[dadpo_3]": "no stage 'dadpo_3'",
    "rounds=2 beta_teacher=-1": "must not be negative",
}


@pytest.mark.parametrize("settings", sorted(WRONG))
def test_wrong_settings_are_told_before_any_stage_runs(command, settings, tmp_path):
    one_line(command("experiment=dadpo_quickstart", *TINY, *settings.split()), WRONG[settings])
    assert not list(tmp_path.glob("cache/stages/*"))


def test_more_rounds_than_pairs(command, model_folder, tmp_path):
    data = pairs(tmp_path / "data.jsonl", GOOD, GOOD2)
    settings = [f"teacher={model_folder(seed=1)}", f"student={model_folder(seed=2)}", f"data={data}", "trainer=cpu"]
    result = command("experiment=dadpo_qwen", *settings, "stages=[dadpo_1]", "rounds=9")
    one_line(result, "share 1 of 9 has no row", "data.jsonl", "fewer rounds")
