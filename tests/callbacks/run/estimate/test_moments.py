"""The peak of a training against what torch's profiler sees allocated; no allocator's slack, no process."""

import gc

import pytest
import torch
from lightning import Trainer
from torch.profiler import ProfilerActivity, profile

from callbacks.run.estimate.memory import Batch, Precision
from callbacks.run.estimate.models import Frozen, Policy, Reading
from callbacks.run.estimate.moments import peak, scoring_moments
from callbacks.run.estimate.packed import lay_out
from callbacks.run.estimate.shape import shape_of
from callbacks.run.estimate.tokens import Sequences
from callbacks.run.estimate.training import training_moments
from datamodules.batches import PackedPairBatch, PackedTokenBatch, PairBatch, PairScores
from datamodules.collate import collate_responses
from datamodules.packing import pack
from lightning_modules import DaDPOModule, FineTuningModule
from lightning_modules.language_model import build_language_model, build_skeleton, freeze
from lightning_modules.packing import Packing
from lightning_modules.packing_trial import planned_reading
from lightning_modules.response_logps import response_logps

PAIRS, PROMPT, RESPONSES, STEPS = 6, 20, (60, 44), 2
WIDE = {
    "model_type": "qwen2",
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
TEACHER = WIDE | {"hidden_size": 128, "intermediate_size": 352}
TOLERANCE = 0.15
LENGTHS = [(20, 60, 44), (33, 12, 70), (8, 50, 9), (40, 41, 40), (15, 25, 90), (27, 66, 30)]
"""Of pairs that differ: prompt, chosen, rejected."""
LAYOUTS = {
    "one row": ("auto", None, {}),
    "rows of a budget": ("auto", 260, {}),
    "a family with its own attention": (
        "auto",
        None,
        {"model_type": "gemma2", "head_dim": 24, "attn_logit_softcapping": 5.0},
    ),
    "a window": ("auto", None, {"model_type": "mistral", "sliding_window": 64, "head_dim": 24}),
    "off": ("off", None, {}),
}


def side(response: int):
    ids = [list(range(3, 3 + PROMPT + response)) for _ in range(PAIRS)]
    return collate_responses(ids, [PROMPT] * PAIRS, [str(i) for i in range(PAIRS)], 0, PROMPT + max(RESPONSES))


def allocated(work) -> int:
    """The most bytes that are allocated at one time while it works."""
    gc.collect()  # what an earlier profile saw allocated and cycles still hold would count as freed by this one
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return most


def trained(tmp_path, module, batch, **settings) -> int:
    trainer = Trainer(
        accelerator="cpu", devices=1, max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path, **settings,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader([batch] * STEPS, batch_size=None)
    return allocated(lambda: trainer.fit(module, loader))


def policy(tokenizer, precision=(4, 4), checkpointing=False, accumulates=False, fields=WIDE) -> Policy:
    shape = shape_of(build_skeleton(fields, tokenizer))
    return Policy(shape, Precision(*precision), len(tokenizer), checkpointing, accumulates, 2, cuda=False)


@pytest.mark.parametrize(
    ("checkpointing", "precision", "accumulated"),
    [
        (False, "32-true", 1),
        (True, "32-true", 1),
        (False, "bf16-mixed", 1),
        (True, "bf16-mixed", 1),
        (False, "32-true", 3),
    ],
)
@pytest.mark.parametrize("mode", ["cached", "live"])
def test_dadpo(mode, checkpointing, precision, accumulated, tokenizer, tmp_path):
    module = DaDPOModule(WIDE, tokenizer, mode=mode, teacher=TEACHER, gradient_checkpointing=checkpointing)
    scores = PairScores(*(torch.full((PAIRS,), -5.0) for _ in range(4)))
    batch = PairBatch(side(RESPONSES[0]), side(RESPONSES[1]), scores)
    found = trained(tmp_path, module, batch, precision=precision, accumulate_grad_batches=accumulated)
    frozen = [Frozen(shape_of(build_skeleton(fields, tokenizer)), 4) for fields in (WIDE, TEACHER)]
    read = Batch(2 * PAIRS, PROMPT + max(RESPONSES), PAIRS * sum(RESPONSES))
    moments = training_moments(
        policy(tokenizer, (4, 2 if "16" in precision else 4), checkpointing, accumulated > 1),
        read,
        [(model, read) for model in frozen] if mode == "live" else [],
    )
    del moments["checkpoint"]
    assert peak(moments)[1] == pytest.approx(found, rel=TOLERANCE), (peak(moments), found / 2**20)


def packed_pairs(token_budget) -> PackedTokenBatch:
    sides = [(i, [5] * pair[side]) for side in (1, 2) for i, pair in enumerate(LENGTHS)]
    return pack([[5] * pair[0] for pair in LENGTHS], sides, ["pair"] * len(sides), 0, token_budget)


def read(tokenizer, fields, packing, token_budget) -> tuple[Batch, Reading]:
    reading = Reading(*planned_reading(build_skeleton(fields, tokenizer), packing, cuda=False))
    rows = [Sequences(prompt, responses) for prompt, *responses in LENGTHS]
    return lay_out(rows, reading, token_budget).batch, reading


@pytest.mark.parametrize(("checkpointing", "precision"), [(False, "32-true"), (True, "32-true"), (False, "bf16-mixed")])
@pytest.mark.parametrize("mode", ["cached", "live"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_packed_dadpo(layout, mode, checkpointing, precision, tokenizer, tmp_path):
    packing, token_budget, family = LAYOUTS[layout]
    wide, teacher = WIDE | family, TEACHER | family
    settings = {"mode": mode, "teacher": teacher, "gradient_checkpointing": checkpointing, "packing": packing}
    module = DaDPOModule(wide, tokenizer, **settings)
    scores = PairScores(*(torch.full((len(LENGTHS),), -5.0) for _ in range(4)))
    found = trained(tmp_path, module, PackedPairBatch(packed_pairs(token_budget), scores), precision=precision)
    batch, _ = read(tokenizer, wide, packing, token_budget)
    frozen = [
        (Frozen(shape_of(build_skeleton(fields, tokenizer)), 4), read(tokenizer, fields, packing, token_budget)[0])
        for fields in (wide, teacher)
    ]
    student = policy(tokenizer, (4, 2 if "16" in precision else 4), checkpointing, fields=wide)
    moments = training_moments(student, batch, frozen if mode == "live" else [])
    del moments["checkpoint"]
    assert peak(moments)[1] == pytest.approx(found, rel=TOLERANCE), (peak(moments), found / 2**20)


@pytest.mark.parametrize("vocabulary", [600, 100])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_packed_scoring(layout, vocabulary, tokenizer):
    packing, token_budget, family = LAYOUTS[layout]
    fields = TEACHER | family | {"hidden_size": 96, "num_hidden_layers": 2}

    def score():
        model = freeze(build_language_model(fields, tokenizer))
        with torch.no_grad():
            response_logps(model, packed_pairs(token_budget), vocabulary=vocabulary, packing=Packing(packing))

    batch, _ = read(tokenizer, fields, packing, token_budget)
    model = Frozen(shape_of(build_skeleton(fields, tokenizer)), 4)
    found = allocated(score)
    predicted = peak(scoring_moments({"teacher": (model, batch)}, vocabulary, cuda=False))
    assert predicted[1] == pytest.approx(found, rel=TOLERANCE), (predicted, found / 2**20)


def test_fine_tuning(tokenizer, tmp_path):
    found = trained(tmp_path, FineTuningModule("sft", WIDE, tokenizer), side(RESPONSES[0]))
    batch = Batch(PAIRS, PROMPT + RESPONSES[0], PAIRS * RESPONSES[0], padded=False)
    moments = training_moments(policy(tokenizer), batch)
    del moments["checkpoint"]
    assert peak(moments)[1] == pytest.approx(found, rel=TOLERANCE), (peak(moments), found / 2**20)


def test_scoring(tokenizer):
    def score():
        model = freeze(build_language_model(TEACHER, tokenizer))
        with torch.no_grad():
            response_logps(model, side(RESPONSES[1]), vocabulary=len(tokenizer))

    model = Frozen(shape_of(build_skeleton(TEACHER, tokenizer)), 4)
    batch = Batch(PAIRS, PROMPT + max(RESPONSES), PAIRS * RESPONSES[1])
    found = allocated(score)
    predicted = peak(scoring_moments({"teacher": (model, batch)}, len(tokenizer), cuda=False))
    assert predicted[1] == pytest.approx(found, rel=TOLERANCE), (predicted, found / 2**20)
