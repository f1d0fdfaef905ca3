"""What is kept in the host's memory comes back bit by bit, in time, and nothing goes there that need not."""

from contextlib import nullcontext

import pytest
import torch
from torch.utils.data import DataLoader

from datamodules.wrong_input import WrongInput
from lightning_modules import DaDPOModule, FineTuningModule, activation_offload
from lightning_modules.activation_offload import SMALLEST, ActivationOffload, check_offload
from lightning_modules.host_copies import COPIES
from lightning_modules.language_model import build_language_model, build_skeleton
from lightning_modules.layers import layers_of, stacks_of
from lightning_modules.response_logps import response_logps
from tests.lightning_modules.late_copies import LateCopies
from tests.lightning_modules.test_packing import packed_pairs
from tests.lightning_modules.test_sharding import adam, fit, kept, rows_of
from tests.two_processes import in_two

DEEP = {"initializer_range": 0.3, "num_hidden_layers": 4}
FAMILIES = {
    "qwen2": {"tie_word_embeddings": True},
    "llama": {"mlp_bias": True},
    "gemma2": {"head_dim": 8, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 2.0},
    "gpt2": {"n_layer": 4},
}


@pytest.fixture
def late(monkeypatch):
    """Let a CPU be a device of its own; gives what was made for each model that was trained."""
    made = []
    monkeypatch.setitem(COPIES, "cpu", lambda device: made.append(LateCopies(device)) or made[-1])
    monkeypatch.setattr(activation_offload, "SMALLEST", 0)
    return made


def gradients(model, batch, autocast=False):
    torch.manual_seed(0)  # of dropout (GPT-2)
    with torch.autocast("cpu", dtype=torch.bfloat16) if autocast else nullcontext():
        loss = response_logps(model, batch).square().mean()
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


def both(make, batch, **settings):
    """Loss and gradients without and with, of two models alike."""
    plain, moving = make(), make()
    ActivationOffload(moving)
    return gradients(plain, batch, **settings), gradients(moving, batch, **settings)


def assert_bits(plain, moved):
    assert len(plain) == len(moved) > 5
    assert all(torch.equal(one, other) for one, other in zip(plain, moved, strict=True))


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_the_same_to_the_bit(family, packed, checkpointing, autocast, model_folder, late):
    folder = model_folder(family, **DEEP, **FAMILIES[family])
    batch = packed_pairs(30) if packed else packed_pairs(30).padded()

    def make():
        return build_language_model(folder, gradient_checkpointing=checkpointing).train()

    assert_bits(*both(make, batch, autocast=autocast))
    (copies,) = late
    assert 0 < copies.came < copies.went  # what the last layers save never leaves


def test_an_adapter_an_encoder_and_a_decoder(t5_folder, model_folder, tokenizer, token_batch, seq2seq_batch, late):
    cases = {
        "t5": (t5_folder(num_layers=3), seq2seq_batch([(9, 4), (6, 3)]), {}),
        "t5 checkpointed": (t5_folder(num_layers=3), seq2seq_batch([(9, 4), (6, 3)]), {"gradient_checkpointing": True}),
        "lora": (model_folder(**DEEP), token_batch([(3, 4), (2, 6)]), {"lora": {"rank": 2, "dropout": 0.1}}),
    }
    for folder, batch, settings in cases.values():
        found = []
        for offload in (False, True):
            torch.manual_seed(0)
            module = FineTuningModule("sft", folder, tokenizer, activation_offload=offload, **settings)
            module.configure_model()
            loss = module._loss(batch).loss
            loss.backward()
            found.append([loss.detach(), *(p.grad for p in module.policy.parameters() if p.grad is not None)])
        assert_bits(*found)
    assert len(late) == len(cases)
    assert all(copies.came > 0 for copies in late)


@pytest.mark.parametrize("autocast", [False, True])
def test_only_what_layers_make_of_tokens_goes(autocast, model_folder, late):
    model = build_language_model(model_folder(**DEEP)).train()
    weights = {tuple(p.shape) for p in model.parameters()} | {tuple(p.t().shape) for p in model.parameters()}
    ActivationOffload(model)
    gradients(model, packed_pairs().padded(), autocast)
    shapes = late[0].shapes
    assert len(shapes) > 20
    assert not weights & set(shapes)
    assert all(10 in shape or 120 in shape for shape in shapes)  # rows, or tokens
    if not autocast:  # queries, keys and values read one tensor, and so do gate and up: it goes once
        width = model.config.hidden_size
        assert sum(shape in ((120, width), (10, 12, width)) for shape in shapes) == 4 * 6 + 2  # and the last norm's


def test_with_checkpointing_the_layers_inputs_go_alone(model_folder, late):
    model = build_language_model(model_folder(**DEEP), gradient_checkpointing=True).train()
    ActivationOffload(model)
    gradients(model, packed_pairs().padded())
    width = model.config.hidden_size
    last_norm = [(10, 12, 1), (10, 12, width), (10, 12, width)]
    assert sorted(late[0].shapes) == sorted([(10, 12, width)] * 4 + last_norm)


def test_small_tensors_stay(model_folder, late, monkeypatch):
    monkeypatch.setattr(activation_offload, "SMALLEST", 8 * 120 * 4)
    model = build_language_model(model_folder(**DEEP)).train()
    ActivationOffload(model)
    gradients(model, packed_pairs().padded())
    assert min(torch.Size(shape).numel() for shape in late[0].shapes) >= 8 * 120
    monkeypatch.setattr(activation_offload, "SMALLEST", SMALLEST)
    model = build_language_model(model_folder(**DEEP)).train()
    ActivationOffload(model)
    gradients(model, packed_pairs().padded())
    assert late[1].went == 0


@pytest.mark.parametrize("checkpointing", [False, True])
def test_two_layers_share_is_on_the_device_at_one_time(checkpointing, model_folder, late):
    layers = 12
    model = build_language_model(model_folder(num_hidden_layers=layers), gradient_checkpointing=checkpointing).train()
    ActivationOffload(model)
    gradients(model, packed_pairs().padded())
    copies = late[0]
    share = copies.went / layers
    assert copies.most < (4.5 if checkpointing else 3.3) * share  # with the last norm's, and what is being made
    assert copies.came > (layers - 4.5) * share


def test_a_graph_that_is_retained_or_left(model_folder, late):
    def make():
        return build_language_model(model_folder(**DEEP)).train()

    plain, moving = make(), make()
    ActivationOffload(moving)
    batches = [packed_pairs(seed=seed).padded() for seed in range(3)]
    for model in (plain, moving):
        response_logps(model, batches[0]).sum()  # and no backward pass
        first, second = (response_logps(model, batch).square().sum() for batch in batches[1:])
        first.backward(retain_graph=True)
        first.backward()
        second.backward()
    assert_bits(*([p.grad for p in model.parameters()] for model in (plain, moving)))


def test_without_gradients_nothing_moves(model_folder, late):
    model = build_language_model(model_folder(**DEEP)).train()
    ActivationOffload(model)
    with torch.no_grad():
        response_logps(model, packed_pairs())
    assert not late
    response_logps(model.eval(), packed_pairs()).sum().backward()
    assert not late


def test_what_is_let_go_is_gone(model_folder, late):
    """No cycle through a saved result keeps a step's tensors: they would pile up until the collector runs."""
    import gc

    model = build_language_model(model_folder(**DEEP)).train()
    ActivationOffload(model)
    gc.collect()
    gc.disable()
    try:
        for seed in range(2):
            loss = response_logps(model, packed_pairs(seed=seed).padded()).sum()
            loss.backward()
            del loss
            held = [one for one in late[0]._sources if one() is not None]
            assert len(held) < 25  # of the group whose turn was last
    finally:
        gc.enable()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_gives_the_same_weights(precision, model_folder, tokenizer, token_batch, trainer, late):
    loader = DataLoader([token_batch([(3, 4), (2, 6)], seed=seed) for seed in range(6)], batch_size=None)
    weights = []
    for offload in (False, True):
        module = FineTuningModule("sft", model_folder(**DEEP), tokenizer, optimizer=adam, activation_offload=offload)
        trainer(precision=precision, accumulate_grad_batches=2).fit(module, loader, loader)
        weights.append(list(module.policy.parameters()))
    assert late[0].came > 0
    assert_bits(*weights)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_in_two_processes(strategy, model_folder, tokenizer, pair_batch, tmp_path, late):
    widths = {**DEEP, "hidden_size": 24, "intermediate_size": 40}  # no batch is as wide
    student, teacher = model_folder(**widths), model_folder(seed=1, **widths)
    batch = pair_batch(4)
    shares = [rows_of(batch, [0, 1, 2]), rows_of(batch, [3])]
    found = []
    for name in ("plain", "moved"):

        def module(name=name):
            live = {"mode": "live", "teacher": teacher, "optimizer": adam, "activation_offload": name == "moved"}
            return Watched(student, tokenizer, name=name, **live)

        in_two(fit, module, tmp_path, name, shares, 2, strategy=strategy)
        found.append(kept(tmp_path / f"{name} 2 {strategy}"))
    for (losses, _, weights), (moved_losses, _, moved_weights) in zip(*found, strict=True):
        assert moved_losses == losses
        assert len(set(losses)) == 3
        assert_bits(
            list(weights.values()) or [torch.zeros(())] * 6, list(moved_weights.values()) or [torch.zeros(())] * 6
        )


class Watched(DaDPOModule):
    """Makes sure, in its process, that what should move does."""

    def on_fit_end(self):
        hooks = [h for m in self.policy.modules() for h in m._forward_pre_hooks.values()]
        moving = {h.__self__ for h in hooks if isinstance(getattr(h, "__self__", None), ActivationOffload)}
        assert len(moving) == self.activation_offload
        for one in moving:
            assert one.copies.came > 0
            widths = {tuple(p.shape) for p in self.policy.parameters()}
            assert not widths & set(one.copies.shapes)


def test_where_layers_are():
    def names(kind, **fields):
        tiny = {"vocab_size": 9, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8, **fields}
        skeleton = build_skeleton({"model_type": kind, "num_hidden_layers": 2, **tiny})
        own = {part: name for name, part in skeleton.named_modules()}
        return list(layers_of(skeleton)), [own[stack] for stack in stacks_of(skeleton)]

    assert names("qwen2") == (["model.layers.0", "model.layers.1"], ["model"])
    assert names("gpt_neox")[1] == ["gpt_neox"]
    t5 = names("t5", d_model=8, d_kv=4, num_heads=2, d_ff=8, num_layers=2)
    assert t5[1] == ["decoder", "encoder"]
    assert len(t5[0]) == 4


def test_it_is_refused_where_it_can_do_nothing(model_folder, tokenizer, token_batch, trainer):
    module = FineTuningModule("sft", model_folder(), tokenizer, activation_offload=True)
    loader = DataLoader([token_batch([(3, 4)])], batch_size=None)
    with pytest.raises(WrongInput, match="on cpu activations are in the host's memory already"):
        trainer().fit(module, loader)
    for accelerator in ("cpu", "auto", "mps"):
        check_offload(offload=False, accelerator=accelerator)
        with pytest.raises(WrongInput, match="train on CUDA"):
            check_offload(offload=True, accelerator=accelerator)
    check_offload(offload=True, accelerator="gpu")
    with pytest.raises(WrongInput, match="true or false"):
        check_offload(offload="yes", accelerator="gpu")
    with pytest.raises(WrongInput, match="does not tell its layers apart"):
        ActivationOffload(build_skeleton({"model_type": "openai-gpt", "vocab_size": 9}))
