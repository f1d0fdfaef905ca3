"""The config's own resolvers, and what is refused before any stage runs."""

import pytest
from omegaconf import OmegaConf

from callbacks.run.plan import check_config, register_resolvers, stage_config
from datamodules.wrong_input import WrongInput

register_resolvers()


@pytest.mark.parametrize(("value", "found"), [(None, "b"), ("file.jsonl", "a"), (0, "a"), ({"_target_": "rows"}, "a")])
def test_given_is_the_first_unless_the_value_is_null(value, found):
    assert OmegaConf.create({"value": value, "found": "${given:${value},a,b}"}).found == found


def test_only_keeps_some_items_with_what_they_refer_to_elsewhere():
    config = {"top": "x", "ways": {"a": {"of": "${top}"}, "b": 2, "c": 3}, "names": ["c", "a"]}
    kept = OmegaConf.to_container(OmegaConf.create(config | {"kept": "${only:${ways},${names}}"}), resolve=True)["kept"]
    assert list(kept.items()) == [("c", 3), ("a", {"of": "x"})]


def test_only_of_what_is_not_there():
    config = OmegaConf.create({"ways": {"a": 1}, "kept": "${only:${ways},[b]}"})
    with pytest.raises(Exception, match="there is no 'b'"):
        _ = config.kept


@pytest.mark.parametrize(("questions", "drawn", "least"), [(5, 3, 4), (3, 6, 6), (1, 1, 1)])
def test_least_templates_serve_generation_and_rl(questions, drawn, least):
    assert OmegaConf.create({"least": f"${{least_templates:{questions},{drawn}}}"}).least == least


def test_a_stages_checks_are_called_before_anything_runs():
    check = {"_target_": "lightning_modules.rast.check_rl", "baseline": "group", "reward_mode": "paper"}
    check |= {"templates_per_passage": 3, "kl_weight": 0.1, "reward_weights": {"consistency": 1.0}}
    stages = {"rl": {"checks": {"settings": check}}}
    config = OmegaConf.create({"stages": ["rl"], "stage": stages, "trainer": {}})
    check_config(config)
    assert stage_config(config, "rl")["checks"]["settings"] == check
    config.stage.rl.checks.settings.templates_per_passage = 1
    with pytest.raises(Exception, match="2 or more templates") as caught:
        check_config(config)
    assert isinstance(caught.value.__cause__, WrongInput)
