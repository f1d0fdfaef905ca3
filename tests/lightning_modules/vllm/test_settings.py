"""What vLLM may be told, before anything runs."""

import pytest

from datamodules.wrong_input import WrongInput
from lightning_modules.sampling import Sampling
from lightning_modules.vllm import VLLMSettings, check_vllm


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"requests": 0}, "vllm.requests"),
        ({"requests": 2.5}, "vllm.requests"),
        ({"requests": True}, "vllm.requests"),
        ({"max_length": -1}, "vllm.max_length"),
        ({"startup_s": 0}, "vllm.startup_s"),
        ({"startup_s": "long"}, "vllm.startup_s"),
        ({"startup_s": float("nan")}, "vllm.startup_s"),
        ({"args": "--enforce-eager"}, "vllm.args"),
        ({"args": ["--port", 8000]}, "vllm.args"),
        ({"args": ["--served_model_name=x"]}, "vllm.args"),
        ({"command": "no-such-command"}, "vllm.command=no-such-command"),
    ],
)
def test_wrong_settings_are_refused(fake, settings, where):
    with pytest.raises(WrongInput) as refused:
        VLLMSettings(**{"command": str(fake.path), **settings})
    assert refused.value.where == where


def test_a_command_is_found_on_the_path_and_from_home(fake, monkeypatch):
    monkeypatch.setenv("PATH", str(fake.path.parent))
    assert VLLMSettings(args=["--max-num-seqs", 4]).path() == str(fake.path)
    monkeypatch.setenv("HOME", str(fake.path.parent))
    settings = VLLMSettings("~/vllm", args=["--max-num-seqs", 4])
    assert settings.path() == str(fake.path)
    assert settings.args == ("--max-num-seqs", "4")


@pytest.mark.parametrize(
    ("dtype", "temperature", "devices", "said"),
    [
        ("float64", 1.0, 1, "does not compute in float64"),
        ("bfloat16", 2.1, 1, "does not sample at temperature 2.1"),
        ("bfloat16", 0.001, 1, "does not sample at temperature 0.001"),
        ("bfloat16", 1.0, 2, "2 processes"),
        ("bfloat16", 1.0, [0, 1], "2 processes"),
    ],
)
def test_what_vllm_cannot_do_is_refused_of_it_alone(fake, dtype, temperature, devices, said):
    settings = {"command": str(fake.path)}
    sampling = {"chosen": Sampling(), "rejected": Sampling(temperature=temperature)}
    with pytest.raises(WrongInput, match=said):
        check_vllm("vllm", settings, dtype, sampling, devices)
    with pytest.raises(WrongInput, match=said):
        check_vllm("vllm", settings, dtype, sampling["rejected"], devices)
    check_vllm("auto", {"command": "nowhere"}, dtype, sampling, devices)


def test_models_that_we_would_quantise_are_refused(fake):
    settings, sampling = {"command": str(fake.path)}, Sampling()
    with pytest.raises(WrongInput, match="quantise") as refused:
        check_vllm("vllm", settings, "bfloat16", sampling, quantization={"rejected": None, "chosen": "nf4"})
    assert "stage.NAME.module.quantization.chosen=null" in refused.value.mend
    check_vllm("vllm", settings, "bfloat16", sampling, quantization={"chosen": None})
    check_vllm("auto", settings, "bfloat16", sampling, quantization={"chosen": "nf4"})


@pytest.mark.parametrize("temperature", [0, 0.01, 2])
@pytest.mark.parametrize("devices", [1, "auto", [3]])
def test_what_vllm_can_do_passes(fake, temperature, devices):
    check_vllm("vllm", {"command": str(fake.path)}, "float16", Sampling(temperature=temperature), devices)
