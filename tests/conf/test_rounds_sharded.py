"""Rounds of a policy in shards (``trainer=fsdp2``): the curve of one process."""

import json
from pathlib import Path

import pytest

from tests.conf.command_apart import quickstart

BEFORE = ["teacher", "teacher_responses", "dsft", "pairs"]
IN_TWO = ["trainer=fsdp2", "trainer.accelerator=cpu", "trainer.devices=2", "batch_size=4"]


def run(folder: Path, name: str, *overrides: str) -> dict[tuple[str, int], dict]:
    """One run; gives what was logged of each step of each round."""
    quickstart(folder, name, *overrides)
    files = [(stage, folder / name / stage / "curve.jsonl") for stage in ("dadpo_1", "dadpo")]
    rows = [(stage, json.loads(line)) for stage, path in files if path.exists() for line in path.open()]
    return {(stage, row["step"]): row for stage, row in rows}


@pytest.mark.slow
def test_rounds_in_shards_are_those_of_one_process(tmp_path):
    run(tmp_path, "before", f"stages=[{','.join(BEFORE)}]")
    made = tmp_path / "before"
    given = [f"teacher={made}/teacher/model", f"reference={made}/dsft/model", "stages=[scores,dadpo]", "rounds=2"]
    given += [f"pair_data={made}/pairs/pairs.jsonl"]
    alone, shared = (run(tmp_path, name, *given, *more) for name, more in (("one", []), ("two", IN_TWO)))
    assert alone.keys() == shared.keys()
    assert {stage for stage, _ in alone} == {"dadpo_1", "dadpo"}
    for place, row in alone.items():
        for key in ("loss", "margin", "lr"):
            name = f"{place[0]}/train/{key}"
            assert shared[place][name] == pytest.approx(row[name], rel=1e-4, abs=1e-5), place
