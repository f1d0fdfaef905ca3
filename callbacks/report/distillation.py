"""The page of a daDPO run, from what its stages left on disk."""

from collections.abc import Mapping
from pathlib import Path

from callbacks.report import distillation_sections as sections
from callbacks.report.page import Card, build_sections, unread, write_page
from callbacks.report.rounds import in_a_row
from callbacks.report.run_files import RunFiles
from callbacks.report.student_numbers import StudentNumbers, percent, points, signed
from callbacks.report.talk_and_stream import talk_and_stream


def write_distillation_report(run_dir: Path, metrics: Mapping[str, float], config_yaml: str) -> Path:
    """Write ``report.html`` into a run's folder.

    Everything is optional: a section without data is left out, and data that cannot be read are named at the end of
    the page instead of ending the run.

    Args:
        run_dir: The run's folder, with ``STAGE/curve.jsonl``, ``evaluate/examples.jsonl``,
            ``dadpo/target_margin.json`` and ``score_load/curves.json`` where those stages ran.
        metrics: The run's flat metrics: ``teacher/accuracy``, ``student/NAME/win_rate`` and its like, fractions of 1.
        config_yaml: The resolved config.

    Returns:
        The page's path.

    Raises:
        OSError: Where the page cannot be written.
    """
    files, numbers = RunFiles(run_dir), StudentNumbers(metrics)
    shown, broken = build_sections(
        [
            lambda: sections.against_the_teacher(numbers),
            lambda: talk_and_stream(numbers, files.load_curves()),
            lambda: sections.accuracy_and_divergence(numbers),
            lambda: sections.training(in_a_row(files.curves(), metrics)),
            lambda: sections.target_margins(files.target_margins()),
            lambda: sections.side_by_side(files.examples()),
        ]
    )
    shown += unread(numbers.notes + files.notes + broken)
    path = run_dir / "report.html"
    write_page(path, "daDPO: a student distilled from its teacher", lead(numbers), cards(numbers), shown, config_yaml)
    return path


def lead(numbers: StudentNumbers) -> str:
    """The outcome in one sentence, no surer than the intervals allow."""
    hero = numbers.hero
    rates = [numbers.get(hero, f"{name}_rate") for name in ("win", "tie", "lose", "preference")] if hero else [None]
    if hero is None or None in rates:
        return "This run holds no comparison of a student with its teacher."
    win, tie, lose, preference = (percent(rate, 0) for rate in rates)
    told = [gain for other in ("dsft", "ddpo") if (gain := _gain_in_words(numbers, hero, other))]
    against = f", {' and '.join(told)}" if told else ""
    return (
        f"Side by side with its teacher, the {numbers.label(hero)} student wins {win}, ties {tie} and loses {lose} of "
        f"the held-out prompts: a preference rate of {preference}{against}."
    )


def cards(numbers: StudentNumbers) -> list[Card]:
    """Key figures of the student that the run is about, each beside what it is to be held against."""
    hero = numbers.hero
    if hero is None:
        return []
    name, found = numbers.label(hero), []
    if (rate := numbers.get(hero, "preference_rate")) is not None:
        interval = numbers.interval(hero, "preference_rate")
        beside = f"95 % interval {signed(100 * interval[0])} to {signed(100 * interval[1])}" if interval else ""
        found.append(Card(f"Preference rate of {name}", percent(rate), beside))
    gain, interval = numbers.gain(hero, "dsft")
    if gain is not None:
        beside = f"95 % interval {signed(100 * interval[0])} to {signed(100 * interval[1])}; " if interval else ""
        start = percent(numbers.get("dsft", "preference_rate"))
        found.append(
            Card("Gain over its dSFT start", f"{'+' if gain > 0 else ''}{points(gain)}", f"{beside}dSFT {start}")
        )
    if (accuracy := numbers.get(hero, "accuracy")) is not None:
        teacher = numbers.get("teacher", "accuracy")
        found.append(Card("Accuracy", percent(accuracy), f"teacher {percent(teacher)}" if teacher is not None else ""))
    if (divergence := numbers.get(hero, "kl_to_teacher")) is not None:
        start = numbers.get("dsft", "kl_to_teacher") if hero != "dsft" else None
        beside = "nats a token" if start is None else f"nats a token; dSFT {start:.3f}"
        found.append(Card("KL to the teacher", f"{divergence:.3f}", beside))
    return found


def _gain_in_words(numbers: StudentNumbers, hero: str, other: str) -> str:
    """How the hero's preference rate stands against another student's."""
    gain, interval = numbers.gain(hero, other)
    if gain is None:
        return ""
    name = numbers.label(other) if other != "dsft" else "its dSFT start"
    if interval and interval[0] <= 0 <= interval[1]:
        return f"not distinguishable from {name}"
    sure = f" (95 % interval {signed(100 * interval[0], 0)} to {signed(100 * interval[1], 0)})" if interval else ""
    return f"{points(abs(gain), 0)} {'above' if gain >= 0 else 'below'} {name}{sure}"
