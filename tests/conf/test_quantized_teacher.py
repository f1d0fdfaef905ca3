"""``teacher_quantization=`` and ``agreement_pairs=`` from the command line."""

import json
import shutil
import sqlite3

import pytest

from callbacks.agreement import Agreement
from datamodules.score_cache import Scorer
from tests.conf.test_wrong_inputs import GOOD, GOOD2, distil, one_line, pairs  # noqa: F401
from tests.lightning_modules.endpoint.served import Server

pytest.importorskip("bitsandbytes", reason="quantized teachers need bitsandbytes")
WIDE = {"initializer_range": 0.2, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
ROWS = [GOOD | {"prompt": [{"role": "user", "content": f"Is it {n}?"}]} for n in range(6)] + [GOOD2]


@pytest.fixture
def scored(distil, model_folder, tmp_path):  # noqa: F811
    """``stages=[scores]`` on seven pairs with a wide teacher; gives what was found, and what was said."""

    def run(*overrides, stages="[scores]", teacher=None):
        where = teacher or model_folder(seed=1, **WIDE)
        result = distil(*ROWS, teacher=where, extra=[f"stages={stages}", f"paths.cache_dir={tmp_path}/c", *overrides])
        path = tmp_path / "outputs/dadpo_qwen/metrics.json"
        return result, json.loads(path.read_text()) if path.is_file() else {}

    return run


def caches(tmp_path):
    """(dtype, scores) of each score cache."""
    found = []
    for path in sorted((tmp_path / "c/scores").glob("*.sqlite")):
        with sqlite3.connect(path) as db:
            found.append((*db.execute("SELECT dtype FROM scorer").fetchone(), dict(db.execute(
                "SELECT key, value FROM scores UNION SELECT key, value FROM added").fetchall())))  # fmt: skip
    return sorted(found, key=lambda one: one[0])


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "near"), [("int8", 0.1), ("nf4", 1.0)])  # random weights have the least room
def test_its_scores_are_its_own_and_held_against_the_full_one(kind, near, scored, tmp_path):
    (code, err), found = scored(f"teacher_quantization={kind}")
    assert code == 0, err
    assert found["scores/computed"] == 28
    told = {key: found[f"scores/agreement/{key}"] for key in Agreement._fields}
    assert told["pairs"] == 7
    assert 0 < told["token_logp_mae"] < near
    assert 0 < told["delta_te_mae"] <= told["delta_te_max"]
    assert told["delta_te_correlation"] > (0.9 if kind == "int8" else 0.2)
    (code, err), again = scored(f"teacher_quantization={kind}")
    assert code == 0, err
    assert again["scores/computed"] == 0
    assert {key: again[f"scores/agreement/{key}"] for key in Agreement._fields} == told
    (code, err), full = scored()
    assert code == 0, err
    assert full["scores/computed"] == 14  # the teacher's; the reference is who it was
    assert not any("agreement" in key for key in full)
    names, values = zip(*caches(tmp_path), strict=True)
    assert names == (*["float32, no autocast"] * 2, f"float32, no autocast, linear layers in {kind}")
    teacher_full = max(values[:2], key=lambda each: sum(abs(each[key] - values[2][key]) < 2 for key in each))
    apart = [abs(teacher_full[key] - value) for key, value in values[2].items()]
    assert max(apart) > 0
    assert sum(apart) <= told["token_logp_mae"] * told["tokens"] + 1e-3  # a sum differs by no more than its parts


@pytest.mark.slow
def test_training_looks_them_up_where_they_are(scored):
    for how in ("teacher_quantization=nf4", "teacher_quantization=null"):
        (code, err), found = scored(how, stages="[scores,dadpo]")
        assert code == 0, err
        assert "dadpo/train/loss" in found
    one_line(
        scored("teacher_quantization=int8", stages="[dadpo]")[0], "have no score of the teacher", "run the scores stage"
    )


def test_a_number_of_pairs_and_none(scored):
    (code, err), found = scored("teacher_quantization=int8", "agreement_pairs=3")
    assert code == 0, err
    assert found["scores/agreement/pairs"] == 3
    (code, err), found = scored("teacher_quantization=int8", "agreement_pairs=0")
    assert code == 0, err
    assert not any("agreement" in key for key in found)


@pytest.mark.slow
def test_a_served_teacher_is_held_against_its_folder(scored, model_folder, tmp_path):
    pytest.importorskip("openai")
    folder = model_folder(seed=1, **WIDE)
    served = Server(model_folder(seed=1, **WIDE))
    other = Server(model_folder(seed=3, **WIDE))
    try:
        for revision, server in (("same", served), ("other", other)):
            settings = f"{{url: '{server.url}', model: m, revision: {revision}}}"
            (code, err), found = scored(
                "teacher_scorer=endpoint", f"teacher_endpoint={settings}", "agreement_pairs=4", teacher=folder
            )
            assert code == 0, err
            assert (found["scores/agreement/token_logp_mae"] < 1e-4) is (revision == "same")
            assert (found["scores/agreement/delta_te_correlation"] > 0.999) is (revision == "same")
        bare = tmp_path / "bare"
        shutil.copytree(folder, bare)
        (bare / "model.safetensors").unlink()
        asked = ["teacher_scorer=endpoint", f"teacher_endpoint={settings}"]
        one_line(scored(*asked, "agreement_pairs=4", teacher=bare)[0], "no weights to compare", "agreement_pairs")
        (code, err), found = scored(*asked, teacher=bare)
        assert code == 0, err
        assert not any("agreement" in key for key in found)
    finally:
        served.close()
        other.close()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["teacher_quantization=int4"], ["unknown quantization 'int4'", "teacher_quantization"]),
        (["agreement_pairs=3"], ["nothing to compare it with", "agreement_pairs"]),
        (["teacher_quantization=nf4", "agreement_pairs=1"], ["got 1", "2 and more"]),
        (["teacher_quantization=nf4", "agreement_pairs=some"], ["got some", "auto"]),
        (["teacher_quantization=nf4", "mode=live", "stages=[dadpo]"], ["live mode runs the teacher in full"]),
        (
            [
                "teacher_quantization=nf4",
                "teacher_scorer=endpoint",
                "teacher_endpoint={url: http://h, model: m, revision: 1}",
            ],
            ["as its server holds it"],
        ),
    ],
)
def test_wrong_settings_are_told_before_any_stage_runs(scored, overrides, said, tmp_path):
    one_line(scored(*overrides)[0], *said)
    assert not (tmp_path / "c").exists()


def test_the_plan_counts_its_bits(scored, tmp_path):
    prompts = pairs(tmp_path / "prompts.jsonl", *({"prompt": row["prompt"]} for row in ROWS))

    def planned(*overrides):
        probes = ["plan=true", "plan_tflops=0.1", "estimate.gbps=10", f"pair_data={prompts}"]
        (code, err), _ = scored(*probes, *overrides, stages="[pairs,scores]")
        assert code == 0, err
        return json.loads((tmp_path / "outputs/dadpo_qwen/plan.json").read_text())["stages"]

    full, nf4 = planned("dtype=float32"), planned("dtype=float32", "teacher_quantization=nf4")
    linear = 2 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 128)
    for stage, name in (("scores", "teacher"), ("pairs", "chosen")):
        before, after = (
            next(held["weights"] for moment, held in one[stage]["moments"].items() if moment.startswith(name))
            for one in (full, nf4)
        )
        assert 0 < after < before
        assert before - after == pytest.approx(linear * (4 - 0.516), rel=0.3), (before, after)
    asked = planned("teacher_quantization=nf4", "agreement_pairs=4")["scores"]
    compared = next(held for moment, held in asked["moments"].items() if moment.startswith("teacher in full"))
    assert compared["weights"] == next(
        held["weights"] for moment, held in full["scores"]["moments"].items() if moment.startswith("teacher")
    )
    assert asked["parameters"].keys() == {"reference", "teacher"}


def test_the_name_of_a_full_scorer_is_what_it_was():
    assert Scorer._fields == ("model", "dtype", "vocabulary")  # another field would lose all scores that users have
