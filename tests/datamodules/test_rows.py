import json
from collections.abc import Iterator

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from datamodules.rows import check_messages, read_rows
from datamodules.wrong_input import WrongInput

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
SYSTEM, TOOL = {"role": "system", "content": "Be kind"}, {"role": "tool", "content": "21 °C"}


def consume(call) -> None:
    made = call()
    if isinstance(made, Iterator):
        list(made)


def refused(call, *parts: str) -> None:
    """The call ends with one line that says all of this."""
    with pytest.raises(WrongInput) as error:
        consume(call)
    line = str(error.value)
    assert "\n" not in line
    for part in parts:
        assert part in line, line


def test_json_lines_with_blank_ones_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n\n   \n{"prompt": "b \xc3\xa9 \\ud83d\\ude00"}')
    rows = list(read_rows(str(path)))
    assert [row.place for row in rows] == ["pairs.jsonl:1", "pairs.jsonl:4"]
    assert [row.fields for row in rows] == [{"prompt": "a"}, {"prompt": "b é 😀"}]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"prompt": "a"', "not JSON"),
        (b"prompt: a", "not JSON"),
        (b"[1, 2]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"prompt": "caf\xe9"}', "not UTF-8"),
        (b'{"prompt": "\\ud83d"}', "not UTF-8"),
    ],
)
def test_a_line_that_is_no_row_is_named(tmp_path, line, said):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b'{"prompt": "fine"}\n\n' + line + b"\n")
    refused(lambda: read_rows(str(path)), said, "pairs.jsonl:3")


def test_rows_before_a_wrong_one_are_read(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "fine"}\nnope\n')
    assert next(iter(read_rows(str(path)))).fields == {"prompt": "fine"}


def test_parquet_gives_the_rows_that_json_lines_give(tmp_path):
    rows = [{"prompt": [USER], "chosen": [ANSWER], "n": i} for i in range(2500)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    read = list(read_rows(str(tmp_path / "rows.parquet")))
    assert [row.fields for row in read] == rows
    assert read[-1].place == "rows.parquet:2500"


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "flipped"])
def test_damaged_parquet_is_named(tmp_path, damage):
    path = tmp_path / "rows.parquet"
    table = pyarrow.Table.from_pylist([{"prompt": f"a longer prompt, number {i}"} for i in range(3000)])
    pyarrow.parquet.write_table(table, path, use_dictionary=False, write_page_checksum=True)
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[4:200] = bytes(196)
    path.write_bytes({"empty": b"", "text": b"hello", "cut": data[: len(data) // 2], "flipped": bytes(data)}[damage])
    refused(lambda: read_rows(str(path)), "not Parquet, or damaged", "rows.parquet")


def test_files_that_are_none(tmp_path):
    (tmp_path / "rows.csv").write_text("prompt\n")
    refused(lambda: read_rows(str(tmp_path / "rows.csv")), "unknown kind of file '.csv'", "rows.csv", ".parquet")
    for path in (tmp_path / "no.jsonl", tmp_path / "no", "./no", "../no.parquet", "no.json", "no@twice.jsonl"):
        refused(lambda path=path: read_rows(str(path)), "there is no such file", str(path))


@pytest.mark.parametrize(
    ("data", "asked"),
    [
        ("org/name", ("org/name", None, "train")),
        ("org/name:main", ("org/name", "main", "train")),
        ("org/name@test", ("org/name", None, "test")),
        ("org/name@test[:500]", ("org/name", None, "test[:500]")),
        ("org/name:main@train[10%:20%]", ("org/name", "main", "train[10%:20%]")),
    ],
)
def test_a_hub_id_with_config_and_split(monkeypatch, data, asked):
    calls = []

    def load(name, config, *, split):
        calls.append((name, config, split))
        return datasets.Dataset.from_list([{"prompt": [USER]}, {"prompt": [USER, ANSWER, USER]}])

    monkeypatch.setattr(datasets, "load_dataset", load)
    rows = list(read_rows(data))
    assert calls == [asked]
    assert [row.place for row in rows] == ["org/name:1", "org/name:2"]
    assert rows[1].fields == {"prompt": [USER, ANSWER, USER]}


def test_a_hub_that_refuses_is_told_in_one_line(monkeypatch):
    def load(*args, **kwargs):
        raise ConnectionError("Couldn't reach the Hub\nTraceback and more")

    monkeypatch.setattr(datasets, "load_dataset", load)
    refused(lambda: read_rows("org/name@test"), "Couldn't reach the Hub", "org/name@test", "check data=")


def test_a_folder_of_a_data_set(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "set"
    folder.mkdir()
    for split, n in (("train", 3), ("test", 2)):
        rows = [{"prompt": f"{split} {i}"} for i in range(n)]
        datasets.Dataset.from_list(rows).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    assert [row.fields["prompt"] for row in read_rows(str(folder))] == ["train 0", "train 1", "train 2"]
    assert [row.fields["prompt"] for row in read_rows(f"{folder}@test[:1]")] == ["test 0"]
    refused(lambda: read_rows(f"{folder}@validation"), "validation", "check data=")


@pytest.mark.parametrize(
    ("turns", "first", "last"),
    [
        ([USER], "user", "user"),
        ([SYSTEM, USER], "user", "user"),
        ([USER, ANSWER, USER], "user", "user"),
        ([SYSTEM, USER, ANSWER, USER, ANSWER], "user", "assistant"),
        ([USER, ANSWER, TOOL, TOOL, ANSWER], "user", "assistant"),
        ([USER, ANSWER, TOOL], "user", "user"),
        ([ANSWER], "assistant", "assistant"),
    ],
)
def test_turns_in_order_pass_with_role_and_content_only(turns, first, last):
    noisy = [turn | {"name": None, "tool_calls": []} for turn in turns]
    assert check_messages(noisy, "a:1", "prompt", first=first, last=last) == turns


@pytest.mark.parametrize(
    ("turns", "last"),
    [
        ([ANSWER], "user"),
        ([ANSWER], "assistant"),
        ([SYSTEM], "user"),
        ([USER, USER], "user"),
        ([USER, ANSWER], "user"),
        ([USER], "assistant"),
        ([ANSWER, USER], "user"),
        ([USER, SYSTEM, USER], "user"),
        ([SYSTEM, SYSTEM, USER], "user"),
        ([USER, TOOL, ANSWER], "assistant"),
        ([USER, ANSWER, ANSWER], "assistant"),
        ([USER, ANSWER, TOOL, USER], "user"),
        ([USER, ANSWER, TOOL], "assistant"),
        ([{"role": "human", "content": "Hi"}], "user"),
        ([{"role": ["user"], "content": "Hi"}], "user"),
    ],
)
def test_roles_out_of_order_are_told_as_they_are(turns, last):
    order = " → ".join(str(turn["role"]) for turn in turns)
    refused(
        lambda: check_messages(turns, "a.jsonl:7", "prompt", last=last),
        "roles out of order",
        order,
        "a.jsonl:7",
        "`prompt`",
    )


@pytest.mark.parametrize(
    ("turns", "said"),
    [
        (None, "not a list of turns"),
        ([], "not a list of turns"),
        ({"role": "user", "content": "Hi"}, "not a list of turns"),
        (["Hi"], "a turn without role or text"),
        ([{"content": "Hi"}], "a turn without role or text"),
        ([{"role": "user", "content": None}], "a turn without role or text"),
        ([{"role": "user", "content": [{"type": "text", "text": "Hi"}]}], "a turn without role or text"),
        ([USER, ANSWER | {"tool_calls": [json.dumps({"name": "f"})]}], "tool_calls"),
    ],
)
def test_what_is_no_conversation_is_refused(turns, said):
    refused(lambda: check_messages(turns, "a.jsonl:7", "messages", last="assistant"), said, "a.jsonl:7", "`messages`")
