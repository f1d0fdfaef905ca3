"""Models that score in fewer bits, and whether there is room for all of them."""

import math

import psutil
import pytest
import torch

from datamodules.wrong_input import WrongInput
from lightning_modules import ScoringModule, memory, scoring
from lightning_modules.frozen_teacher import check_frozen_teacher, lacks_weights
from lightning_modules.language_model import build_language_model, freeze
from lightning_modules.response_logps import response_logps

WIDE = {"initializer_range": 0.2, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
LENGTHS = [(3, 5), (9, 1), (1, 12), (4, 7)]


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_one_model_in_fewer_bits_beside_one_in_full(kind, tokenizer, model_folder, token_batch):
    pytest.importorskip("bitsandbytes", reason="quantized teachers need bitsandbytes")
    folder, batch = str(model_folder(seed=1, **WIDE)), token_batch(LENGTHS)
    module = ScoringModule({"reference": folder, "teacher": folder}, tokenizer, quantization={"teacher": kind})
    assert [module.approximation(name) for name in ("reference", "teacher")] == [None, f"in {kind}"]
    settings = {"vocabulary": len(tokenizer)}
    full = response_logps(freeze(build_language_model(folder)), batch, **settings)
    near = response_logps(freeze(build_language_model(folder, quantization=kind)), batch, **settings)
    assert (full - near).abs().max() > 0.01
    for index, name, expected in ((0, "reference", full), (1, "teacher", near)):
        found = torch.tensor(module.predict_step(batch, 0, index).logps)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        by_token = module.token_logps(name, batch)
        assert [len(row) for row in by_token] == [response for _, response in LENGTHS]
        torch.testing.assert_close(torch.tensor([math.fsum(row) for row in by_token]), expected, rtol=1e-5, atol=1e-5)
    of_full = [math.fsum(row) for row in module.token_logps("teacher", batch, full=True)]
    torch.testing.assert_close(torch.tensor(of_full), full, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.tensor(module.predict_step(batch, 0, 1).logps), near, rtol=1e-5, atol=1e-5)


def test_weights_that_do_not_fit_are_not_loaded(tokenizer, model_folder, monkeypatch):
    folder = model_folder(seed=1)
    count = sum(p.numel() for p in build_language_model(folder).parameters())
    module = ScoringModule({"teacher": str(folder)}, tokenizer, dtype="bfloat16")
    monkeypatch.setattr(scoring, "free_memory", lambda device: 2 * count / 0.9 + 1)
    module.check_room("teacher")
    monkeypatch.setattr(scoring, "free_memory", lambda device: 2 * count / 0.9 - 1)
    with pytest.raises(WrongInput, match="its weights need .* are left of the cpu"):
        module.check_room("teacher")


def test_free_memory_is_the_machines_within_its_group(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    here = memory.free_memory(torch.device("cpu"))
    assert here == pytest.approx(psutil.virtual_memory().available, rel=0.2)
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("3000\n")
    (tmp_path / "memory.stat").write_text("anon 2000\ninactive_file 700\n")
    assert memory.free_memory(torch.device("cpu")) == 2700
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_memory(torch.device("cpu")) == pytest.approx(here, rel=0.2)


def test_what_the_teacher_cannot_be(model_folder, tmp_path):
    good = {"quantization": None, "agreement_pairs": "auto", "teacher": "hub/id", "scorer": "local", "mode": "cached"}
    check_frozen_teacher(**good)
    check_frozen_teacher(**good | {"scorer": "endpoint", "agreement_pairs": 2})
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "hub/id"}')
    pytest.importorskip("bitsandbytes", reason="quantized teachers need bitsandbytes")
    check_frozen_teacher(**good | {"quantization": "nf4", "agreement_pairs": 0})
    with pytest.raises(WrongInput, match="an adapter is not quantised"):
        check_frozen_teacher(**good | {"quantization": "nf4", "teacher": str(adapter)})
    for wrong in (True, 1.5, -1, 1, "all", None):
        with pytest.raises(WrongInput, match="agreement_pairs"):
            check_frozen_teacher(**good | {"quantization": "nf4", "agreement_pairs": wrong})
    assert lacks_weights(str(adapter))
    assert not lacks_weights("hub/id")
    assert not lacks_weights(str(model_folder()))
