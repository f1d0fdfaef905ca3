"""RAST's settings: what cannot be is refused by the checks of its stages, and short keys reach what they say."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf, open_dict

from callbacks.run.messages import exit_line
from callbacks.run.plan import check_config, stage_config
from tests.conf.tiny import CONF


@pytest.fixture(scope="module")
def quickstart():
    """``quickstart(**settings)``: the experiment, composed once, with settings put over it by their keys."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONF, version_base="1.3"):
        config = compose("train", overrides=["experiment=rast_quickstart", "name=test", "paths.output_dir=/nowhere"])
    whole = OmegaConf.to_container(config, resolve=False)

    def build(**settings):
        made = OmegaConf.create(whole)
        with open_dict(made):
            made.stages = ["rl", "generate", "evaluate"]
            for key, value in settings.items():
                OmegaConf.update(made, key.replace("__", "."), value, merge=False)
        return made

    return build


REFUSED = [
    ({"questions": 0}, "questions is 0"),
    ({"candidates": 2}, "3 templates are drawn among 2 candidates"),
    ({"candidates": 3}, "4 templates are chosen among 3 candidates"),
    ({"rl_accumulate": 0}, "rl_accumulate is 0"),
    ({"trainer__accumulate_grad_batches": 0}, "rl_accumulate is 0"),
    ({"rl_clip": 0.0}, "clip is 0.0 (rl_clip)"),
    ({"rl_clip": float("nan")}, "clip is nan (rl_clip)"),
    ({"trainer__gradient_clip_val": 0.3}, "0.3 does not reach stage rl (trainer.gradient_clip_val): set rl_clip="),
    ({"trainer__gradient_clip_val": None}, "None does not reach stage rl"),
    ({"trainer__precision": "16-mixed", "trainer__accelerator": "gpu"}, "precision 16-mixed scales gradients"),
    ({"trainer__precision": 16, "trainer__accelerator": "auto"}, "precision 16 scales gradients"),
    ({"stage__rl__module__reward_weights__mine": 1.0}, "must have the same names"),
    ({"stage__rl__module__rewards__mine": {"_target_": "torch.nn.Identity"}}, "must have the same names"),
    ({"index": "Nope"}, "FAISS knows no such index"),
    ({"rl_batch_size": 0}, "rl_batch_size is 0"),
    ({"generate_batch_size": 0}, "generate_batch_size is 0"),
    ({"max_new_tokens": 0}, "max_new_tokens is 0"),
    ({"diversity_penalty": -1.0}, "the penalty is -1.0 (diversity_penalty)"),
    ({"no_template_score": float("nan")}, "the score is nan (no_template_score)"),
    ({"hero": "nobody"}, "there is no 'nobody' (hero): choose of rast, fine_tuned, beam"),
    ({"methods": []}, "no method is to ask (methods): choose of rast"),
    ({"methods": ["rast", "rast"]}, "a method is named twice (methods)"),
    ({"stages": ["evaluate"], "methods": ["rast", "greedy"]}, "there is no 'greedy' (methods)"),
]


@pytest.mark.parametrize(("settings", "said"), REFUSED)
def test_what_cannot_be_is_refused_before_any_stage_runs(quickstart, settings, said):
    with pytest.raises(Exception, match=".") as caught:
        check_config(quickstart(**settings))
    line = exit_line(caught.value)
    assert line is not None
    assert line.code == 2
    assert said in line.text


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"methods": ["fine_tuned", "nucleus"]},  # without RAST, whose questions are then no data set
        {"candidates": 4, "index": "IVF16,PQ24"},
        {"rl_clip": float("inf"), "rl_accumulate": 3},
        {"trainer__precision": "bf16-mixed", "trainer__accelerator": "gpu"},
        {"trainer__precision": "16-mixed", "trainer__accelerator": "cpu"},  # bfloat16 there, as Lightning has it
    ],
)
def test_what_can_be_is_not_refused(quickstart, settings):
    check_config(quickstart(**settings))


def test_the_trainers_accumulation_reaches_rl_unless_rl_has_its_own(quickstart):
    for settings, batches in (({}, 1), ({"trainer__accumulate_grad_batches": 4}, 4), ({"rl_accumulate": 2}, 2)):
        stage = stage_config(quickstart(**settings), "rl")
        assert (stage["module"]["accumulate"], stage["trainer"]["accumulate_grad_batches"]) == (batches, 1)
    assert stage_config(quickstart(rl_clip=0.2), "rl")["module"]["clip"] == 0.2


def rows_of(config):
    """(training rows, test rows) of the stages, a split by its part."""
    found = []
    for name, stage in (("vanilla", stage_config(config, "vanilla")), ("generate", stage_config(config, "generate"))):
        data = stage["datamodule"]["data"]
        found.append(data if isinstance(data, str) else data.get("part") or (data["split"], data["count"]))
        if name == "generate":
            assert stage["needs"]["eval_data"] == data
    read_too = stage_config(config, "templates")["datamodule"]["read_too"]
    assert read_too == [stage_config(config, "generate")["datamodule"]["data"]]
    return tuple(found)


@pytest.mark.parametrize(
    ("settings", "rows"),
    [
        ({}, (("train", 8000), ("test", 300))),
        ({"data": "a.jsonl"}, ("train", "test")),
        ({"data": "a.jsonl", "eval_data": "b.jsonl"}, ("a.jsonl", "b.jsonl")),
        ({"eval_data": "b.jsonl"}, (("train", 8000), "b.jsonl")),
    ],
)
def test_rows_are_held_out_for_the_test_only_where_it_has_none_of_its_own(quickstart, settings, rows):
    assert rows_of(quickstart(**settings)) == rows


def test_which_stages_run_changes_no_stage(quickstart):
    """A stage that was made for one choice of ``stages`` serves every other."""
    some, all_of_them = quickstart(stages=["templates", "rl"]), quickstart()
    for name in ("templates", "rl"):
        assert stage_config(some, name) == stage_config(all_of_them, name)
