"""Sharded over two processes, a model learns what it learns in one."""

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

import callbacks.run  # noqa: F401  (the strategy fsdp2)
from callbacks.export import ExportCallback
from callbacks.run.checkpoints import AtomicCheckpointIO
from datamodules.preference_pairs import PreferencePairsDataModule
from lightning_modules import DaDPOModule
from lightning_modules.language_model import build_language_model
from lightning_modules.sharding import full_weights, is_sharded
from tests.two_processes import in_two, ranks_of

WIDE = {"initializer_range": 0.2, "num_hidden_layers": 2}
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}


class Keep(Callback):
    """The loss of every step, the last validation, and the weights, of each rank."""

    def __init__(self, folder, name="dadpo"):
        self.folder, self.name, self.losses = folder, name, []
        folder.mkdir(parents=True, exist_ok=True)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(trainer.callback_metrics[f"{self.name}/train/loss"].item())

    def on_fit_end(self, trainer, pl_module):
        policy = pl_module.policy
        weights = full_weights(policy) if is_sharded(policy) else policy.state_dict()
        metrics = {key: value.item() for key, value in trainer.callback_metrics.items()}
        torch.save((self.losses, metrics, weights), self.folder / f"{trainer.global_rank}.pt")


def adam(groups):
    return torch.optim.AdamW(groups, lr=3e-3, fused=True)


@pytest.fixture(scope="module")
def folders(model_folder):
    def make(tied=False, **config):
        return {name: model_folder(seed=i, tie_word_embeddings=tied, **WIDE, **config) for i, name in enumerate("sr")}

    return make


@pytest.fixture
def training(folders, tokenizer, pairs_file, tmp_path):
    """``training(name, devices, **settings)``: train on pairs and keep what came of it under a name."""

    def run(name, devices=1, *, tied=False, resume=None, saved=None, module=None, data=None, **settings):
        student, teacher = folders(tied).values()
        live = {"mode": "live", "teacher": teacher, "optimizer": adam, **(module or {})}
        made = DaDPOModule(student, tokenizer, **live)
        rows = {"batch_size": 8 // devices, "val_fraction": 0.3, "packing": "auto", **(data or {})}
        pairs = PreferencePairsDataModule(str(pairs_file), tokenizer, **rows)
        keep = [ModelCheckpoint(saved, "{step}", every_n_train_steps=1, save_top_k=-1)] if saved else []
        fixed = {"max_epochs": 2, "gradient_clip_val": 0.3, "use_distributed_sampler": False, "accelerator": "cpu"}
        trainer = Trainer(
            devices=devices,
            callbacks=[Keep(tmp_path / name), *keep, ExportCallback(tmp_path / name / "model")],
            enable_checkpointing=bool(keep),
            plugins=[AtomicCheckpointIO()],
            **{**QUIET, **fixed, **settings},
        )
        trainer.fit(made, datamodule=pairs, ckpt_path=resume, weights_only=True if resume else None)

    return run


def kept(folder):
    """What each rank has kept of a training."""
    return [torch.load(path, weights_only=True) for path in ranks_of(folder)]


def assert_same_training(ranks, alone, steps=slice(None), tolerance=1e-5):
    (losses, metrics, weights) = alone
    for rank, (its_losses, its_metrics, its_weights) in enumerate(ranks):
        assert its_losses == pytest.approx(losses[steps], abs=tolerance)
        for key in metrics.keys() - {"dadpo/val/useful_token_share"}:  # rows are packed otherwise
            if not key.endswith(("p10", "p50", "p90")) and "useful" not in key:  # quantiles of a rank's pairs
                assert its_metrics[key] == pytest.approx(metrics[key], abs=100 * tolerance), key
        if rank == 0:
            assert its_weights.keys() == weights.keys()
        for name, value in its_weights.items():
            torch.testing.assert_close(value, weights[name], rtol=1e-3, atol=tolerance, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
def test_two_processes_learn_what_one_learns(training, tmp_path, tied):
    training("one", tied=tied)
    for name, settings in {
        "ddp": {"strategy": "ddp"},
        "fsdp2": {"strategy": "fsdp2"},
        "checkpointed": {"strategy": "fsdp2", "module": {"gradient_checkpointing": True}},
    }.items():
        in_two(training, name, 2, tied=tied, **settings)
        assert_same_training(kept(tmp_path / name), kept(tmp_path / "one")[0])
    losses, _, weights = kept(tmp_path / "one")[0]
    assert len(losses) == 4
    assert max(losses) - min(losses) > 0.01
    exported = build_language_model(tmp_path / "fsdp2" / "model")
    assert not any(path.name.startswith(".") for path in (tmp_path / "fsdp2").iterdir())
    assert type(exported).__name__ == "Qwen2ForCausalLM"
    assert exported.config.architectures == ["Qwen2ForCausalLM"]
    for name, value in exported.state_dict().items():
        torch.testing.assert_close(value, weights[name], rtol=1e-3, atol=1e-5, msg=name)
