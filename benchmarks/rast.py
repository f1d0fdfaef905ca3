"""How fast RAST's reinforced step is: passages a second, where the time goes, and the straightforward loop beside it.

``python -m benchmarks.rast`` prints tables; ``--write`` also puts them into ``benchmarks/rast.md``. One thread. A batch
after the other goes through all sides in turn, each with its own models, started alike:

- ``RASTModule``: its whole training step under Lightning's Trainer, logging and both optimizers included; from the
  second epoch on it knows the template of each passage's first question;
- ``loop, a question``: one generate call a passage and template, everything one by one (``rast_loop.py``);
- ``loop, a template``: the K templates one after the other, a batch's passages in one call; QA one by one.

The models are small T5s that have learnt for a moment to ask about the almanac's passages, so that questions end by
themselves; the QA model has the same size, and what it answers is worth nothing here. Before anything is timed, loss,
rewards and gradients of the sides are compared on the same questions. When timed, each side samples questions of its
own by the same settings.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
import transformers
from lightning import Callback, Trainer
from torch.utils.data import DataLoader

from benchmarks.rast_loop import Loop
from benchmarks.rast_parts import Stopwatch, parts_timed
from benchmarks.rast_work import least_seconds
from benchmarks.rast_world import SIZES, World, make_module, make_world, save_generator
from lightning_modules import RASTModule
from lightning_modules.rast.objective import objective

LOOPS = {"loop, a question": False, "loop, a template": True}
OURS, LATER = "RASTModule, first epoch", "RASTModule, later epochs"


class InTurn(Callback):
    """Times the module's step, then the other sides' on the same batch."""

    def __init__(self, loops: dict[str, Loop]):
        self.loops = loops
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.tokens: dict[str, list[int]] = defaultdict(list)

    def on_train_batch_start(self, *args: Any) -> None:
        """The module's turn."""
        self.started = time.process_time()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, number: int) -> None:
        """The others' turns."""
        ours = LATER if trainer.current_epoch else OURS
        self.seconds[ours].append(time.process_time() - self.started)
        per_question = float(trainer.callback_metrics["rast/train/question_tokens"])
        self.tokens[ours].append(round(per_question * len(batch.examples) * pl_module.questioner.count))
        for name, loop in self.loops.items():
            started = time.process_time()
            asked = loop.step(batch, number)
            self.seconds[name].append(time.process_time() - started)
            self.tokens[name].append(asked.tokens)


def built(world: World, folder: Path, count: int) -> RASTModule:
    module = make_module(world, folder, count)
    module.configure_model()
    module.train()
    return module


def fit(module: RASTModule, world: World, callback: Callback, epochs: int) -> None:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet["enable_model_summary"] = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(accelerator="cpu", max_epochs=epochs, callbacks=[callback], **quiet)
        trainer.fit(module, DataLoader(world.batches, batch_size=None))  # type: ignore[arg-type]


def largest_difference(world: World, folder: Path, count: int) -> float:
    """Of loss, rewards and gradients on the same questions, of models that have moved from their start.

    Raises:
        SystemExit: The sides do not do the same.
    """
    modules = [built(world, folder, count) for _ in range(1 + len(LOOPS))]
    for module in modules:
        torch.manual_seed(5)
        for parameter in (p for part in module.trained_parts() for p in part.parameters()):
            parameter.data += 0.003 * torch.randn_like(parameter)
    ours, batch = modules[0], world.batches[0]
    torch.manual_seed(7)
    rollout = ours.questioner.roll_out(ours.trained_policy, ours.retriever, ours._frozen, batch)  # type: ignore[arg-type]
    how, reference = ours.objective, ours._frozen.reference  # type: ignore[union-attr]
    loss, gain = objective(how, ours.trained_policy, reference, rollout, ours.vocabulary)
    loss.total.backward()
    worst = 0.0
    for module, whole_templates in zip(modules[1:], LOOPS.values(), strict=True):
        asked = Loop(module, 1, whole_templates=whole_templates).ask(batch, 7, rollout.written.labels)
        asked.loss.backward()
        pairs = [(loss.total, asked.loss), (gain.reward.flatten(), asked.rewards)]
        pairs.append(((gain.reward - gain.generator).flatten(), asked.greedy_rewards))
        for mine, other in zip(ours.trained_parts(), module.trained_parts(), strict=True):
            pairs += [(p.grad, q.grad) for p, q in zip(mine.parameters(), other.parameters(), strict=True)]  # type: ignore[misc]
        worst = max(worst, *(float((one - other).detach().abs().max()) for one, other in pairs))
    if not worst < 1e-5:
        raise SystemExit(f"the sides differ by {worst}")
    return worst


def measured(world: World, folder: Path, count: int) -> tuple[InTurn, dict[str, float]]:
    """All sides in turn; and parts of the module's step, of another fit, as shares."""
    steps = 2 * len(world.batches)
    loops = {name: Loop(built(world, folder, count), steps, whole_templates=whole) for name, whole in LOOPS.items()}
    turns, module = InTurn(loops), built(world, folder, count)
    fit(module, world, turns, 2)
    watch, total, again = Stopwatch(), InTurn({}), built(world, folder, count)
    with parts_timed(watch, again):
        fit(again, world, total, 1)
    whole = sum(total.seconds[OURS])
    shares = {name: seconds / whole for name, seconds in watch.seconds.items()}
    return turns, shares | {"the rest, logging among it": 1 - sum(shares.values())}


def tables(
    world: World, name: str, count: int, found: tuple[InTurn, dict[str, float]], worst: float, floor: tuple[int, float]
) -> str:
    turns, shares = found
    size = len(world.batches[0].examples)
    medians = {side: statistics.median(seconds[1:]) for side, seconds in turns.seconds.items()}  # the first warms up
    lines = [f"## T5 {name}: {size} passages a step, {count} templates each", ""]
    lines += ["| | s a step | passages/s | tokens a question | times the loop, a question | a template |"]
    lines += ["|---|---:|---:|---:|---:|---:|"]
    for side, seconds in sorted(medians.items(), key=lambda one: one[1]):
        tokens = sum(turns.tokens[side]) / (len(turns.tokens[side]) * size * count)
        times = " | ".join(f"{medians[loop] / seconds:.1f}" for loop in LOOPS)
        lines.append(f"| {side} | {seconds:.3f} | {size / seconds:.1f} | {tokens:.1f} | {times} |")
    told = [
        f"{'met' if seconds >= 5 * medians[OURS] else 'missed'} against the {loop}"
        for loop, seconds in medians.items()
        if loop in LOOPS
    ]
    lines += ["", f"At least 5 times the loop, in the first epoch: {'; '.join(told)}."]
    number, least = floor
    bounds = " and ".join(f"{medians[loop] / least:.1f} times as fast as the {loop}" for loop in LOOPS)
    lines += [
        f"Its matrix products alone, {number / 1e9:.1f}·10⁹ operations, take {least:.3f} s at the speed of large ones:",
        f"a step of nothing else would be {bounds}.",
        "",
    ]
    lines += [f"Largest difference of loss, rewards and gradients on the same questions: {worst:.0e}.", ""]
    lines += ["| where RASTModule's time goes, first epoch | % |", "|---|---:|"]
    lines += [f"| {part} | {100 * share:.0f} |" for part, share in sorted(shares.items(), key=lambda one: -one[1])]
    return "\n".join(lines) + "\n"


def main(options: argparse.Namespace) -> str:
    world = make_world(options.steps, options.batch_size, 1)
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}"
    text = [
        f"2 epochs of {options.steps} steps, all sides in turn on a batch; medians of processor time,"
        " first step left out.\n"
        f"{os.cpu_count()} cores, of which one is used, load average {os.getloadavg()[0]:.1f}; {versions}.\n"
        "The target: at least 5 times as fast as the loop. What a batch saves is the cost of calls, and weights that\n"
        "are read once for many rows; the products of encoders, QA model and backward pass every side has to do,\n"
        "so on one thread of a CPU the gain shrinks as the model grows.\n"
    ]
    for name, size in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            save_generator(world, size, Path(folder), options.learning_steps)
            worst = largest_difference(world, Path(folder), options.templates)
            found = measured(world, Path(folder), options.templates)
            floor = least_seconds(built(world, Path(folder), options.templates), world.batches[0], size["d_model"])
            text.append(tables(world, name, options.templates, found, worst, floor))
    return "\n".join(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--templates", type=int, default=3)
    parser.add_argument("--learning-steps", type=int, default=80)
    parser.add_argument("--write", action="store_true", help="also write benchmarks/rast.md")
    given = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    result = main(given)
    print(result)
    if given.write:
        title = "# RAST's reinforced step: speed, written by `python -m benchmarks.rast --write`\n\n"
        Path(__file__).with_suffix(".md").write_text(title + result)
