"""RAST's quickstart, tiny: every stage runs, is skipped when nothing changed, and leaves what it promises."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForTextEncoding, AutoTokenizer

import train
from callbacks.questions.metrics import METRICS
from callbacks.run.plan import stage_config
from datamodules.question_texts import question_text_ids
from datamodules.templates import TemplateBank
from tests.conf.tiny import CONF, TINY_RAST

METHODS = ("rast", "fine_tuned", "beam", "nucleus", "diverse_beam")
STYLED = METHODS[:2]
SAMPLES = Path(__file__).resolve().parents[3] / "shared" / "data" / "question_generation"
README = Path(train.__file__).with_name("README.md")


def run_in(folder, *overrides, experiment="rast_quickstart"):
    paths = [f"paths.output_dir={folder}/{experiment}", f"paths.cache_dir={folder}/cache", "name=test"]
    with initialize_config_dir(CONF, version_base="1.3"):
        config = compose("train", overrides=[f"experiment={experiment}", *paths, *overrides])
    return train.run(config)


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """One tiny run of every stage; gives a function that runs it again with other settings in the same folders."""
    folder = tmp_path_factory.mktemp("rast_quickstart")

    def run(*overrides):
        return run_in(folder, *TINY_RAST, *overrides)

    return folder / "rast_quickstart", run("logger=csv"), run


@pytest.fixture(scope="module")
def rows(quickstart):
    return [json.loads(line) for line in (quickstart[0] / "evaluate" / "questions.jsonl").read_text().splitlines()]


def test_metrics_hold_what_is_promised(quickstart):
    folder, metrics, _ = quickstart
    written = json.loads((folder / "metrics.json").read_text())
    assert written.keys() == metrics.keys()
    for method in METHODS:
        for name in METRICS:
            value, low, high = (written[f"{method}/{name}{end}"] for end in ("", "_ci_low", "_ci_high"))
            assert value is None or low is None or low - 1e-9 <= value <= high + 1e-9
    for other in ("fine_tuned", "nucleus"):
        for name in ("pairwise_bleu", "qa_f1", "top1_bleu"):
            difference = metrics[f"rast/{name}_minus_{other}"]
            assert difference == pytest.approx(metrics[f"rast/{name}"] - metrics[f"{other}/{name}"], abs=1e-9)
            assert f"rast/{name}_minus_{other}_ci_low" in metrics
    assert metrics["generate/rows"] == 6
    assert 0 <= metrics["reference/qa_f1"] <= 100
    assert metrics["reference/nll"] > 0
    assert metrics["templates/bank_size"] == len(TemplateBank.load(folder / "templates" / "bank.jsonl"))


def test_every_passage_has_every_methods_questions(rows, quickstart):
    file = quickstart[0] / "templates" / "bank.jsonl"
    bank, lines = set(TemplateBank.load(file).texts), file.read_text().splitlines()
    assert len(rows) == 6
    for row in rows:
        assert row.keys() == {"id", "context", "answer", "answer_start", "reference", "methods"}
        assert row["context"][row["answer_start"] :].startswith(row["answer"])
        assert tuple(row["methods"]) == METHODS
        for method, questions in row["methods"].items():
            assert len(questions) == 5
            for question in questions:
                keys = {"question", "template", "template_id", "score", "retrieval_score", "cluster", "rewards"}
                assert question.keys() == keys | {"answered", "logp", "tokens"}
                assert question["logp"] < 0 or not question["tokens"]
                assert question["rewards"].keys() == {"consistency", "diversity"}
                assert 0 < question["rewards"]["consistency"] <= 1
            first, *others = questions
            assert first["template"] is first["template_id"] is None
            assert first["cluster"] is None
            if method in STYLED:
                assert first["retrieval_score"] == 1.0
                assert len({question["template"] for question in others}) == 4
                assert all(question["template"] in bank for question in others)
                named = [json.loads(lines[question["template_id"] - 1])["template"] for question in others]
                assert named == [question["template"] for question in others]
                assert [question["cluster"] for question in others] == sorted(q["cluster"] for q in others)
                assert all(-1 <= question["retrieval_score"] <= 1 + 1e-6 for question in others)
            else:
                assert all(question["retrieval_score"] is question["template"] is None for question in questions)
                assert all(question["score"] <= 0 for question in questions)


def test_the_same_run_again_computes_nothing_and_says_the_same(quickstart):
    folder, metrics, run = quickstart
    made = {path: path.stat().st_mtime_ns for path in folder.glob("*/model/*")}
    assert run("logger=csv") == pytest.approx(metrics, nan_ok=True)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/model/*")} == made


def test_another_weight_trains_the_policy_alone_again(quickstart):
    folder, _, run = quickstart
    before = {stage: (folder / stage).resolve() for stage in ("templates", "vanilla", "style", "qa", "judge_qa", "rl")}
    run("diversity_weight=3.0", "stages=[templates,vanilla,style,qa,judge_qa,rl]")
    after = {stage: (folder / stage).resolve() for stage in before}
    assert [stage for stage in before if before[stage] != after[stage]] == ["rl"]
    run("stages=[rl]")  # back to where the other tests find it


def stages_of(experiment, folder, *overrides):
    paths = [f"paths.output_dir={folder}", f"paths.cache_dir={folder}", "name=test"]
    with initialize_config_dir(CONF, version_base="1.3"):
        config = compose("train", overrides=[f"experiment={experiment}", *paths, *overrides])
    return {name: stage_config(config, name) for name in config.stages}


def test_what_lambda_and_learning_rate_do_not_touch_is_made_once_a_seed(tmp_path):
    before = stages_of("rast_lambda", tmp_path, "diversity_weight=0")
    after = stages_of("rast_lambda", tmp_path, "diversity_weight=3.0", "lr=3e-4")
    assert [name for name in before if before[name] != after[name]] == ["rl"]


def test_longer_passages_have_one_judge_for_all_seeds(tmp_path):
    zero, one = (stages_of("rast_passages_lambda", tmp_path, f"seed={seed}") for seed in (0, 1))
    same = {name for name in zero if zero[name] == one[name]}
    assert {"judge_short", "judge_qa"} <= same
    assert not same & {"templates", "vanilla", "style", "qa", "rl"}
    assert zero["judge_qa"]["datamodule"]["seed"] != zero["qa"]["datamodule"]["seed"]


def test_longer_passages_are_learnt_after_short_ones(tmp_path):
    """``rast_passages``: generator and judge (of more layers) go on from what one-sentence passages taught them."""
    stages = ["vanilla_short", "vanilla", "judge_short", "judge_qa"]
    few = ["short_steps=2", "vanilla_steps=1", "judge_qa_steps=1"]
    few += [f"world.{table}.count=16" for table in ("short", "train")]
    still = ["vanilla_lr=1e-9", "judge_qa_lr=1e-9"]
    settings = [*TINY_RAST, *few, *still, f"stages=[{','.join(stages)}]"]
    run_in(tmp_path, *settings, experiment="rast_passages")
    made = {
        name: AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "rast_passages" / name / "model").state_dict()
        for name in stages
    }
    assert sum("decoder.block.1." in name for name in made["vanilla"]) > 0
    layers = {
        name: sum(part.endswith("SelfAttention.q.weight") for part in made[name] if part.startswith("encoder"))
        for name in stages
    }
    assert layers == {"vanilla_short": 3, "vanilla": 3, "judge_short": 4, "judge_qa": 4}
    for short, long in (stages[:2], stages[2:]):
        for name, weight in made[short].items():
            torch.testing.assert_close(made[long][name], weight, atol=1e-6, rtol=0)
    assert not made["vanilla"]["shared.weight"].equal(made["judge_qa"]["shared.weight"])


def test_fluency_is_read_in_the_tokens_that_its_model_has_learnt(quickstart, rows):
    folder, metrics, _ = quickstart
    tokenizer = AutoTokenizer.from_pretrained(folder / "vanilla" / "model")
    asked = [question for row in rows for questions in row["methods"].values() for question in questions]
    for question in asked:
        assert question["tokens"] == len(question_text_ids(tokenizer, question["question"])) - 1
    model = AutoModelForCausalLM.from_pretrained(folder / "question_lm" / "model")
    nats = tokens = 0.0
    for row in rows:
        ids = torch.tensor([question_text_ids(tokenizer, row["reference"])])
        with torch.no_grad():
            logps = model(ids).logits[0, :-1, : len(tokenizer)].log_softmax(-1)
        nats -= logps.gather(1, ids[0, 1:, None]).sum().item()
        tokens += ids.shape[1] - 1
    assert metrics["reference/nll"] == pytest.approx(nats / tokens, rel=1e-4)


def test_the_judge_has_another_start_and_order_than_the_reward(quickstart):
    folder, _, _ = quickstart
    orders = [
        [json.loads(line) for line in (folder / stage / "curve.jsonl").read_text().splitlines()]
        for stage in ("qa", "judge_qa")
    ]
    assert orders[0][0]["qa/train/response_tokens"] != orders[1][0]["judge_qa/train/response_tokens"] or (
        orders[0][0]["qa/train/loss"] != orders[1][0]["judge_qa/train/loss"]
    )
    ours, theirs = (AutoModelForSeq2SeqLM.from_pretrained(folder / stage / "model") for stage in ("qa", "judge_qa"))
    assert not ours.shared.weight.equal(theirs.shared.weight)


def test_policy_and_retriever_are_hugging_face_folders(quickstart):
    folder, _, _ = quickstart
    model = folder / "rl" / "model"
    AutoModelForSeq2SeqLM.from_pretrained(model)
    AutoModelForTextEncoding.from_pretrained(model / "retriever")
    AutoModelForTextEncoding.from_pretrained(model / "retriever" / "bank_encoder")
    assert len(AutoTokenizer.from_pretrained(model)("<hl> a <sep> [MASK]", add_special_tokens=False)["input_ids"]) == 4


def test_rl_leaves_a_table_of_samples_that_the_report_shows(quickstart):
    folder, _, _ = quickstart
    samples = [json.loads(line) for line in (folder / "rl" / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 20
    assert samples[0].keys() == {"step", "example", "template", "question", "answer", "qa_answer", "reward"}
    assert {row["step"] for row in samples} == {4}
    assert "<h2>Samples of the training</h2>" in (folder / "report.html").read_text()


def test_every_logged_key_of_rl_stands_in_the_readme(quickstart):
    folder, _, _ = quickstart
    told = set(re.findall(r"`(\w+)`", README.read_text().split("`rl/{train|val}/`")[1].split("\n\n")[0]))
    logged = set()
    for line in (folder / "rl" / "curve.jsonl").read_text().splitlines():
        logged |= {key.rpartition("/")[2] for key in json.loads(line) if "/" in key}
    assert logged <= told


def test_a_trained_run_asks_about_a_file(quickstart, tmp_path):
    folder, _, _ = quickstart
    passages = tmp_path / "passages.jsonl"
    context = "Since 1901 Ada Holm has worked as a baker; the bakery in Mill Lane opens at 6 o'clock."
    asked = [{"context": context, "answer": a, "answer_start": context.index(a)} for a in ("Ada Holm", "6", "1901")]
    passages.write_text("".join(json.dumps(row) + "\n" for row in asked))
    small = ["threads=1", "max_new_tokens=8", "+trainer.enable_progress_bar=false", "questions=3"]
    run_in(tmp_path, f"data={passages}", f"trained={folder}", *small, experiment="rast_generate")
    lines = (tmp_path / "rast_generate" / "generate" / "questions.jsonl").read_text().splitlines()
    written = [json.loads(line) for line in lines]
    assert [row["id"] for row in written] == ["passages.jsonl:1", "passages.jsonl:2", "passages.jsonl:3"]
    for row, given in zip(written, asked, strict=True):
        assert given.items() <= row.items()
        assert row["reference"] is None
        assert len(row["questions"]) == 3
        assert all(math.isfinite(question["score"]) for question in row["questions"])


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the real samples (../shared/data/question_generation) are not here")
def test_real_passages_and_a_users_own_bank(tmp_path):
    """A tokenizer is trained on them, a part of the passages is held out, and the bank is of another's questions."""
    lines = (SAMPLES / "fairytaleqa_train.jsonl").read_text().splitlines()[:60]
    data, bank = tmp_path / "stories.jsonl", tmp_path / "bank.txt"
    data.write_text("\n".join(lines) + "\n")
    bank.write_text("\n".join((SAMPLES / "squad_du_dev_questions.txt").read_text().splitlines()[:200]) + "\n")
    small = ["split.tokenizer.size=400", "max_length=160", "split.test_share=0.2", "methods=[rast,fine_tuned,nucleus]"]
    metrics = run_in(tmp_path, *TINY_RAST, f"data={data}", f"bank={bank}", *small)
    assert metrics["vanilla/rows"] + metrics["generate/rows"] == len(lines)
    assert metrics["generate/rows"] > 0
    assert metrics["templates/bank_size"] > 50
    assert metrics["vanilla/cut_passages"] > 0
    contexts = {json.loads(line)["context"] for line in lines}
    rows = (tmp_path / "rast_quickstart" / "evaluate" / "questions.jsonl").read_text().splitlines()
    assert {json.loads(row)["context"] for row in rows} <= contexts
    assert "beam/pairwise_bleu" not in metrics
