"""The README's ten lines: DaDPOModule in a plain Lightning script, without Hydra."""

import json
import shutil
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

SCRIPT = """\
from lightning import Trainer
from datamodules.encoding import load_tokenizer
from datamodules.preference_pairs import PreferencePairsDataModule
from lightning_modules import DaDPOModule

tokenizer = load_tokenizer("student")
pairs = PreferencePairsDataModule("pairs.jsonl", tokenizer, batch_size=4)
module = DaDPOModule("student", tokenizer, mode="live", teacher="teacher", beta_ref=0.05, beta_teacher=0.05)
Trainer(max_epochs=1).fit(module, pairs)
module.export("distilled")
"""


def test_the_readme_shows_this_script():
    readme = Path(__file__).parents[3] / "README.md"
    assert f"```python\n{SCRIPT}```" in readme.read_text()


def test_ten_lines_distil_a_student(tmp_path, monkeypatch, model_folder, pairs_file):
    assert len(SCRIPT.splitlines()) <= 10
    shutil.copytree(model_folder(seed=1), tmp_path / "student")
    shutil.copytree(model_folder(seed=2, hidden_size=24), tmp_path / "teacher")
    shutil.copy(pairs_file, tmp_path / "pairs.jsonl")
    monkeypatch.chdir(tmp_path)
    exec(compile(SCRIPT, "train_student.py", "exec"), {"__name__": "__main__"})
    student, distilled = (AutoModelForCausalLM.from_pretrained(tmp_path / f) for f in ("student", "distilled"))
    assert AutoTokenizer.from_pretrained(tmp_path / "distilled").chat_template
    assert json.loads((tmp_path / "distilled" / "config.json").read_text())["model_type"] == "qwen2"
    moved = [not torch.equal(p, q) for p, q in zip(student.parameters(), distilled.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2
