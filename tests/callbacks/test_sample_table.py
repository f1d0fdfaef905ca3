"""The samples of a validation: on disk whole, and at W&B where that is the logger."""

import json
from types import SimpleNamespace
from typing import NamedTuple

from lightning.pytorch.loggers import CSVLogger, WandbLogger

from callbacks.sample_table import SampleTable


class Sample(NamedTuple):
    example: str
    question: str
    reward: float


class Recorder(WandbLogger):
    """Keeps the tables that it is given."""

    def __init__(self):
        self.tables = []

    def log_table(self, key, columns=None, data=None, **more):
        self.tables.append((key, columns, data))


def validated(path, samples, **trainer):
    defaults = {"sanity_checking": False, "is_global_zero": True, "global_step": 7, "loggers": []}
    module = SimpleNamespace(name="rl", samples=samples)
    SampleTable(path).on_validation_end(SimpleNamespace(**defaults | trainer), module)


def test_the_last_validations_samples_are_on_disk(tmp_path):
    path = tmp_path / "rl" / "samples.jsonl"
    validated(path, [Sample("a", "Who?", 0.1), Sample("b", "When?", 0.2)], global_step=3)
    validated(path, [Sample("a", "Whö?", 0.5)])
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert rows == [{"step": 7, "example": "a", "question": "Whö?", "reward": 0.5}]
    assert [file.name for file in path.parent.iterdir()] == ["samples.jsonl"]


def test_nothing_is_written_by_other_ranks_before_training_or_without_samples(tmp_path):
    samples = [Sample("a", "Who?", 0.1)]
    validated(tmp_path / "x.jsonl", [])
    validated(tmp_path / "x.jsonl", samples, is_global_zero=False)
    validated(tmp_path / "x.jsonl", samples, sanity_checking=True)
    assert list(tmp_path.iterdir()) == []


def test_a_wandb_logger_gets_the_table(tmp_path):
    logger = Recorder()
    validated(tmp_path / "x.jsonl", [Sample("a", "Who?", 0.1)], loggers=[CSVLogger(tmp_path / "csv"), logger])
    assert logger.tables == [("rl/val/samples", ["step", "example", "question", "reward"], [[7, "a", "Who?", 0.1]])]
