import json

from callbacks.run.outcome import print_table, write_metrics


def test_metrics_are_flat_sorted_and_strict_json(tmp_path):
    write_metrics(tmp_path, {"b/x": 1.0, "a/y": float("nan"), "a/z": float("inf")})
    text = (tmp_path / "metrics.json").read_text()
    assert json.loads(text, parse_constant=lambda name: 1 / 0) == {"a/y": None, "a/z": None, "b/x": 1.0}
    assert list(json.loads(text)) == ["a/y", "a/z", "b/x"]


def test_students_get_a_row_each_with_their_intervals(capsys):
    metrics = {"teacher/accuracy": 0.9, "teacher/rows": 5.0, "scores/computed": 3.0}
    for name in ("dsft", "dadpo"):
        metrics |= {f"student/{name}/win_rate{end}": v for end, v in (("", 0.5), ("_ci_low", 0.4), ("_ci_high", 0.6))}
        metrics |= {f"student/{name}/invalid_rate": 0.0}
    print_table(metrics)
    shown = capsys.readouterr().out
    assert shown.index("teacher") < shown.index("dsft") < shown.index("dadpo")
    assert shown.count("[0.4, 0.6]") == 2
    assert "invalid" not in shown
    assert "computed" not in shown


def test_without_students_every_number_is_shown(capsys):
    print_table({"scores/computed": 3.0})
    assert "scores/computed" in capsys.readouterr().out


def test_methods_of_asking_get_a_row_each_and_their_differences_too(capsys):
    metrics = {}
    for name, value in (("rast", 20.0), ("fine_tuned", 30.0), ("rast_minus", 0.0)):
        if name != "rast_minus":
            for key in ("top1_bleu", "pairwise_bleu", "qa_f1"):
                metrics |= {f"{name}/{key}{end}": value + d for end, d in (("", 0), ("_ci_low", -1), ("_ci_high", 1))}
    for key in ("pairwise_bleu", "qa_f1"):
        found = (("", -10.0), ("_ci_low", -12.0), ("_ci_high", -8.0))
        metrics |= {f"rast/{key}_minus_fine_tuned{end}": value for end, value in found}
    print_table(metrics | {"rl/rows": 7.0})
    shown = capsys.readouterr().out
    assert shown.count("[19, 21]") == 3
    assert shown.count("[29, 31]") == 3
    assert shown.count("[-12, -8]") == 2
    assert "rast − fine_tuned" in shown
    assert "rows" not in shown
