"""Every wrong input of question generation ends with one clear line and exit code 2, and nothing half-written."""

import json

import pytest

from tests.conf.test_wrong_inputs import one_line
from tests.conf.tiny import TINY_RAST

PLACES = ("Mill Lane", "Low Road", "Elm Street", "Old Quay", "High Street", "the harbour", "the square", "Fish Row")
CONTEXT = "Ada Holm founded the bakery in {} in 1873."
ASKED = [("Who founded the bakery in {}?", "Ada Holm"), ("When was the bakery in {} founded?", "1873")]
ASKED += [("What did Ada Holm found in {}?", "the bakery"), ("In which year did the bakery of {} begin?", "1873")]
ASKED += [("Whose is the bakery in {}?", "Ada Holm"), ("How old is the house in {} by now?", "1873")]


def row(place="Mill Lane", number=0, **changed):
    question, answer = ASKED[number]
    context = CONTEXT.format(place)
    asked = {"context": context, "question": question.format(place), "answer": answer}
    return asked | {"answer_start": context.index(answer)} | changed


GOOD = [row(place, number % len(ASKED)) for number, place in enumerate(PLACES * 3)]


@pytest.fixture
def ask(command, tmp_path):
    """``experiment=rast_quickstart`` on given rows; what differs is the test's."""

    def run(*rows, extra=(), stages="stages=[templates,vanilla]"):
        data = tmp_path / "rows.jsonl"
        data.write_text("".join(json.dumps(one) + "\n" for one in rows or GOOD))
        small = ["split.tokenizer.size=300", "split.test_share=0.3", "max_length=200"]
        return command("experiment=rast_quickstart", f"data={data}", *TINY_RAST, *small, stages, *extra)

    return run


def test_the_same_command_with_good_input_works(ask, tmp_path):
    code, err = ask()
    assert code == 0, err
    assert (tmp_path / "outputs" / "rast_quickstart" / "vanilla" / "model" / "model.safetensors").is_file()


BAD_ROWS = {
    "an offset that does not match": (row(answer_start=1), "answer_start` 1 stands"),
    "an answer that is not there": (row(answer="Bea Finch", answer_start=0), "is not in the passage"),
    "a passage shorter than the answer": (row(context="Ada."), "the passage is shorter than the answer"),
    "an empty answer": (row(answer=" "), "the answer is empty"),
    "no question": (row(question=None), "no `question`"),
    "no passage": (row(context=""), "no `context`"),
    "an offset that is no number": (row(answer_start="0"), "`answer_start` is '0'"),
}


@pytest.mark.parametrize("case", sorted(BAD_ROWS))
def test_a_bad_row_is_named_with_file_and_row(ask, case, tmp_path):
    bad, said = BAD_ROWS[case]
    one_line(ask(*GOOD, bad), f"rows.jsonl:{len(GOOD) + 1}", said)
    assert not (tmp_path / "outputs" / "rast_quickstart" / "templates" / "stage.json").exists()


def test_a_bad_test_row_is_found_before_anything_is_trained(ask, tmp_path):
    test = tmp_path / "test.jsonl"
    test.write_text(json.dumps(row(answer_start=1)) + "\n")
    one_line(ask(extra=[f"eval_data={test}"]), "test.jsonl:1", "answer_start")
    assert not (tmp_path / "outputs" / "rast_quickstart" / "vanilla").exists()


def test_an_answer_longer_than_the_maximum(ask):
    one_line(ask(extra=["max_length=5"]), "rows.jsonl:", "the maximum is 5", "max_length=")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("", "no template can be had"),
        ("a line without a mask\nanother one\n", "no template can be had"),
        ("Who founded [MASK] ?\nWhen did [MASK] begin ?\n", "4 templates a passage are wanted and the bank has 2"),
    ],
)
def test_banks_that_will_not_do(ask, tmp_path, lines, said):
    bank = tmp_path / "bank.txt"
    bank.write_text(lines)
    one_line(ask(extra=[f"bank={bank}"]), said, "bank.txt")


def test_a_bank_that_is_not_there(ask):
    one_line(ask(extra=["bank=nowhere.txt"]), "nowhere.txt")


def test_more_questions_or_templates_than_the_bank_has(ask):
    one_line(ask(extra=["questions=40"]), "39 templates a passage are wanted")
    one_line(ask(extra=["templates_per_passage=30"]), "30 templates a passage are wanted")


ALL = "stages=[templates,vanilla,style,qa,judge_qa,rl,generate,evaluate]"


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("diversity_weight=-0.1", "diversity must not be negative"),
        ("kl_weight=-1", "must not be negative"),
        ("baseline=critic", "unknown baseline 'critic'"),
        ("templates_per_passage=0", "2 or more templates, got 0"),
        ("stage.rl.module.reward_mode=mine", "unknown reward_mode 'mine'"),
        ("methods=[rast,greedy]", "there is no 'greedy'"),
    ],
)
def test_settings_are_refused_before_anything_is_trained(ask, setting, said, tmp_path):
    one_line(ask(extra=[setting], stages=ALL), said)
    assert not (tmp_path / "outputs" / "rast_quickstart" / "templates").exists()


REWARDS = {
    "no number": ("lambda asked: torch.full((len(asked.questions),), float('nan'))", "reward mine is nan in row 0"),
    "a wrong shape": ("lambda asked: torch.zeros(len(asked.questions), 2)", "reward mine gave shape"),
    "no tensor": ("lambda asked: [0.0] * len(asked.questions)", "reward mine gave a list"),
}


@pytest.mark.parametrize("case", sorted(REWARDS))
def test_a_reward_that_is_none(ask, case, tmp_path, monkeypatch):
    code, said = REWARDS[case]
    (tmp_path / "my_reward.py").write_text(f"import torch\n\nreward = {code}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "my_reward", raising=False)
    mine = ["+stage.rl.module.rewards.mine={_target_: hydra.utils.get_method, path: my_reward.reward}"]
    mine += ["+stage.rl.module.reward_weights.mine=0.5", "reward_qa=${vanilla_generator}"]
    mine += ["style_generator=${vanilla_generator}"]
    one_line(ask(extra=mine, stages="stages=[templates,vanilla,rl]"), said, "mend the reward mine")


def test_a_qa_model_of_another_tokenizer(ask, tmp_path, command):
    assert ask()[0] == 0
    import shutil

    from transformers import AutoTokenizer

    vanilla = tmp_path / "outputs" / "rast_quickstart" / "vanilla" / "model"
    other = tmp_path / "other"
    shutil.copytree(vanilla, other)
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(other)
    result = ask(extra=[f"reward_qa={other}", "style_generator=${vanilla_generator}"], stages="stages=[rl]")
    one_line(result, "the tokenizers differ", "<new>", str(other))


def test_a_run_that_is_not_there_to_generate_with(command, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps(GOOD[0]) + "\n")
    result = command("experiment=rast_generate", f"data={data}", f"trained={tmp_path}/nowhere")
    one_line(result, "there is no such file or folder", "nowhere")
