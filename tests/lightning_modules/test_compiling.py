"""Compiled layers give what they give as they are, whatever comes; nothing around them knows of it.

Graphs are made here and run as they are: code for them would take a minute.
"""

import logging
from collections import Counter

import pytest
import torch
from torch.utils.data import DataLoader

from datamodules.batches import LoadRequest, Workload
from datamodules.wrong_input import WrongInput
from lightning_modules import DaDPOModule, FineTuningModule, compiling
from lightning_modules.compiling import check_compile, compile_layers
from lightning_modules.language_model import build_language_model, build_skeleton
from lightning_modules.packing import Packing
from lightning_modules.scoring import response_logps
from lightning_modules.serving import Engine
from tests.lightning_modules.test_packing import packed_pairs
from tests.lightning_modules.test_sharding import adam

DEEP = {"initializer_range": 0.3, "num_hidden_layers": 2}
PIECES, PADDED = 5, 1
"""Graphs of a layer: what lies around attention in blocks, and all of it."""


@pytest.fixture(scope="module")
def backend():
    """Runs graphs as they are. The tests share them, as the stages of a run do."""
    count = Counter()

    def counting(graph, inputs):
        count["made"] += 1

        def run(*inputs):
            count["run"] += 1
            return graph.forward(*inputs)

        return run

    torch.compiler.reset()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiling, "BACKEND", counting)
        patch.setattr(logging.getLogger("torch.__trace"), "propagate", False)  # to pytest's log: it is long
        yield count
    torch.compiler.reset()


@pytest.fixture
def graphs(backend):
    """How many were made and run since the test began."""
    backend.clear()
    return backend


def assert_same(plain, compiled, packings, batch):
    """Sums, and in training gradients, bit by bit."""
    found = []
    for model, packing in zip((plain, compiled), packings, strict=True):
        model.zero_grad()
        with torch.set_grad_enabled(model.training):
            logps = response_logps(model, batch, packing=packing)
        if model.training:
            logps.square().sum().backward()
        found.append([logps.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1])
    assert (len(found[0]) > 5) == plain.training
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.slow
def test_any_batches_give_the_same_of_a_few_graphs(model_folder, graphs):
    """One row, several, and padded; then other lengths and layouts; then the same with gradient checkpointing."""
    lengths = [(5 + i, 7, 3 + i) for i in range(6)]
    kinds = [packed_pairs(None, lengths[:3]), packed_pairs(40, lengths[:4]), packed_pairs(None, lengths[:3]).padded()]
    others = [packed_pairs(None, lengths[:1]), packed_pairs(25, lengths), packed_pairs(30, lengths[3:]).padded()]
    made = []
    for checkpointing in (False, True):
        plain, compiled = (
            build_language_model(model_folder(**DEEP), gradient_checkpointing=checkpointing) for _ in range(2)
        )
        compile_layers(compiled)
        packings = (Packing(), Packing())
        for batches in (kinds, others):
            for training, batch in [(True, batch) for batch in batches] + [(False, batches[0])] * (not checkpointing):
                graphs["run"] = 0
                assert_same(plain.train(training), compiled.train(training), packings, batch)
                times = 2 if checkpointing and training else 1  # made again in the backward pass
                assert graphs["run"] == times * 2 * (PADDED if batch is batches[2] else PIECES)
            made.append(graphs["made"])
    assert made == [3 * PIECES + PADDED] * 4


@pytest.mark.slow
def test_nothing_around_the_layers_knows_of_it(model_folder, tokenizer, token_batch, trainer, tmp_path, graphs):
    """With an adapter: weights after training, names in checkpoints, and what is exported."""
    loader = DataLoader([token_batch([(3, 4), (2, 6)], seed=seed) for seed in range(3)], batch_size=None)
    found = []
    for compiled in (False, True):
        torch.manual_seed(0)
        settings = {"optimizer": adam, "lora": {"rank": 2, "target_modules": ["q_proj"]}, "compile": compiled}
        module = FineTuningModule("sft", model_folder(**DEEP), tokenizer, **settings)
        fit = trainer(max_epochs=1)
        fit.fit(module, loader)
        fit.save_checkpoint(tmp_path / "it.ckpt")
        module.export(tmp_path / f"model {compiled}")
        saved = torch.load(tmp_path / "it.ckpt", weights_only=False)["state_dict"]
        exported = build_language_model(tmp_path / f"model {compiled}").state_dict()
        found.append((saved, exported))
        assert (graphs["run"] > 0) == compiled
    for plain, other in zip(*found, strict=True):
        assert list(plain) == list(other)
        assert all(torch.equal(plain[name], other[name]) for name in plain)


def test_a_policy_in_training_is_served_as_it_is(model_folder, tokenizer, graphs):
    requests = [LoadRequest(f"r{i}", 0.0, [5 + i, 6, 7], 4, True) for i in range(2)]
    module = DaDPOModule(model_folder(**DEEP), tokenizer, compile=True)
    served = module.serve(
        Workload("w", "model", "fifo", None, float("inf"), 0, None, requests), Engine(ignore_eos=True, temperature=0)
    )
    assert [one.status for one in served] == ["ok", "ok"]
    assert graphs["run"] == 0


def test_it_is_refused_where_it_cannot_be(monkeypatch, model_folder):
    check_compile(compile=False, accelerator="tpu", quantization="nf4", offload=True)
    monkeypatch.setenv("CXX", "sh")  # there is one
    fine = {"compile": True, "accelerator": "cpu", "model": str(model_folder())}
    check_compile(**fine)
    check_compile(**fine, offload=True, checkpointing=True)
    for said, other in {
        "true or false": {"compile": "yes"},
        "layers in nf4": {"quantization": "nf4"},
        "not moved to the host's memory": {"offload": True},
        "not mps": {"accelerator": "mps"},
        "tell them apart": {"model": {"model_type": "openai-gpt", "vocab_size": 9}},
    }.items():
        with pytest.raises(WrongInput, match=said):
            check_compile(**{**fine, **other})
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WrongInput, match="by Triton"):
        check_compile(**{**fine, "accelerator": "gpu"})
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(WrongInput, match="there is no no-such-compiler"):
        check_compile(**fine)
    t5 = build_skeleton({"model_type": "t5", "vocab_size": 9, "d_model": 8, "d_kv": 4, "num_heads": 2, "d_ff": 8})
    with pytest.raises(WrongInput, match="of decoders"):
        compile_layers(t5)
