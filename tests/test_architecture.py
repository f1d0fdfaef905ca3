"""The direction of imports: what each room, and each pure file, may touch."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("datamodules", "lightning_modules", "callbacks")
ESTIMATE = (
    "shape", "adapter", "optimizer", "flops", "memory", "offload", "shards", "models", "moments", "training", "tokens",
    "work", "fitting",
)  # fmt: skip
PURE = {
    "lightning_modules/logprobs.py": {"torch"},
    "lightning_modules/dadpo/loss.py": {"torch"},
    "lightning_modules/dadpo/variants.py": {"torch"},
    "lightning_modules/dadpo/diagnostics.py": {"torch", "lightning_modules.dadpo.loss"},
    "lightning_modules/pruning/plan.py": set(),
    "lightning_modules/endpoint/reading.py": set(),
    "lightning_modules/vllm/reading.py": set(),
    "lightning_modules/vllm/guard.py": set(),
    "lightning_modules/rast/advantages.py": {"torch"},
    "lightning_modules/rast/policy_gradient.py": {"torch", "lightning_modules.rast.advantages"},
    "lightning_modules/rast/drawing.py": {"torch"},
    "lightning_modules/rast/like_lengths.py": {"torch"},
    "lightning_modules/rast/rewards.py": {"torch"},
    "callbacks/statistics.py": {"torch"},
    **{f"callbacks/run/estimate/{name}.py": {"torch", "callbacks.run.estimate"} for name in ESTIMATE},
    "callbacks/run/estimate/packed.py": {"callbacks.run.estimate", "datamodules.packing"},
    "datamodules/collate.py": {"torch", "numpy", "datamodules.batches"},
    "datamodules/packing.py": {"torch", "datamodules.batches"},
    "datamodules/batches.py": {"torch"},
    "datamodules/almanac/marking.py": set(),
    "datamodules/templates/words.py": set(),
    "callbacks/questions/answers.py": set(),
    "callbacks/questions/bleu.py": {"torch", "sacrebleu"},
    "callbacks/questions/wording.py": {"callbacks.questions", "datamodules.templates.words"},
    "callbacks/questions/metrics.py": {"torch", "callbacks.questions", "callbacks.statistics"},
}
GOODPUT = {
    "timeline", "functional", "slo", "companions", "sketch", "metric", "distributions", "collection",
    "gaming", "audit", "deliveries", "log_scores",
}  # fmt: skip
MAY_IMPORT = {
    "datamodules": {"datamodules"},
    "lightning_modules": {"lightning_modules", "datamodules.batches", "datamodules.wrong_input"},
    "callbacks": {"callbacks", "datamodules"},
}


def imported(path: Path) -> set[str]:
    """Every module that a file imports, dotted."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def allowed(module: str, permitted: set[str]) -> bool:
    return any(module == one or module.startswith(f"{one}.") for one in permitted)


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_what_lies_before_them(room):
    for path in sorted((ROOT / room).rglob("*.py")):
        ours = {module for module in imported(path) if module.split(".")[0] in (*ROOMS, "train", "conf", "tests")}
        wrong = {module for module in ours if not allowed(module, MAY_IMPORT[room])}
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


@pytest.mark.parametrize("file", sorted(PURE))
def test_pure_files_import_the_standard_library_and_what_is_named(file):
    third_party = {m for m in imported(ROOT / file) if m.split(".")[0] not in sys.stdlib_module_names}
    assert {m for m in third_party if not allowed(m, PURE[file])} == set()


def test_the_goodput_metric_serves_anyone_offline():
    folder = ROOT / "callbacks" / "goodput"
    assert {path.stem for path in folder.glob("*.py")} >= GOODPUT
    for path in sorted(folder.glob("*.py")):
        if path.stem in GOODPUT:
            third_party = {m for m in imported(path) if m.split(".")[0] not in sys.stdlib_module_names}
            wrong = {m for m in third_party if not allowed(m, {"torch", "torchmetrics", "callbacks.goodput"})}
            assert not wrong, f"{path.name} imports {wrong}"


def test_train_imports_no_class_of_the_project():
    names = {
        alias.name
        for node in ast.walk(ast.parse((ROOT / "train.py").read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ROOMS
        for alias in node.names
    }
    assert names
    assert not [name for name in names if name[0].isupper()]


def test_train_stays_a_story():
    assert len((ROOT / "train.py").read_text("utf-8").splitlines()) <= 150


def test_every_package_says_what_it_is():
    for path in ROOT.glob("*/**/__init__.py"):
        if path.relative_to(ROOT).parts[0] in ROOMS:
            assert ast.get_docstring(ast.parse(path.read_text("utf-8"))), path


def test_only_one_file_touches_model_classes():
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            if path.name != "language_model.py":
                assert "AutoModel" not in path.read_text("utf-8"), path
