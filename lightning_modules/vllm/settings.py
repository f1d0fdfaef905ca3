"""What vLLM is told, checked before any stage runs."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.wrong_input import WrongInput

DTYPES = ("float32", "bfloat16", "float16")
HOTTEST, COOLEST = 2.0, 0.01
"""Temperatures beyond which vLLM refuses a request, and below which it takes another; 0 is greedy."""
OURS = {
    "--host": "it is served on loopback",
    "--port": "a free one is taken",
    "--uds": "it is served on loopback",
    "--model": "give teacher= or student=",
    "--served-model-name": "it is a name for this run alone",
    "--tokenizer": "give tokenizer= or teacher_tokenizer=",
    "--skip-tokenizer-init": "it needs to know where a turn ends",
    "--dtype": "give dtype=",
    "--api-key": "it is a key for this run alone",
    "--generation-config": "give sampling.…",
    "--override-generation-config": "give sampling.…",
}
"""Options of ``vllm serve`` that are set here, and what to do instead."""


@dataclass(frozen=True)
class VLLMSettings:
    """How ``vllm serve`` is started and asked.

    Args:
        command: A name on the PATH, or a path: ``ENVIRONMENT/bin/vllm``.
        args: Further options of ``vllm serve``.
        requests: Answers under way at one time.
        startup_s: Seconds it has to load a model.
        max_length: No prompt has more tokens; with the new ones, the window that it keeps room for.

    Raises:
        WrongInput: A setting is wrong, or there is no such command.
    """

    command: str = "vllm"
    args: Sequence[str] = ()
    requests: int = 256
    startup_s: float = 1800.0
    max_length: int = 2048

    def __post_init__(self) -> None:
        """See ``Raises``."""
        for name in ("requests", "max_length"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise WrongInput(f"{name} is {value!r}", f"vllm.{name}", "give a whole number, at least 1")
        if isinstance(self.startup_s, bool) or not isinstance(self.startup_s, int | float) or not self.startup_s > 0:
            raise WrongInput(f"startup_s is {self.startup_s!r}", "vllm.startup_s", "give seconds, above 0")
        if isinstance(self.args, str) or not isinstance(self.args, Sequence):
            raise WrongInput(f"not a list: {self.args!r}", "vllm.args", "e.g. vllm.args=[--tensor-parallel-size,2]")
        object.__setattr__(self, "args", tuple(str(part) for part in self.args))
        for part in self.args:
            if (name := part.partition("=")[0].replace("_", "-")) in OURS:
                raise WrongInput(f"{name} is not yours to set", "vllm.args", f"leave it out: {OURS[name]}")
        self.path()

    def path(self) -> str:
        """Where the command is.

        Raises:
            WrongInput: Nowhere.
        """
        found = shutil.which(Path(str(self.command)).expanduser())
        if found is None:
            mend = (
                "python -m venv DIR && DIR/bin/pip install vllm (an environment of its own); vllm.command=DIR/bin/vllm"
            )
            raise WrongInput("vLLM is not there", f"vllm.command={self.command}", mend)
        return str(Path(found).absolute())


def check_vllm(
    sampler: str,
    settings: Mapping[str, Any],
    dtype: str,
    sampling: Any,
    devices: Any = 1,
    quantization: Mapping[str, str | None] | None = None,
) -> None:
    """Refuse what vLLM cannot do, before any stage runs. It is not started, so wrong ``args`` are told later.

    Args:
        sampler: Of anything but ``vllm`` nothing is checked.
        settings: See ``VLLMSettings``.
        dtype: Of the forward passes.
        sampling: ``Sampling`` for every model, or name → its own.
        devices: The trainer's; ``auto`` is told when the stage starts.
        quantization: Model → ``int8`` or ``nf4``, or None.

    Raises:
        WrongInput: See ``VLLMSettings``; or vLLM has no such dtype or temperature; or there is more than one process;
            or a model is to be quantised: vLLM has kinds of its own.
    """
    if sampler != "vllm":
        return
    VLLMSettings(**settings)
    if dtype not in DTYPES:
        raise WrongInput(f"vLLM does not compute in {dtype}", "dtype", f"one of {', '.join(DTYPES)}")
    for how in sampling.values() if isinstance(sampling, Mapping) else [sampling]:
        if how.temperature > HOTTEST or 0 < how.temperature < COOLEST:
            mend = f"{COOLEST:g} to {HOTTEST:g}, or 0 for the likeliest token; or set sampler=auto"
            raise WrongInput(f"vLLM does not sample at temperature {how.temperature:g}", "sampling", mend)
    if held := [name for name, kind in (quantization or {}).items() if kind is not None]:
        mend = f"stage.NAME.module.quantization.{held[0]}=null (and vLLM's own in vllm.args), or set sampler=auto"
        raise WrongInput("vLLM does not quantise models as we do", f"sampler, quantization of {held[0]}", mend)
    check_processes(len(devices) if isinstance(devices, list | tuple) else devices)


def check_processes(processes: Any) -> None:
    """Refuse several: each would start a vLLM of its own, on the same cards.

    Raises:
        WrongInput: More than one.
    """
    if isinstance(processes, int) and processes > 1:
        what = f"vLLM spreads over cards by itself, and {processes} processes would each start one"
        mend = "'+stage.NAME.trainer={devices: 1, strategy: auto}' for this stage, vllm.args=[--data-parallel-size,N]"
        raise WrongInput(what, "trainer.devices, sampler", mend)
