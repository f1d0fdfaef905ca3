"""Settings of daDPO that cannot be are refused before any stage runs: in one line that names what to set."""

from functools import cache

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from callbacks.run import exit_line
from callbacks.run.plan import check_config, register_resolvers, stage_config
from tests.conf.tiny import CONF

register_resolvers()
ON_CPU = ("trainer=cpu", "trainer.precision=32-true", "judge=rule", "paths.output_dir=/none/out", "name=test")


@cache
def once(experiment: str, *overrides: str) -> DictConfig:
    """Composed once for all cases: it takes longer than all that is done with it."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONF, version_base="1.3"):
        config = compose("train", overrides=[f"experiment={experiment}", *ON_CPU, *overrides])
    GlobalHydra.instance().clear()
    return config


def said(experiment: str, settings: str, stages: str = "", **keys) -> str:
    """What the checks say of a config with these settings; none: nothing."""
    config = OmegaConf.create(OmegaConf.to_container(once(experiment)))
    parsed = map(OverridesParser.create().parse_override, settings.split())
    with open_dict(config):
        for key, value in [*((one.key_or_group, one.value()) for one in parsed), *keys.items()]:
            OmegaConf.update(config, key, value)
    if stages:
        config.stages = stages.split()
    try:
        check_config(config)
    except Exception as error:
        line = exit_line(error)
        return f"{line.text}" if line is not None and line.code == 2 else f"a defect:\n{error}"
    return ""


@pytest.mark.parametrize(
    ("settings", "stages", "parts"),
    [
        ("packing=banana", "dsft dadpo", ("unknown packing 'banana'", "auto, sdpa, flex, flash, off")),
        ("packing=flex", "teacher_responses scores", ("FlexAttention trains on CUDA only", "set auto, or sdpa")),
        ("packing=flash", "dsft dadpo", ("FlashAttention trains on CUDA only", "set auto, or sdpa")),
        ("token_budget=0", "pairs dadpo", ("a row of 0 tokens", "token_budget")),
        ("sort_window=0", "pairs scores", ("sorted among 0 steps", "sort_window")),
        ("sort_window=-3", "pairs dadpo", ("sorted among -3 steps", "sort_window")),
        ("batch_size=0", "pairs sft_chosen", ("batches of 0", "batch_size")),
        ("max_length=-1", "teacher_responses dsft", ("rows of -1 tokens", "max_length")),
        ("max_length=-1", "teacher_responses prune", ("rows of -1 tokens", "max_length")),
        ("dtype=float8", "dsft answers", ("unknown dtype 'float8' (dtype)", "bfloat16")),
        ("dtype=float8", "dsft evaluate", ("unknown dtype 'float8' (dtype)", "bfloat16")),
        ("dtype=float8", "dsft capacity", ("unknown dtype 'float8' (dtype)", "bfloat16")),
        ("dtype=float8", "dsft serve", ("unknown dtype 'float8' (dtype)", "bfloat16")),
        ("dtype=float8", "teacher_responses prune", ("unknown dtype 'float8' (dtype)", "bfloat16")),
        ("dtype=float8", "teacher_responses", ("unknown dtype 'float8' (dtype)", "bfloat16")),
        ("policy_dtype=half", "teacher_responses dsft", ("unknown dtype 'half' (policy_dtype)", "float16")),
        ("trainer.precision=foo", "dsft", ("unknown precision 'foo' (trainer.precision)", "32-true, bf16-mixed")),
        ("trainer.precision=bf16-true", "dsft", ("would override the dtype of weights", "policy_dtype=", "dtype=")),
        ("trainer.precision=bf16-true", "scores", ("would override the dtype of weights", "policy_dtype=")),
        ("stage.dadpo.trainer.precision=16-true", "pairs dadpo", ("16-true would override", "trainer.precision")),
        ("gradient_checkpointing=off", "pairs dadpo", ("gradient_checkpointing is 'off'", "true or false")),
        ("gradient_checkpointing=no", "teacher_responses prune", ("gradient_checkpointing is 'no'", "true or false")),
        ("prune_ratio=2", "teacher_responses prune", ("got 2 (prune_ratio)", "below 1")),
        ("prune_ratio=half", "teacher_responses prune", ("got half (prune_ratio)", "below 1")),
        ("importance=foo", "teacher_responses prune", ("unknown importance 'foo'", "taylor")),
        ("prune_widths=[foo]", "teacher_responses prune", ("no such widths: foo (prune_widths)", "hidden")),
        ("prune_multiple_of=0", "teacher_responses prune", ("multiples of 0 (prune_multiple_of)",)),
        ("calibration_rows=0", "teacher_responses prune", ("0 rows were asked for (calibration_rows)",)),
        ("trainer.strategy=fsdp2 optimizer=adafactor", "pairs dadpo", ("adafactor does not step over shards", "adamw")),
        ("trainer.strategy=fsdp2 optimizer=adamw8bit", "dsft", ("adamw8bit does not step over shards", "trainer=ddp")),
    ],
)
def test_what_cannot_be_is_refused_before_any_stage(settings, stages, parts):
    text = said("dadpo_vicuna_pruned", settings, stages)
    assert text
    assert "\n" not in text
    for part in parts:
        assert part in text, text


@pytest.mark.parametrize(
    "settings",
    [
        "trainer.precision=bf16-mixed dtype=bfloat16 policy_dtype=bfloat16",
        "trainer.precision=32 token_budget=4096 sort_window=8 gradient_checkpointing=false",
        "trainer.precision=16 packing=off optimizer=adafactor",
        "trainer.strategy=fsdp2 trainer.precision=bf16-mixed",
        "packing=flex trainer.accelerator=gpu",
        "packing=flash trainer.accelerator=gpu",
    ],
)
def test_what_can_be_passes(settings):
    assert said("dadpo_vicuna_pruned", settings) == ""


def test_a_teacher_that_cannot_be_pruned_so_is_known_before_it_samples(model_folder):
    shape = {"hidden_size": 32, "intermediate_size": 96, "num_attention_heads": 4}
    coarse = said("dadpo_vicuna_pruned", "", teacher=str(model_folder("llama", **shape)))
    assert "no widths leave 0.8 of" in coarse  # in multiples of 64
    assert (
        said("dadpo_vicuna_pruned", "prune_multiple_of=1 prune_ratio=0.15", teacher=str(model_folder("llama", **shape)))
        == ""
    )
    assert "'gpt2' cannot be pruned" in said("dadpo_vicuna_pruned", "", teacher=str(model_folder("gpt2")))


def test_flex_is_not_for_attention_with_dropout(model_folder):
    settings = "packing=flex trainer.accelerator=gpu"
    start = str(model_folder(attention_dropout=0.5))
    assert "has one of 0.5 (packing=flex)" in said("dadpo_vicuna_pruned", settings, "scores dadpo", reference=start)


def test_pruning_is_not_sharded():
    config = OmegaConf.create(OmegaConf.to_container(once("dadpo_vicuna_pruned")))
    config.trainer = {**config.trainer, "strategy": "fsdp2", "devices": 8}
    trainers = {name: stage_config(config, name)["trainer"] for name in ("prune", "dsft")}
    assert {name: trainer["strategy"] for name, trainer in trainers.items()} == {"prune": "auto", "dsft": "fsdp2"}
    assert trainers["prune"]["devices"] == 8
    check_config(config)
