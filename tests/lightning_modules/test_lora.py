"""The settings of an adapter are refused before a model is built."""

import math

import pytest

from datamodules.wrong_input import WrongInput
from lightning_modules import FineTuningModule

LORA = {"rank": 4, "alpha": 6}


@pytest.mark.parametrize(
    ("lora", "what"),
    [
        ({"rank": 0}, "lora.rank is 0"),
        ({"rank": 2.5}, "lora.rank is 2.5"),
        ({"rank": True}, "lora.rank is True"),
        ({"alpha": 0}, "lora.alpha is 0"),
        ({"alpha": math.nan}, "lora.alpha is nan"),
        ({"dropout": 1.0}, "lora.dropout is 1.0"),
        ({"target_modules": []}, r"lora.target_modules is \[\]"),
        ({"target_modules": "q_proj"}, "lora.target_modules is 'q_proj'"),
        ({"rslora": "yes"}, "lora.rslora is 'yes'"),
        ({"ranks": 4}, "unknown keys ranks"),
        (16, "16 is no adapter"),
    ],
)
def test_wrong_settings_are_told_before_a_model_is_built(lora, what, tokenizer):
    with pytest.raises(WrongInput, match=what):
        FineTuningModule("sft", "nowhere", tokenizer, lora=lora)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"export_as": "adapter"}, "there is no adapter to export"),
        ({"export_as": "gguf", "lora": LORA}, "unknown export_as 'gguf'"),
        ({"quantization": "int4", "lora": LORA}, "unknown quantization 'int4'"),
    ],
)
def test_settings_that_do_not_go_together(settings, what, tokenizer):
    with pytest.raises(WrongInput, match=what):
        FineTuningModule("sft", "nowhere", tokenizer, **settings)
