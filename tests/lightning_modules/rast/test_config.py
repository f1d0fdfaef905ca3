"""conf/lightning_module/rast.yaml makes the module, and every setting of it is one of the module's."""

import inspect
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

import conf
from lightning_modules import RASTModule
from lightning_modules.rast import StyleRetriever

FILE = Path(conf.__file__).parent / "lightning_module" / "rast.yaml"


@pytest.fixture
def config(folders):
    """The file, with the short keys and what the data side gives."""
    keys = {
        "style_generator": str(folders["generator"]),
        "vanilla_generator": str(folders["vanilla"]),
        "reward_qa": str(folders["qa"]),
        "retriever": str(folders["generator"]),
        "tokenizer": str(folders["generator"]),
        "retriever_tokenizer": str(folders["generator"]),
        "diversity_weight": 0.05,
        "templates_per_passage": 2,
        "baseline": "group",
        "kl_weight": 0.125,
        "lr": 1e-6,
        "retriever_lr": 1e-7,
        "policy_dtype": "float32",
        "dtype": "bfloat16",
        "seed": 7,
        "betas": [0.9, 0.98],
        "max_new_tokens": 32,
        "max_length": 64,
        "candidates": 100,
        "cluster": None,
        "index": None,
        "train_retriever": True,
        "rl_accumulate": 2,
        "rl_clip": 0.25,
    }
    module = OmegaConf.load(FILE)
    module.name = "rl"
    module.retriever.bank = {"_target_": "types.SimpleNamespace", "texts": ["who ?", "when ?", "where ?"]}
    module.template_of = module.encoder = None
    module.rewards.diversity.words = {"_target_": "hydra.utils.get_method", "path": "builtins.set"}
    return OmegaConf.create({**keys, "module": module})


def test_every_parameter_has_its_key():
    names = set(inspect.signature(RASTModule).parameters)
    assert set(OmegaConf.load(FILE)) - {"_target_"} == names - {"attn_implementation", "padded_vocabulary"}
    given = set(OmegaConf.load(FILE).retriever) - {"_target_", "_partial_"}
    assert given <= set(inspect.signature(StyleRetriever).parameters)


def test_it_makes_the_module(config, tmp_path):
    OmegaConf.resolve(config)
    module = instantiate(config.module, _convert_="all")
    module.configure_model()
    assert module.name == "rl"
    assert module.objective.rewards.weights == {"consistency": 1.0, "diversity": 0.05}
    assert (module.objective.kl_weight, module.objective.baseline) == (0.125, "group")
    assert (module.questioner.count, module.seed) == (2, 7)
    assert (module.accumulate, module.clip) == (2, 0.25)
    assert {model.dtype for model in module._frozen} == {torch.bfloat16}
    for part, make, lr in zip(
        module.trained_parts(), (module.make_optimizer, module.make_second_optimizer), (1e-6, 1e-7), strict=True
    ):
        optimizer = make(part.parameters())
        assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (lr, 0.1)


def test_a_users_reward_needs_only_a_config(config):
    config.module.rewards.brevity = {"_target_": "hydra.utils.get_method", "path": "builtins.len"}
    config.module.reward_weights.brevity = 0.3
    OmegaConf.resolve(config)
    rewards = instantiate(config.module, _convert_="all").objective.rewards
    assert rewards.terms["brevity"] is len
    assert rewards.weights["brevity"] == 0.3
