"""RAST on SQuAD and NewsQA, run for real: rows in their layouts, one step a stage, from tiny folders like theirs."""

import json
import math

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer

from tests.conf.test_rast_quickstart import run_in
from tests.conf.test_rast_wrong_inputs import ASKED, CONTEXT, PLACES

METHODS = ("rast", "nucleus")
STEPS = [f"{stage}_steps=1" for stage in ("vanilla", "style", "qa", "rl")]
SMALL = [
    *STEPS,
    "rl_val_every=1",
    "batch_size=4",
    "generate_batch_size=4",
    "sample_batch_size=60",
    "max_length=100",
    "max_new_tokens=4",
    "threads=1",
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "trainer.log_every_n_steps=1",
    "+trainer.enable_progress_bar=false",
]


def squad(place, question, answer):
    context = CONTEXT.format(place)
    span = {"text": [answer, answer], "answer_start": [context.index(answer)] * 2}
    return {"id": f"{place} {question}", "title": "Bakeries", "context": context} | {
        "question": question.format(place),
        "answers": span,
    }


def newsqa(place, question, answer):
    row = squad(place, question, answer)
    start = row["context"].index(answer)
    spans = [{"start": [start], "end": [start + len(answer) - 1]}]  # ends are the last character
    return {"context": row["context"], "question": row["question"], "key": row["id"]} | {
        "answers": [answer],
        "labels": spans,
    }


def files(folder, make, more=()):
    """``data=``, ``val_data=`` and ``eval_data=`` of a layout, on passages of their own."""
    parts = {"data": PLACES[:4], "val_data": PLACES[4:5], "eval_data": PLACES[5:6]}
    for name, places in parts.items():
        rows = [make(place, *asked) for place in places for asked in ASKED]
        rows += more if name == "data" else ()
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [f"{name}={folder}/{name}.jsonl" for name in parts]


@pytest.fixture(scope="module")
def squad_run(tmp_path_factory, tokenizer):
    """All stages but those that are like another, from a T5 and an encoder that know no marks; folder and metrics."""
    folder = tmp_path_factory.mktemp("squad")
    tokens = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    t5 = AutoConfig.for_model("t5", d_model=16, d_kv=8, num_heads=2, d_ff=32, num_layers=1, **tokens)
    t5.decoder_start_token_id, t5.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    bert = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = {"t5": AutoModelForSeq2SeqLM.from_config(t5)}
        made["bert"] = AutoModel.from_config(AutoConfig.for_model("bert", **bert, **tokens))
    for name, model in made.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    unanswerable = {**squad("Elm Street", *ASKED[0]), "id": "none", "answers": {"text": [], "answer_start": []}}
    given = [
        f"start={folder}/t5",
        f"retriever={folder}/bert",
        "judge_qa=${reward_qa}",
        f"methods=[{','.join(METHODS)}]",
    ]
    given.append("stages=[templates,vanilla,style,qa,rl,generate,evaluate]")
    given += files(folder, squad, [unanswerable])
    return folder, run_in(folder, *given, *SMALL, experiment="rast_squad")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_squad(squad_run):
    folder, metrics = squad_run
    out = folder / "rast_squad"
    assert metrics["vanilla/rows"] == 5 * len(ASKED)
    assert metrics["vanilla/unanswerable"] == 1
    assert metrics["rl/cut_passages"] == 0
    assert metrics["rl/best_step"] == 1
    assert metrics["rl/best_value"] == pytest.approx(metrics["rl/val/reward"])
    for row in lines(out / "evaluate" / "questions.jsonl"):
        assert tuple(row["methods"]) == METHODS
        assert {len(asked) for asked in row["methods"].values()} == {5}
    assert all(math.isfinite(metrics[f"{name}/{key}"]) for name in METHODS for key in ("pairwise_bleu", "qa_f1"))
    assert {row["example"] for row in lines(out / "rl" / "samples.jsonl")} <= {f"val_data.jsonl:{n}" for n in range(99)}
    marks = AutoTokenizer.from_pretrained(out / "rl" / "model")("<hl><sep>[MASK]", add_special_tokens=False)
    assert len(marks["input_ids"]) == 3
    assert AutoModel.from_pretrained(out / "rl" / "model" / "retriever").config.model_type == "bert"
    assert (out / "report.html").is_file()


def test_newsqa(squad_run, tmp_path):
    """Its layout, and what it has otherwise in RL; its models are those of the run above."""
    folder, _ = squad_run
    models = {"vanilla_generator": "vanilla", "style_generator": "style", "reward_qa": "qa"}
    given = [f"{key}={folder}/rast_squad/{stage}/model" for key, stage in models.items()]
    given += [f"start={folder}/t5", f"retriever={folder}/bert", *files(tmp_path, newsqa)]
    metrics = run_in(tmp_path, *given, *SMALL, "stages=[templates,rl]", experiment="rast_newsqa")
    assert metrics["rl/rows"] == 5 * len(ASKED)
    out = tmp_path / "rast_newsqa"
    samples = [row["example"] for row in lines(out / "rl" / "samples.jsonl")]
    assert samples == [f"val_data.jsonl:{n}" for n in range(1, 1 + len(ASKED)) for _ in range(2)]  # K = 2
    (step,) = [row for row in lines(out / "rl" / "curve.jsonl") if "rl/train/loss" in row and "rl/val/loss" not in row]
    parts = step["rl/train/generator_loss"] + step["rl/train/retriever_loss"] + 0.125 * step["rl/train/kl"]
    assert step["rl/train/loss"] == pytest.approx(parts, abs=1e-4)
    answers = {row["example"]: row["answer"] for row in lines(out / "rl" / "samples.jsonl")}
    assert list(answers.values()) == [answer for _, answer in ASKED]
