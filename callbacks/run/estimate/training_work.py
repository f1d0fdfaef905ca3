"""The work of the stages that train, from their configs."""

from typing import Any, NamedTuple

from callbacks.run.estimate.answers import answered
from callbacks.run.estimate.models import Frozen
from callbacks.run.estimate.reading import Reader
from callbacks.run.estimate.stage_models import BYTES, frozen_of, packs, policy_of
from callbacks.run.estimate.work import Work

VAL_FRACTION = 0.05
"""What the datamodules hold out where nothing else is said."""


class Planned(NamedTuple):
    """A stage's work, with what was assumed of it."""

    work: Work
    assumed: tuple[str, ...]


def fine_tuning(reader: Reader, stage: dict[str, Any], cuda: bool) -> Planned:
    """Supervised training on a prompt's answer."""
    return _training(reader, stage, cuda, (stage["datamodule"].get("response", "completion"),), {})


def preference(reader: Reader, stage: dict[str, Any], cuda: bool) -> Planned:
    """Training on pairs; in live mode with the frozen models beside the policy."""
    module = stage["module"]
    frozen = {}
    if module.get("mode") == "live":
        names = {"reference": module.get("reference") or module["student"], "teacher": module["teacher"]}
        frozen = frozen_of(reader, stage, names, module.get("frozen_dtype") or module["dtype"], cuda)
        if module.get("lora") and names["reference"] == module["student"]:
            frozen["reference"] = frozen["reference"]._replace(bytes_a_weight=BYTES[module["dtype"]], shared=True)
    return _training(reader, stage, cuda, ("chosen", "rejected"), frozen)


def pruning(reader: Reader, stage: dict[str, Any], cuda: bool) -> Planned:
    """Calibration rows read once with a backward pass and once without, or none; then a smaller model is written."""
    module, data = stage["module"], stage["datamodule"]
    tokenizer = reader.tokenizer(module["tokenizer"])
    rows = reader.rows(data["data"], tokenizer, data["max_length"])
    known = answered(reader, data["data"], rows, (data.get("response", "completion"),), data["max_length"])
    count = min(rows.count, data.get("rows") or rows.count)
    policy = policy_of(reader, stage, cuda)._replace(optimizer_states=0, accumulates=False)
    left = reader.shape(f"{reader.config.paths.output_dir}/{stage['name']}/model", tokenizer).parameters
    looks = module.get("importance", "taylor") == "taylor"
    work = Work(
        kind="pruning",
        models={},
        rows=known.rows,
        count=count,
        batch_size=data["batch_size"],
        vocabulary=policy.vocabulary,
        cuda=cuda,
        policy=policy,
        passes=float(looks),
        held_out=known.rows if looks else [],
        held_out_count=count if looks else 0,
        longest=known.longest,
        left=left,
        leaves=float(left * policy.precision.weights),
    )
    return Planned(work, (*rows.assumed, *known.assumed))


def _training(
    reader: Reader, stage: dict[str, Any], cuda: bool, fields: tuple[str, ...], frozen: dict[str, Frozen]
) -> Planned:
    module, data, trainer = stage["module"], stage["datamodule"], stage["trainer"]
    tokenizer = reader.tokenizer(module["tokenizer"])
    source = module.get("student", module.get("model"))
    rows = reader.rows(data["data"], tokenizer, data["max_length"])
    known = answered(reader, data["data"], rows, fields, data["max_length"])
    held_out, held_out_count = known.rows, round(rows.count * data.get("val_fraction", VAL_FRACTION))
    count = max(1, rows.count - held_out_count)
    if data.get("val_data") is not None:
        others = reader.rows(data["val_data"], tokenizer, data["max_length"])
        held_out = answered(reader, data["val_data"], others, fields, data["max_length"]).rows
        count, held_out_count = rows.count, others.count
    policy = policy_of(reader, stage, cuda)
    steps = trainer.get("max_steps", -1)
    epochs = trainer.get("max_epochs") or 1
    seen = steps * data["batch_size"] * trainer.get("accumulate_grad_batches", 1) / count
    work = Work(
        kind="training",
        models=frozen,
        rows=known.rows,
        count=count,
        batch_size=data["batch_size"],
        vocabulary=policy.vocabulary,
        cuda=cuda,
        policy=policy,
        passes=seen if steps > 0 and (epochs < 0 or seen < epochs) else max(1, epochs),
        held_out=held_out if held_out_count else [],
        held_out_count=held_out_count,
        longest=known.longest,
        packing=packs(stage),
        token_budget=data.get("token_budget"),
        sort_window=data.get("sort_window", 1),
        adaptable=isinstance(source, str),
        handed_on=bool((stage.get("callbacks") or {}).get("state")),
    )
    said = ("memory and time of layers that are not compiled",) if module.get("compile") else ()
    return Planned(work, (*rows.assumed, *known.assumed, *said))
