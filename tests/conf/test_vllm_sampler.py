"""``sampler=vllm`` from the command line, with a stand-in in vLLM's place: vLLM itself needs a GPU."""

import json
import time
from pathlib import Path

import pytest

from tests.conf.command_apart import start
from tests.conf.test_sampler import answers
from tests.conf.test_wrong_inputs import one_line
from tests.conf.tiny import PARTS
from tests.lightning_modules.vllm.stand_in import FakeVLLM, gone

COUNT = 14
QUICK = ["experiment=dadpo_qwen", "stages=[pairs]", "trainer=cpu", "+trainer.enable_progress_bar=false"]
QUICK += ["dtype=float32", "trainer.precision=32-true", "max_length=96", "sampling.chosen.max_new_tokens=8"]
QUICK += ["sampling.rejected.max_new_tokens=8"]


@pytest.fixture
def fake(tmp_path):
    command = FakeVLLM(tmp_path / "bin", canned=True)
    yield command
    assert gone(command), command.alive()


@pytest.fixture
def asked(fake, model_folder, tmp_path):
    """Overrides of a run in which vLLM answers a few prompts for a teacher and a student."""
    data = tmp_path / "prompts.jsonl"
    rows = [{"id": f"p{n}", "prompt": [{"role": "user", "content": f"Question {n}?"}]} for n in range(COUNT)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folders = [f"teacher={model_folder(seed=1)}", f"student={model_folder(seed=2)}", f"data={data}"]
    return [*QUICK, *folders, "sampler=vllm", f"vllm.command={fake.path}", "vllm.requests=2"]


def responses(out: Path) -> dict:
    found = {}
    for path in sorted((out / "pairs/responses").glob("*.jsonl")):
        rows = [json.loads(line) for line in path.open()]
        assert len({row["id"] for row in rows}) == len(rows)
        found |= {(path.stem, row["id"]): (row["response"], row["response_tokens"]) for row in rows}
    return found


@pytest.mark.slow
def test_greedy_it_says_what_the_other_samplers_say(command, tmp_path, fake):
    fake.behave()
    greedy = [f"sampling.{part}.temperature=0" for part in PARTS]
    batched = answers(command, tmp_path, "batched", "sampler=batched", *greedy)
    by_vllm = answers(command, tmp_path, "vllm", "sampler=vllm", f"vllm.command={fake.path}", *greedy)
    assert by_vllm == batched
    links = [(tmp_path / "outputs" / name / "pairs").resolve() for name in ("batched", "vllm")]
    assert links[0] != links[1]  # sampled again, not reused
    served = [told["args"][1] for told in fake.told("start")]
    assert [Path(model).parts[-2] for model in served] == ["teacher", "teacher", "dsft"]
    assert not list((tmp_path / "cache").rglob("*.written"))


@pytest.mark.slow
def test_it_goes_on_where_vllm_died(command, asked, fake, tmp_path):
    out = tmp_path / "outputs/dadpo_qwen"
    assert command(*asked)[0] == 0
    undisturbed = responses(out)
    assert len(undisturbed) == 2 * COUNT
    assert len(set(undisturbed.values())) > COUNT
    assert len(fake.told("start")) == 2
    again = [*asked, "name=again", "paths.cache_dir=" + str(tmp_path / "other")]
    fake.behave(canned=True, crash_after=9)
    died = command(*again)
    one_line(died, "vLLM ended under way", "CUDA out of memory", "vllm/chosen.log", "start again")
    assert gone(fake)
    half = responses(tmp_path / "outputs/again")
    assert 9 >= len(half) >= 7
    before = len(fake.asked())
    fake.behave(canned=True)
    assert command(*again)[0] == 0
    assert len(fake.asked()) - before == 2 * COUNT - len(half)
    assert responses(tmp_path / "outputs/again") == undisturbed


@pytest.mark.slow
def test_kill_9_leaves_no_vllm_behind(asked, fake, tmp_path):
    fake.behave(canned=True, delay_s=0.2)
    process = start(tmp_path, "out", *asked)
    log = tmp_path / "out/pairs/responses/chosen.jsonl"
    deadline = time.monotonic() + 120
    while process.is_alive() and time.monotonic() < deadline and not log.exists():
        time.sleep(0.02)
    assert process.is_alive(), (tmp_path / "out.err").read_text()
    assert len(fake.alive()) == 3
    process.kill()
    process.join()
    assert gone(fake)
    assert 1 <= len(responses(tmp_path / "out")) < 2 * COUNT


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("vllm.command=/no/such/vllm", ["vLLM is not there", "pip install vllm"]),
        ("vllm.requests=0", ["vllm.requests"]),
        ("vllm.args=[--port,8000]", ["vllm.args", "a free one is taken"]),
        ("sampling.rejected.temperature=2.5", ["does not sample at temperature 2.5"]),
        ("dtype=float64", ["does not compute in float64"]),
        ("trainer.devices=2", ["2 processes", "+stage.NAME.trainer="]),
        ("+stage.pairs.trainer.devices=2", ["2 processes"]),
    ],
)
def test_wrong_settings_are_told_before_any_stage_runs(command, asked, fake, tmp_path, override, parts):
    one_line(command(*asked, override), *parts)
    assert not (tmp_path / "cache").exists()
    assert not fake.told("start")


def test_one_process_is_enough_for_the_stage_that_samples(command, asked, fake):
    code, err = command(*asked, "trainer.devices=2", "+stage.pairs.trainer={devices: 1, strategy: auto}")
    assert code == 0, err


def test_an_option_that_vllm_does_not_know_is_told(command, asked, fake):
    one_line(command(*asked, "vllm.args=[--frobnicate]"), "unrecognized arguments: --frobnicate", "vllm/chosen.log")


def test_of_other_samplers_vllm_is_not_asked_for(command, asked):
    unfinished = "+stage.pairs.callbacks.writer.keep_unfinished=true"  # untrained models seldom end a turn
    code, err = command(*asked, "sampler=batched", "vllm.command=/no/such/vllm", unfinished)
    assert code == 0, err
