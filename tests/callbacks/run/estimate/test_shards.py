"""A training in shards: closed forms, and the peak of two processes as torch's profiler sees it."""

import pytest
import torch
from lightning import LightningDataModule, Trainer
from torch.utils.data import DataLoader

import callbacks.run  # noqa: F401  (the strategy fsdp2)
from callbacks.run.estimate.memory import Batch, Precision
from callbacks.run.estimate.models import Frozen, Policy
from callbacks.run.estimate.moments import peak
from callbacks.run.estimate.shape import shape_of
from callbacks.run.estimate.training import training_moments
from datamodules.batches import PairBatch, PairScores
from lightning_modules import DaDPOModule
from lightning_modules.language_model import build_skeleton
from tests.callbacks.run.estimate import test_moments as alone
from tests.callbacks.run.estimate.test_moments import PAIRS, PROMPT, RESPONSES, TEACHER, WIDE, side
from tests.two_processes import in_two, ranks_of

READ = Batch(2 * PAIRS, PROMPT + max(RESPONSES), PAIRS * sum(RESPONSES))


def policy(tokenizer, shards, precision=(4, 4), checkpointing=False, fields=WIDE) -> Policy:
    shape = shape_of(build_skeleton(fields, tokenizer))
    return Policy(shape, Precision(*precision), len(tokenizer), checkpointing, False, 2, cuda=False, shards=shards)


@pytest.mark.parametrize("shards", [2, 8])
def test_a_rank_s_share_and_what_is_gathered(shards, tokenizer):
    tied = WIDE | {"tie_word_embeddings": True}
    skeleton = build_skeleton(tied, tokenizer)
    count = sum(p.numel() for p in skeleton.parameters())
    root = skeleton.model.embed_tokens.weight.numel() + skeleton.model.norm.weight.numel()
    layer = sum(p.numel() for p in skeleton.model.layers[0].parameters())
    assert count == root + WIDE["num_hidden_layers"] * layer
    step = training_moments(policy(tokenizer, shards, fields=tied), READ)
    forward, narrow = step["forward"], training_moments(policy(tokenizer, shards, (4, 2), fields=tied), READ)["forward"]
    for held in (forward, narrow):
        assert held["weights"] == held["gradients"] == 4 * count / shards
        assert held["optimizer"] == 2 * 4 * count / shards
        assert not {"weights cast", "gradient buckets"} & held.keys()
    assert forward["gathered"] == 4 * (root + 2 * layer)
    assert narrow["gathered"] == 4 * root + 2 * 2 * layer  # the root as it is, layers in bfloat16
    assert step["backward of the last layer"]["gradients of a layer"] == 2 * 4 * layer
    assert step["reduction of the root"]["gradients of the root"] == 2 * 4 * root
    assert step["checkpoint"]["checkpoint"] == 3 * 4 * count / shards
    assert step["gathered export"]["gathered"] == 4 * count
    unsharded = training_moments(policy(tokenizer, 1, fields=tied), READ)
    assert unsharded["forward"]["activations"] == forward["activations"]  # of a rank's own rows
    assert not {"reduction of the root", "gathered export"} & unsharded.keys()


class OfAPair(LightningDataModule):
    def train_dataloader(self):
        scores = PairScores(*(torch.full((PAIRS,), -5.0) for _ in range(4)))
        return DataLoader([PairBatch(side(RESPONSES[0]), side(RESPONSES[1]), scores)] * 3, batch_size=None)


def measure(tokenizer, mode, checkpointing, precision, folder):
    settings = {"mode": mode, "teacher": TEACHER, "gradient_checkpointing": checkpointing}
    module = DaDPOModule(WIDE, tokenizer, **settings)
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy="fsdp2", precision=precision, max_epochs=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False,
    )  # fmt: skip
    found = alone.allocated(lambda: trainer.fit(module, datamodule=OfAPair()))
    torch.save(found, folder / f"{trainer.global_rank}.pt")


@pytest.mark.slow
@pytest.mark.parametrize(("checkpointing", "precision"), [(False, "32-true"), (True, "32-true"), (False, "bf16-mixed")])
@pytest.mark.parametrize("mode", ["cached", "live"])
def test_the_peak_of_two_processes(mode, checkpointing, precision, tokenizer, tmp_path):
    in_two(measure, tokenizer, mode, checkpointing, precision, tmp_path)
    found = max(torch.load(path) for path in ranks_of(tmp_path))
    frozen = [(Frozen(shape_of(build_skeleton(fields, tokenizer)), 4), READ) for fields in (WIDE, TEACHER)]
    planned = policy(tokenizer, 2, (4, 2 if "16" in precision else 4), checkpointing)
    moments = training_moments(planned, READ, frozen if mode == "live" else [])
    for after in ("checkpoint", "gathered export"):
        del moments[after]
    assert peak(moments)[1] == pytest.approx(found, rel=alone.TOLERANCE), (peak(moments), found / 2**20)
