"""The same loss and gradients as TRL's DPOTrainer: as it is for DPO, and through a ten-line subclass for daDPO."""

import copy

import pytest
import torch

pytest.importorskip("trl", reason="TRL is the peer that this is held against")
from datasets import Dataset
from trl import DPOConfig, DPOTrainer
from trl.trainer.utils import add_fused_lm_head

from datamodules.preference_pairs import PreferencePairsDataModule
from lightning_modules import DaDPOModule
from lightning_modules.dadpo import Variants
from lightning_modules.language_model import build_language_model

PAIRS = 4
# ChatML with the line break between turns only: TRL trains on all that the template writes, and so on the line break
# that the almanac's (like Qwen's) puts behind the end of the turn, which is never generated.
TEMPLATE = (
    "{% for message in messages %}{% if not loop.first %}{{ '\\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n<|im_start|>assistant\\n' }}{% endif %}"
)


class DaDPOTrainer(DPOTrainer):
    """DaDPO is DPO at β = β1 + β2 from the reference (β1·ref + β2·te) / (β1 + β2)."""

    def __init__(self, *arguments, teacher, beta_ref, beta_teacher, **settings):
        self.teacher, self.shares = (
            teacher,
            (beta_ref / (beta_ref + beta_teacher), beta_teacher / (beta_ref + beta_teacher)),
        )
        add_fused_lm_head(teacher)
        super().__init__(*arguments, **settings)

    def compute_ref_log_probs(self, model, inputs):
        both = zip(
            *(super(DaDPOTrainer, self).compute_ref_log_probs(m, inputs) for m in (model, self.teacher)), strict=True
        )
        return tuple(self.shares[0] * reference + self.shares[1] * teacher for reference, teacher in both)


@pytest.fixture(scope="module")
def folders(model_folder):
    """Student, reference and teacher: three different tiny models, far from uniform."""
    wide = {"initializer_range": 0.3}
    return model_folder(seed=1, **wide), model_folder(seed=2, **wide), model_folder(seed=3, hidden_size=24, **wide)


def our_batch(rows, tokenizer):
    """A batch of pairs as the datamodule makes it, and the rows in its order."""
    data = PreferencePairsDataModule(rows[:PAIRS], tokenizer, batch_size=PAIRS, val_fraction=0)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    return batch, [rows[int(place.removeprefix("row ")) - 1] for place in batch.chosen.row_ids]


def ours(folders, tokenizer, batch, beta_ref, beta_teacher, **variants):
    student, reference, teacher = folders
    module = DaDPOModule(
        student,
        tokenizer,
        mode="live",
        reference=reference,
        teacher=teacher,
        beta_ref=beta_ref,
        beta_teacher=beta_teacher,
        variants=Variants(**variants),
    )
    module.configure_model()
    loss = module.training_step(batch, 0)
    loss.backward()
    return loss, module.policy


def theirs(folders, tokenizer, rows, tmp_path, beta_ref, beta_teacher, trainer_class=DPOTrainer, more=None, **losses):
    policy, reference = (build_language_model(folder) for folder in folders[:2])
    config = DPOConfig(
        str(tmp_path),
        beta=beta_ref + beta_teacher,
        per_device_train_batch_size=PAIRS,
        max_length=None,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        report_to="none",
        disable_tqdm=True,
        precompute_ref_log_probs=trainer_class is DaDPOTrainer,
        **{"loss_type": "sigmoid", **losses},
    )
    data = Dataset.from_list(rows)
    trainer = trainer_class(policy, reference, config, train_dataset=data, processing_class=tokenizer, **(more or {}))
    inputs = trainer.data_collator([trainer.train_dataset[i] for i in range(PAIRS)])
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    return loss, trainer.model, inputs


def assert_same(got, expected):
    (our_loss, our_policy), (their_loss, their_policy) = got, expected
    torch.testing.assert_close(our_loss, their_loss, rtol=1e-5, atol=1e-5)
    for (name, p), q in zip(our_policy.named_parameters(), their_policy.parameters(), strict=True):
        assert p.grad.abs().max() > 1e-4, name
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-5, atol=1e-5, msg=name)


@pytest.fixture(scope="module")
def chat_tokenizer(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def test_dpo(folders, chat_tokenizer, pair_rows, tmp_path):
    batch, rows = our_batch(pair_rows, chat_tokenizer)
    *expected, inputs = theirs(folders, chat_tokenizer, rows, tmp_path, 0.3, 0.0)
    stacked = batch.stacked()  # the very same tokens, the end of the turn included
    assert torch.equal(stacked.input_ids, inputs["input_ids"])
    assert torch.equal(stacked.attention_mask, inputs["attention_mask"])
    assert torch.equal(stacked.response_mask.long(), inputs["completion_mask"])
    last = stacked.attention_mask.sum(-1, keepdim=True) - 1
    assert (stacked.input_ids.gather(1, last) == chat_tokenizer.eos_token_id).all()
    assert_same(ours(folders, chat_tokenizer, batch, 0.3, 0.0), expected)
    assert abs(expected[0].item() - 0.693) > 0.05  # policy and reference differ


@pytest.mark.parametrize("betas", [(0.1, 0.2), (0.0, 0.3)])
def test_dadpo_through_the_shim(betas, folders, chat_tokenizer, pair_rows, tmp_path):
    batch, rows = our_batch(pair_rows, chat_tokenizer)
    teacher = {"teacher": build_language_model(folders[2]), "beta_ref": betas[0], "beta_teacher": betas[1]}
    *expected, _ = theirs(folders, chat_tokenizer, rows, tmp_path, *betas, DaDPOTrainer, teacher)
    assert_same(ours(folders, chat_tokenizer, batch, *betas), expected)
    dpo, _, _ = theirs(folders, chat_tokenizer, rows, tmp_path, sum(betas), 0.0)
    assert abs(expected[0].item() - dpo.item()) > 0.01  # the teacher made a difference


VARIANTS = {
    "sft": ({"sft_weight": 0.7}, {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.7]}),
    "normalised": ({"length_normalised": True}, {"loss_type": "sigmoid_norm"}),
    "both": (
        {"length_normalised": True, "sft_weight": 0.2},
        {"loss_type": ["sigmoid_norm", "sft"], "loss_weights": [1.0, 0.2]},
    ),
}


@pytest.mark.parametrize("name", sorted(VARIANTS))
@pytest.mark.parametrize("betas", [(3.0, 0.0), (1.0, 2.0)])
def test_variants(name, betas, folders, chat_tokenizer, pair_rows, tmp_path):
    variants, losses = VARIANTS[name]
    longer = [
        row | {"chosen": [{"role": "assistant", "content": (i + 1) * row["chosen"][0]["content"]}]}
        for i, row in enumerate(pair_rows[:PAIRS])
    ]
    batch, rows = our_batch(longer, chat_tokenizer)
    assert len(set(batch.chosen.response_mask.sum(-1).tolist())) > 2  # lengths that differ
    shim = {"teacher": build_language_model(folders[2]), "beta_ref": betas[0], "beta_teacher": betas[1]}
    kind = (DaDPOTrainer, shim) if betas[1] else (DPOTrainer, None)
    *expected, _ = theirs(folders, chat_tokenizer, rows, tmp_path, *betas, *kind, **losses)
    assert_same(ours(folders, chat_tokenizer, batch, *betas, **variants), expected)
    plain, _ = ours(folders, chat_tokenizer, batch, *betas)
    assert abs(plain.item() - expected[0].item()) > 0.01  # it made a difference


def test_a_template_that_writes_on_after_the_turn_is_where_they_differ(folders, tokenizer, pair_rows, tmp_path):
    """TRL trains on what follows the end of the turn too; here a response ends where a model stops."""
    batch, rows = our_batch(pair_rows, tokenizer)
    *_, inputs = theirs(folders, tokenizer, rows, tmp_path, 0.3, 0.0)
    (line_break,) = tokenizer("\n")["input_ids"]
    for ids, attention, *peer in zip(*batch.stacked()[:2], inputs["input_ids"], inputs["attention_mask"], strict=True):
        assert peer[0][peer[1] == 1].tolist() == [*ids[attention == 1].tolist(), line_break]
