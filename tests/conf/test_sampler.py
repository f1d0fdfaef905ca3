"""``sampler=`` from the command line: who answers how does not change what is said."""

import json

import pytest

from tests.conf.test_wrong_inputs import one_line
from tests.conf.tiny import TINY

STAGES = "stages=[teacher,teacher_responses,dsft,pairs]"


def answers(command, tmp_path, name, *overrides):
    code, err = command("experiment=dadpo_quickstart", f"name={name}", STAGES, *TINY, *overrides)
    assert code == 0, err
    folder = tmp_path / "outputs" / name / "pairs/responses"
    found = {}
    for model in ("chosen", "rejected"):
        rows = [json.loads(line) for line in (folder / f"{model}.jsonl").open()]
        found |= {(model, row["id"]): (row["response"], row["response_tokens"], row["finished"]) for row in rows}
    return found


@pytest.mark.slow
def test_both_samplers_say_the_same(command, tmp_path):
    batched = answers(command, tmp_path, "batched", "sampler=batched")
    assert len(batched) == 2 * 96
    assert len(set(batched.values())) > 50
    continuous = answers(command, tmp_path, "continuous", "sampler=continuous", "sample_batch_size=7")
    links = [(tmp_path / "outputs" / name / "pairs").resolve() for name in ("batched", "continuous")]
    assert links[0] != links[1]  # sampled again, not reused
    assert continuous == batched


def test_an_unknown_sampler_is_refused_before_any_stage(command, tmp_path):
    one_line(command("experiment=dadpo_quickstart", "sampler=beam", *TINY), "unknown sampler 'beam'", "batched")
    assert not (tmp_path / "cache").exists()
