"""Sharded over two processes, a model learns what it learns in one."""

import os
from pathlib import Path

import pytest
import torch
from lightning import LightningDataModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.utils.data import DataLoader

import callbacks.run  # noqa: F401  (the strategy fsdp2)
from callbacks.export import ExportCallback
from callbacks.run.checkpoints import AtomicCheckpointIO
from callbacks.run.same_steps import SameSteps
from callbacks.score_writer import ScoreWriter
from datamodules.preference_pairs import PreferencePairsDataModule
from datamodules.scored_pairs import response_key
from datamodules.wrong_input import WrongInput
from lightning_modules import DaDPOModule, FineTuningModule, ScoringModule
from lightning_modules.language_model import build_language_model, build_skeleton
from lightning_modules.sharding import _blocks, _check_weights, full_weights, is_sharded, whole
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
        rows = {"batch_size": 8 // devices, "val_fraction": 0.15, "packing": "auto", **(data or {})}
        pairs = PreferencePairsDataModule(str(pairs_file), tokenizer, **rows)
        keep = [ModelCheckpoint(saved, "{step}", every_n_train_steps=1, save_top_k=-1)] if saved else []
        fixed = {"max_epochs": 2, "gradient_clip_val": 0.3, "use_distributed_sampler": False, "accelerator": "cpu"}
        trainer = Trainer(
            devices=devices,
            callbacks=[Keep(tmp_path / name), *keep, SameSteps(), ExportCallback(tmp_path / name / "model")],
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


@pytest.mark.slow
def test_a_run_goes_on_with_more_processes_or_fewer(training, tmp_path):
    training("one", tied=True, saved=tmp_path / "file")
    in_two(training, "two", 2, tied=True, strategy="fsdp2", saved=tmp_path / "parts")
    alone = kept(tmp_path / "one")[0]
    file, parts = (tmp_path / "file/step=1.ckpt", tmp_path / "parts/step=1.ckpt")
    assert file.is_file()
    assert sorted(path.name for path in parts.iterdir()) == [".metadata", "__0_0.distcp", "__1_0.distcp", "meta.pt"]
    training("with one", 1, tied=True, resume=parts)
    in_two(training, "killed", 2, tied=True, strategy="fsdp2", resume=tmp_path / "parts/step=3.ckpt")
    in_two(training, "with two", 2, tied=True, strategy="fsdp2", resume=file)
    in_two(training, "with copies", 2, tied=True, strategy="ddp", resume=parts)
    for name, steps in {"with one": 1, "killed": 3, "with two": 1, "with copies": 1}.items():
        assert_same_training(kept(tmp_path / name), alone, slice(steps, None))
    with pytest.raises(WrongInput, match="with 2 batches an epoch, here there are 5"):
        training("smaller", 1, tied=True, resume=parts, data={"batch_size": 4})


class Shares(LightningDataModule):
    """A rank's batch, or batches, the same in each of three steps."""

    def __init__(self, *shares):
        super().__init__()
        self.shares = shares

    def train_dataloader(self):
        share = self.shares[self.trainer.global_rank]
        return DataLoader((share if isinstance(share, list) else [share]) * 3, batch_size=None)


def rows_of(batch, rows):
    """Some rows of a batch of any kind."""
    if batch is None or isinstance(batch, torch.Tensor):
        return None if batch is None else batch[rows]
    return (
        [batch[i] for i in rows] if isinstance(batch, list) else type(batch)(*(rows_of(part, rows) for part in batch))
    )


def fit(module, folder, name, shares, devices, **settings):
    keep = Keep(folder / f"{name} {devices} {settings.get('strategy')}", name)
    fixed = {"accelerator": "cpu", "devices": devices, "max_epochs": 1, "enable_checkpointing": False, **QUIET}
    trainer = Trainer(callbacks=[keep], use_distributed_sampler=False, log_every_n_steps=1, **fixed, **settings)
    trainer.fit(module(), datamodule=Shares(*shares))
    return keep.folder


@pytest.fixture
def kinds(folders, tokenizer, t5_folder, pair_batch, token_batch, seq2seq_batch):
    """Name → how such a module is made, and a batch of four rows."""
    student, teacher = folders().values()
    lengths = [(3, 2), (2, 9), (5, 1), (4, 4)]
    t5 = t5_folder(num_layers=2)
    live = {"mode": "live", "teacher": teacher, "optimizer": adam}
    return {
        "dadpo": (lambda: DaDPOModule(student, tokenizer, **live), pair_batch(4)),
        "sft": (lambda: FineTuningModule("sft", student, tokenizer, optimizer=adam), token_batch(lengths)),
        "t5": (lambda: FineTuningModule("t5", t5, tokenizer, optimizer=adam), seq2seq_batch(lengths)),
    }


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize("kind", ["dadpo", "sft", "t5"])
def test_unequal_shares_count_by_their_items(kinds, tmp_path, kind, strategy):
    """Three rows on one rank and one on the other are the mean over all four pairs, or over all their tokens."""
    module, batch = kinds[kind]
    alone = kept(fit(module, tmp_path, kind, [batch], 1))[0]
    shares = [rows_of(batch, [0, 1, 2]), rows_of(batch, [3])]
    in_two(fit, module, tmp_path, kind, shares, 2, strategy=strategy)
    for losses, _, weights in kept(tmp_path / f"{kind} 2 {strategy}"):
        assert losses == pytest.approx(alone[0], abs=1e-5)
        for name, value in weights.items():
            torch.testing.assert_close(value, alone[2][name], rtol=1e-3, atol=2e-5, msg=name)
    assert alone[0][0] - alone[0][-1] > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_batches_of_an_update_count_by_their_items_on_all_ranks(kinds, tmp_path, strategy):
    """Two batches of one row each, of other lengths, on either rank are the mean over the tokens of all four."""
    module, batch = kinds["sft"]
    _, _, alone = kept(fit(module, tmp_path, "sft", [batch], 1))[0]
    shares = [[rows_of(batch, [0]), rows_of(batch, [1])], [rows_of(batch, [2]), rows_of(batch, [3])]]
    in_two(fit, module, tmp_path, "sft", shares, 2, strategy=strategy, accumulate_grad_batches=2)
    for losses, _, weights in kept(tmp_path / f"sft 2 {strategy}"):
        assert len(losses) == 6
        for name, value in weights.items():
            torch.testing.assert_close(value, alone[name], rtol=1e-3, atol=2e-5, msg=name)


@pytest.mark.slow
def test_two_ranks_fill_the_cache_with_what_one_says(folders, tokenizer, pairs_file, tmp_path):
    student, teacher = map(str, folders().values())

    def score(cache, devices, strategy="auto"):
        models = {"reference": student, "teacher": teacher}
        rows = {"score_batch_size": 6, "packing": "auto", "cache_dir": tmp_path / cache, **models}
        data = PreferencePairsDataModule(str(pairs_file), tokenizer, **rows)
        fixed = {"accelerator": "cpu", "devices": devices, "strategy": strategy, "use_distributed_sampler": False}
        trainer = Trainer(callbacks=[ScoreWriter()], enable_checkpointing=False, **fixed, **QUIET)
        trainer.predict(ScoringModule(models, tokenizer), datamodule=data, return_predictions=False)
        return data

    data = score("one", 1)
    in_two(score, "two", 2, "fsdp2")
    pairs = (*data.train_pairs, *data.val_pairs)
    keys = list(dict.fromkeys(response_key(each) for pair in pairs for each in pair.responses))
    again = PreferencePairsDataModule(
        str(pairs_file), tokenizer, reference=student, teacher=teacher, cache_dir=tmp_path / "two"
    )
    for name in ("reference", "teacher"):
        one, two = data.cache(name).read(keys), again.cache(name).read(keys)
        assert len(one) == len(keys) == 48
        assert two == pytest.approx(one, abs=1e-4)


class Noting(DaDPOModule):
    """Writes down where its models are when they are about to be shared out."""

    folder: Path

    def spread(self, model, precision=None):
        with (self.folder / f"{self.global_rank}.txt").open("a") as file:
            file.write(f"{model.device.type} ")
        return super().spread(model, precision)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("gemma3_text", {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8}),
        ("llama", {"tie_word_embeddings": True}),
    ],
)
def test_only_the_first_process_reads_weights(model_folder, tokenizer, pair_batch, tmp_path, family, fields):
    """The others get theirs, and what a model computes for itself: angles of positions, scales of embeddings."""
    student, teacher = (model_folder(family, seed=seed, **WIDE, **fields) for seed in range(2))
    Noting.folder = tmp_path

    def module():
        return Noting(student, tokenizer, mode="live", teacher=teacher, optimizer=adam)

    batch = pair_batch(4)
    alone = kept(fit(module, tmp_path, "dadpo", [batch], 1))[0]
    (tmp_path / "0.txt").unlink()
    in_two(fit, module, tmp_path, "dadpo", [rows_of(batch, [0, 1]), rows_of(batch, [2, 3])], 2, strategy="fsdp2")
    assert [(tmp_path / f"{rank}.txt").read_text().split() for rank in range(2)] == [["cpu"] * 3, ["meta"] * 3]
    for losses, _, weights in kept(tmp_path / "dadpo 2 fsdp2"):
        assert losses == pytest.approx(alone[0], abs=1e-5)
        for name, value in weights.items():
            torch.testing.assert_close(value, alone[2][name], rtol=1e-3, atol=2e-5, msg=name)


class Nested(DaDPOModule):
    """Asks for the whole policy around what asks for it too."""

    def policy_logps(self, batch):
        assert self.policy is not None
        return whole(self.policy, lambda policy: super(Nested, self).policy_logps(batch))


@pytest.mark.slow
def test_a_new_student_starts_as_the_first_process_makes_it(folders, tokenizer, pair_batch, tmp_path):
    """And so does its reference, which is a copy: the first margin is the teacher's part alone."""
    teacher = folders()["r"]
    fields = {"model_type": "qwen2", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    fields |= {"num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.2}

    def new():
        torch.manual_seed(int(os.environ.get("LOCAL_RANK", 0)))
        return Nested(fields, tokenizer, name="new", mode="live", teacher=teacher, optimizer=adam)

    batch = pair_batch(4)
    alone = kept(fit(new, tmp_path, "new", [batch], 1))[0]
    in_two(fit, new, tmp_path, "new", [rows_of(batch, [0, 1]), rows_of(batch, [2, 3])], 2, strategy="fsdp2")
    for losses, metrics, _ in kept(tmp_path / "new 2 fsdp2"):
        assert losses == pytest.approx(alone[0], abs=1e-5)
        assert metrics["new/train/overshoot_factor"] == pytest.approx(alone[1]["new/train/overshoot_factor"])


@pytest.mark.slow
def test_bfloat16_in_shards_is_bfloat16_in_one_process(training, tmp_path):
    """Blocks are gathered in bfloat16, and gradients clipped; what is left is the rounding of products."""
    settings = {"precision": "bf16-mixed", "module": {"beta_ref": 0.5, "beta_teacher": 0.5}}
    training("plain", module=settings["module"])
    training("one", **settings)
    in_two(training, "two", 2, strategy="fsdp2", **settings)
    plain, one, two = (kept(tmp_path / name)[0] for name in ("plain", "one", "two"))
    assert two[0] == pytest.approx(one[0], abs=0.05)
    assert two[0] != pytest.approx(plain[0], abs=1e-6)  # it was at work
    assert {value.dtype for value in two[2].values()} == {torch.float32}


def refused(training, said, **settings):
    with pytest.raises(WrongInput, match=said):
        training("refused", 2, strategy="fsdp2", **settings)


@pytest.mark.slow
def test_what_cannot_be_sharded_is_refused(training, monkeypatch):
    def mixed(*args, **kwargs):
        model = build_language_model(*args, **kwargs)
        model.lm_head.to(torch.bfloat16)
        return model

    in_two(refused, training, "precision bf16-true", precision="bf16-true")
    monkeypatch.setattr(DaDPOModule, "build_policy", staticmethod(mixed))
    in_two(refused, training, "weights in bfloat16 and float32")


def test_weights_shared_among_blocks_are_refused():
    skeleton = build_skeleton({"model_type": "qwen2", "num_hidden_layers": 2, "vocab_size": 9, "hidden_size": 64})
    _check_weights(skeleton, _blocks(skeleton))
    skeleton.model.layers[1].mlp.up_proj.weight = skeleton.model.layers[0].mlp.up_proj.weight
    with pytest.raises(WrongInput, match="share weights"):
        _check_weights(skeleton, _blocks(skeleton))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_fused_optimizer_clips_in_any_precision_that_scales_nothing(
    folders, tokenizer, pair_batch, trainer, precision
):
    """One step of plain descent at rate 1 is as long as the gradient, and no longer than the limit."""

    def descent(groups):
        return torch.optim.SGD(groups, lr=1.0, fused=True)

    student, teacher = folders().values()
    module = DaDPOModule(student, tokenizer, mode="live", teacher=teacher, optimizer=descent, warmup=0.0)
    module.configure_model()
    before = torch.cat([p.detach().flatten().clone() for p in module.policy.parameters()])
    fit = trainer(max_steps=1, gradient_clip_val=0.01, precision=precision)
    fit.fit(module, datamodule=Shares(pair_batch(4)))
    after = torch.cat([p.detach().flatten() for p in module.policy.parameters()])
    assert (after - before).norm() == pytest.approx(0.01, rel=1e-3)
