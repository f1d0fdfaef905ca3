"""How the teacher is held while it only looks, and what cannot be, told before any stage runs."""

from pathlib import Path

from datamodules.wrong_input import WrongInput
from lightning_modules.adapter_folders import adapter_base
from lightning_modules.quantization import check_quantization

AUTO = "auto"


def check_frozen_teacher(
    quantization: str | None, agreement_pairs: int | str, teacher: str, scorer: str, mode: str
) -> None:
    """Pass if the teacher can be held so, and compared with itself in full where that was asked for.

    Args:
        quantization: Of its linear layers: None, ``int8`` or ``nf4``.
        agreement_pairs: On how many pairs it is compared; see ``TeacherAgreement``.
        teacher: Model folder or Hub id; looked into where it is here.
        scorer: ``local`` or ``endpoint``.
        mode: ``cached`` or ``live``.

    Raises:
        WrongInput: One of these cannot be, or not with another.
    """
    key = "teacher_quantization"
    check_quantization(quantization, key)
    if quantization is not None:
        if scorer == "endpoint":
            raise WrongInput("a served teacher is held as its server holds it", f"{key}, teacher_scorer", "set one")
        if mode == "live":
            raise WrongInput("live mode runs the teacher in full", f"{key}, mode", "set mode=cached, or leave it out")
        if adapter_base(teacher) is not None:
            raise WrongInput("an adapter is not quantised", f"{key}, {teacher}", "merge it into its base, or set null")
    if agreement_pairs == AUTO:
        return
    where = "agreement_pairs"
    number = isinstance(agreement_pairs, int) and not isinstance(agreement_pairs, bool)
    if not number or int(agreement_pairs) < 0 or agreement_pairs == 1:
        raise WrongInput(f"got {agreement_pairs}", where, "set auto, 0 for none, or 2 and more")
    if agreement_pairs and quantization is None and scorer != "endpoint":
        mend = "set teacher_quantization= or teacher_scorer=endpoint, or leave it at auto"
        raise WrongInput("the teacher scores in full: there is nothing to compare it with", where, mend)
    if agreement_pairs and lacks_weights(teacher):
        mend = "name its folder with weights as teacher=, or leave it at auto"
        raise WrongInput("there are no weights to compare the served teacher with", f"{where}, {teacher}", mend)


def lacks_weights(folder: str) -> bool:
    """Whether it is a folder, and none that a model could be loaded from."""
    path = Path(folder)
    return path.is_dir() and not any(path.glob("*.safetensors")) and not any(path.glob("*.bin"))
