import pytest
import torch

from callbacks.run.checkpoints import AtomicCheckpointIO, newest_checkpoint


def test_a_checkpoint_that_is_there_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "step=1.ckpt"
    io = AtomicCheckpointIO()
    io.save_checkpoint({"a": torch.ones(3)}, path)
    monkeypatch.setattr("callbacks.run.checkpoints.os.replace", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        io.save_checkpoint({"a": torch.zeros(3)}, path)
    assert torch.load(path, weights_only=True)["a"].sum() == 3
    assert [p.name for p in tmp_path.iterdir()] == ["step=1.ckpt"]


def test_the_newest_that_can_be_read_is_taken(tmp_path, caplog):
    assert newest_checkpoint(tmp_path) is None
    io = AtomicCheckpointIO()
    for step in (1, 2, 3):
        io.save_checkpoint({"step": step}, tmp_path / f"step={step}.ckpt")
    (tmp_path / "step=3.ckpt").write_bytes(b"cut short")
    assert newest_checkpoint(tmp_path) == tmp_path / "step=2.ckpt"
    assert "step=3.ckpt" in caplog.text
    assert not (tmp_path / "step=3.ckpt").exists()
