"""The composed config: what it must hold before anything runs, and the resolvers it is written with."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue

from datamodules.latency_logs.naming import log_files
from datamodules.wrong_input import WrongInput

ARITHMETIC: dict[str, Callable[..., Any]] = {
    "sum": lambda a, b: a + b,
    "product": lambda a, b: a * b,
    "complement": lambda share: 1 - share,
    "pick": lambda items, index: items[index],
    "beside": lambda items, name, value: DictConfig({**items, name: value}),
    "served": lambda scorer, model, revision: f"{model}@{revision}" if scorer == "endpoint" else None,
    "unless_live": lambda mode, value: None if mode == "live" else value,
    "given": lambda value, if_given, otherwise: otherwise if value is None else if_given,
    "least_templates": lambda questions, drawn: max(questions - 1, drawn),
}


def register_resolvers() -> None:
    """Make the config's own resolvers known; harmless when repeated.

    ``${leaves:STAGE,PART,FALLBACK}`` is ``${paths.output_dir}/STAGE/PART`` if STAGE is one of ``stages`` or has been
    run in this output directory before, else FALLBACK: so ``stages=[scores,dadpo]`` starts from what the user gives.
    ``${trained:A,B,…}`` maps those of the stages A, B, … that the run has to their model folders, and
    ``${with_teacher:STUDENTS,TEACHER}`` puts the teacher in front. ``${sum:A,B}``, ``${product:A,B}``,
    ``${complement:A}`` = 1 − A and ``${pick:LIST,INDEX}`` do what they say. ``${given:VALUE,A,B}`` is A unless VALUE
    is null; ``${unless_live:MODE,VALUE}`` is null in live mode, which looks up no scores; ``${only:DICT,NAMES}`` keeps
    some of a dict's items, and ``${beside:DICT,NAME,VALUE}`` has one more;
    ``${served:SCORER,MODEL,REVISION}`` names a served teacher.
    ``${least_templates:N,K}`` is how many templates a passage needs. ``${log_files:DATA}`` names the latency logs that
    a file, a glob or a list of them means.
    """
    for name, function in ARITHMETIC.items():
        OmegaConf.register_new_resolver(name, function, replace=True)
    OmegaConf.register_new_resolver("trained", _trained, replace=True)
    OmegaConf.register_new_resolver(
        "with_teacher", lambda students, teacher: DictConfig({"teacher": teacher, **students}), replace=True
    )
    OmegaConf.register_new_resolver("only", _only, replace=True)
    OmegaConf.register_new_resolver("leaves", _leaves, replace=True)
    OmegaConf.register_new_resolver("log_files", lambda data: DictConfig(log_files(data)), replace=True)


def check_config(config: DictConfig) -> None:
    """Refuse a config that cannot run, before any stage has started.

    Raises:
        WrongInput: A value left at ``???``, a stage that the experiment does not have, or a setting that one of a
            stage's ``checks`` refuses: it would be found only after hours of other stages.
    """
    stages = list(config.get("stages") or [])
    known = list(config.get("stage") or {})
    if not stages:
        raise WrongInput("there is nothing to run", "stages", "choose an experiment, e.g. experiment=dadpo_quickstart")
    for name in stages:
        if name not in known:
            raise WrongInput(f"no stage {name!r} in this experiment", "stages", f"choose of {', '.join(known)}")
    for name in stages:
        stage = stage_config(config, name)
        for check in (stage.get("checks") or {}).values():  # what refuses wrong settings, and does no more
            hydra.utils.instantiate(check, _convert_="all")


def stage_config(config: DictConfig, name: str) -> dict[str, Any]:
    """A stage's config, resolved, with the trainer's settings under the stage's own.

    Raises:
        WrongInput: A value that the stage needs was left at ``???``. (Hydra would drop it in silence.)
    """
    try:
        stage: Any = OmegaConf.to_container(config.stage[name], resolve=True, throw_on_missing=True)
        trainer: Any = OmegaConf.to_container(config.trainer, resolve=True, throw_on_missing=True)
    except (InterpolationToMissingValueError, MissingMandatoryValue) as error:
        key = str(error).splitlines()[0].rpartition(" ")[2].strip(".\"'")
        raise WrongInput(
            f"stage {name} has no value for {key}", "config", f"give {key}=… on the command line"
        ) from error
    return stage | {"trainer": trainer | (stage.get("trainer") or {})}


def _trained(*stages: str, _root_: DictConfig) -> DictConfig:
    folders = {stage: _leaves(stage, "model", _root_=_root_) for stage in stages}
    return DictConfig({stage: folder for stage, folder in folders.items() if folder is not None})


def _only(items: DictConfig, names: Sequence[str]) -> DictConfig:
    for name in names:
        if name not in items:
            raise WrongInput(f"there is no {name!r}", "config", f"choose of {', '.join(map(str, items))}")
    chosen = {name: items[name] for name in names}
    # resolved here: away from their place in the config they would find nothing
    return DictConfig(
        {
            name: OmegaConf.to_container(item, resolve=True) if OmegaConf.is_config(item) else item
            for name, item in chosen.items()
        }
    )


def _leaves(stage: str, part: str, fallback: Any = None, *, _root_: DictConfig) -> Any:
    folder = Path(_root_.paths.output_dir) / stage
    if stage in (_root_.stages or []) or folder.exists():
        return str(folder / part)
    return fallback
