"""Settings by which a policy fits a device or runs faster on it: from the command line to the weights."""

import pytest
import torch
from safetensors.torch import load_file

from lightning_modules import activation_offload
from lightning_modules.host_copies import COPIES
from tests.conf.test_wrong_inputs import GOOD, GOOD2, one_line, pairs
from tests.lightning_modules.late_copies import LateCopies


@pytest.fixture
def distil(command, model_folder, tmp_path):
    """``stages=[scores,dadpo]`` on given pairs with tiny folders; gives the student's weights."""
    quick = ["trainer=cpu", "+trainer.enable_progress_bar=false", "dtype=float32", "trainer.precision=32-true"]
    quick += ["trainer.accumulate_grad_batches=1", "batch_size=1", "lr=0.01", "epochs=2"]

    def run(name, *extra):
        data = pairs(tmp_path / "pairs.jsonl", GOOD, GOOD2)
        deep = {"num_hidden_layers": 4}
        folders = [f"teacher={model_folder(seed=1, **deep)}", f"student={model_folder(seed=2, **deep)}"]
        said = ["experiment=dadpo_qwen", f"data={data}", *folders, "stages=[scores,dadpo]", *quick, *extra]
        code, err = command(*said, f"hydra.run.dir={tmp_path / name}")
        assert code == 0, err
        return load_file(tmp_path / name / "dadpo/model/model.safetensors")

    return run


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", ["false", "true"])
def test_offloaded_activations_give_the_same_student(distil, monkeypatch, checkpointing):
    plain = distil("plain", f"gradient_checkpointing={checkpointing}")
    made = []
    monkeypatch.setitem(COPIES, "cpu", lambda device: made.append(LateCopies(device)) or made[-1])
    monkeypatch.setattr(activation_offload, "SMALLEST", 0)
    moved = distil("moved", f"gradient_checkpointing={checkpointing}", "activation_offload=true")
    assert made[-1].came > 0  # the first was the check's
    assert moved.keys() == plain.keys()
    assert all(torch.equal(moved[name], plain[name]) for name in plain)
    start = distil("start", "lr=0.0")
    assert any(not torch.equal(start[name], plain[name]) for name in plain)


def test_a_cpu_has_nowhere_to_send_activations(command, model_folder, tmp_path):
    settings = ["experiment=dadpo_quickstart", "activation_offload=true"]
    one_line(command(*settings), "activations are in the host's memory already", "trainer=gpu")
    assert not (tmp_path / "cache").exists()
