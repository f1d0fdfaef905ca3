"""From a stage's config to its work in numbers. A stage says which kind it is by its key ``work``."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from callbacks.run.estimate.answers import answered, max_new
from callbacks.run.estimate.models import PADDED, Frozen
from callbacks.run.estimate.reading import Lengths, Reader, Rows
from callbacks.run.estimate.stage_models import BYTES, frozen_of, packs, policy_of
from callbacks.run.estimate.tokens import Sequences
from callbacks.run.estimate.work import Work
from datamodules.wrong_input import WrongInput

VAL_FRACTION = 0.05
"""What the datamodules hold out where nothing else is said."""


class Planned(NamedTuple):
    """A stage's work, with what was assumed of it."""

    work: Work
    assumed: tuple[str, ...]


def work_of(reader: Reader, name: str, cuda: bool, devices: int = 1) -> Planned | None:
    """The work of a stage; None where its kind is not known, or its time is not the model's.

    Args:
        reader: Of the run.
        name: The stage's.
        cuda: Whether its devices are GPUs.
        devices: How many a machine has of them.

    Raises:
        WrongInput: What it needs is not there, or its ``work`` is unknown.
    """
    stage = reader.stage(name)
    kind = stage.get("work")
    if kind is None:
        return None
    if kind not in KINDS:
        raise WrongInput(f"unknown work {kind!r}", f"stage.{name}.work", f"one of {', '.join(KINDS)}")
    planned = KINDS[kind](reader, stage, cuda)
    if planned is None:
        return None
    own = stage["module"].get("tokenizers") or {}
    if any(source for model, source in own.items() if model != "_target_"):
        planned = planned._replace(assumed=(*planned.assumed, "as many tokens of the teacher's as of the student's"))
    planned = _sharded(planned, stage["trainer"], devices)
    scores = kind.startswith("scoring") and "score_batch_size" in stage["datamodule"]
    size = "score_batch_size" if scores else "batch_size"
    return planned._replace(work=planned.work._replace(batch_key=reader.key(name, "datamodule", size)))


def _sharded(planned: Planned, trainer: dict[str, Any], devices: int) -> Planned:
    policy = planned.work.policy
    if policy is None or trainer.get("strategy") != "fsdp2":
        return planned
    shards = devices * trainer.get("num_nodes", 1)
    said = ("one shard, since the number of devices is not known (trainer.devices=)",) if shards == 1 else ()
    return Planned(planned.work._replace(policy=policy._replace(shards=shards)), (*planned.assumed, *said))


def _fine_tuning(reader: Reader, stage: dict[str, Any], cuda: bool) -> Planned:
    return _training(reader, stage, cuda, (stage["datamodule"].get("response", "completion"),), {})


def _preference(reader: Reader, stage: dict[str, Any], cuda: bool) -> Planned:
    module = stage["module"]
    frozen = {}
    if module.get("mode") == "live":
        names = {"reference": module.get("reference") or module["student"], "teacher": module["teacher"]}
        frozen = frozen_of(reader, stage, names, module.get("frozen_dtype") or module["dtype"], cuda)
        if module.get("lora") and names["reference"] == module["student"]:
            frozen["reference"] = frozen["reference"]._replace(bytes_a_weight=BYTES[module["dtype"]], shared=True)
    return _training(reader, stage, cuda, ("chosen", "rejected"), frozen)


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
        pretrained=isinstance(source, str),
        handed_on=bool((stage.get("callbacks") or {}).get("state")),
    )
    said = ("memory and time of layers that are not compiled",) if module.get("compile") else ()
    return Planned(work, (*rows.assumed, *known.assumed, *said))


def _scoring(
    reader: Reader, stage: dict[str, Any], cuda: bool, fields: tuple[str, ...] = ("chosen", "rejected")
) -> Planned:
    module, data = stage["module"], stage["datamodule"]
    tokenizer = reader.tokenizer(module["tokenizer"])
    rows = reader.rows(data["data"], tokenizer, data["max_length"])
    known = answered(reader, data["data"], rows, fields, data["max_length"])
    served = {"teacher"} if data.get("served_teacher") else set()
    here = {name: source for name, source in module["models"].items() if name not in served}
    models = frozen_of(reader, stage, here, module["dtype"], cuda)
    packed, count, sequences = packs(stage), rows.count, known.rows
    if not packed:
        count = len(fields) * rows.count
        sequences = [Sequences(row.prompt, (response,)) for row in known.rows for response in row.responses]
    size, assumed = data.get("score_batch_size", data["batch_size"]), (*rows.assumed, *known.assumed)
    if size == "auto":
        size = len(fields) if packed else 1
        assumed = (*assumed, "batches of one prompt, the least: score_batch_size=auto")
    work = Work(
        "scoring",
        models,
        sequences,
        count,
        size,
        len(tokenizer),
        cuda,
        longest=known.longest,
        packing=packed,
        token_budget=data.get("token_budget"),
        sharing=len(fields) if packed else 1,
        compared=_in_full(models, stage),
    )
    return Planned(work, assumed)


def _in_full(models: Mapping[str, Frozen], stage: Mapping[str, Any]) -> dict[str, Frozen]:
    """The teacher with all its bits, where it has to be compared with (not where it is if there is room)."""
    asked = ((stage.get("callbacks") or {}).get("agreement") or {}).get("pairs")
    teacher = models.get("teacher")
    if teacher is None or teacher.quantization is None or not isinstance(asked, int) or not asked:
        return {}
    return {"teacher in full": teacher._replace(quantization=None, reading=PADDED)}


def _divergence(reader: Reader, stage: dict[str, Any], cuda: bool) -> Planned | None:
    module, data = stage["module"], stage["datamodule"]
    if not data["compared"]:
        return None
    tokenizer = reader.tokenizer(module["tokenizer"])
    asked = reader.stage(reader.maker(data["answers"]) or "answers")
    rows = reader.rows(asked["datamodule"]["data"], tokenizer, data["max_length"])
    plain = Rows([Lengths(row.prompt, {}) for row in rows.lengths], rows.count, rows.assumed)
    known = answered(reader, None, plain, (data["author"],), data["max_length"], asked)
    models = frozen_of(reader, stage, {"the teacher": module["teacher"], **module["models"]}, module["dtype"], cuda)
    work = Work(
        "divergence",
        models,
        known.rows,
        rows.count,
        data["batch_size"],
        len(tokenizer),
        cuda,
        teacher="the teacher",
        longest=known.longest,
    )
    return Planned(work, (*rows.assumed, *known.assumed))


def _sampling(reader: Reader, stage: dict[str, Any], cuda: bool) -> Planned | None:
    module, data = stage["module"], stage["datamodule"]
    tokenizer = reader.tokenizer(module["tokenizer"])
    rows = reader.rows(data["data"], tokenizer, data["max_length"])
    given = set.intersection(*(set(row.answers) for row in rows.lengths)) if data.get("skip_given") else set()
    if isinstance(named := data.get("skip_given"), list):  # those of rows that an earlier stage leaves
        given = set(named)
    asked = {name: source for name, source in module["models"].items() if name not in given}
    if not asked:
        return None
    most = max(max_new(stage, name) for name in asked)
    mean = min(reader.settings.response_tokens or max(1, most // 2), most)
    work = Work(
        "sampling",
        frozen_of(reader, stage, asked, module["dtype"], cuda),
        [Sequences(row.prompt, (mean,)) for row in rows.lengths],
        rows.count,
        data["batch_size"],
        len(tokenizer),
        cuda,
        new=(mean, most),
        continuous=data.get("sampler") in ("continuous", "vllm") or (cuda and data.get("sampler") == "auto"),
    )
    return Planned(work, (*rows.assumed, f"answers of {mean} tokens, {most} at most"))


KINDS: dict[str, Callable[[Reader, dict[str, Any], bool], Planned | None]] = {
    "fine_tuning": _fine_tuning,
    "preference": _preference,
    "scoring": _scoring,
    "scoring_rejected": partial(_scoring, fields=("rejected",)),  # the chosen have their scores
    "divergence": _divergence,
    "sampling": _sampling,
}
