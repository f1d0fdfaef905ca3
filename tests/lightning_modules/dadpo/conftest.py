"""A student and its teacher, and pairs for them."""

import pytest

from tests.lightning_modules.dadpo.distilling import WIDE


@pytest.fixture(scope="module")
def folders(model_folder, tokenizer):
    """The teacher is wider, and has vocabulary rows that stand for no token."""
    teacher = model_folder(seed=2, hidden_size=24, rows=len(tokenizer) + 300, **WIDE)
    return {"student": model_folder(seed=1, **WIDE), "teacher": teacher}


@pytest.fixture
def batches(pair_batch):
    return [pair_batch(4, seed) for seed in (0, 10, 20)]
