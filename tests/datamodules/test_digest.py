import json
import shutil

import pytest
import torch

from datamodules.digest import data_digest, local_model, model_digest, path_digest, text_digest
from datamodules.wrong_input import WrongInput


@pytest.fixture
def model(model_folder, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(model_folder(), tmp_path / "model")


def change_config(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_parts_of_text_do_not_run_into_one_another():
    assert text_digest("ab", "c") != text_digest("a", "bc")
    assert text_digest("a") != text_digest("a", "")
    assert text_digest("é") == text_digest("é")


def test_the_order_of_keys_does_not_count_and_values_do():
    assert data_digest({"a": 1, "b": [1, 2]}) == data_digest({"b": [1, 2], "a": 1})
    assert data_digest({"a": [1, 2]}) != data_digest({"a": [2, 1]})


def test_a_folder_is_its_files_and_their_places(tmp_path):
    def folder(name, files):
        for path, text in files.items():
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_text(text)
        return path_digest(tmp_path / name)

    first = folder("one", {"a.txt": "x", "sub/b.txt": "y"})
    assert folder("two", {"sub/b.txt": "y", "a.txt": "x", ".hidden/c": "z", ".d": "z"}) == first
    assert folder("three", {"a.txt": "x", "b.txt": "y"}) != first  # moved out of its subfolder
    assert folder("four", {"a.txt": "y", "sub/b.txt": "x"}) != first  # swapped
    assert path_digest(tmp_path / "one/a.txt") == path_digest(tmp_path / "two/a.txt")


def test_a_model_is_the_same_wherever_it_lies_and_whatever_a_trainer_left_beside_it(model, tmp_path):
    first = model_digest(model)
    moved = model.rename(tmp_path / "elsewhere")
    for name in ("training_args.bin", "optimizer.pt", "checkpoint-5/model.safetensors", "README.md", "vocab.json"):
        (moved / name).parent.mkdir(exist_ok=True)
        (moved / name).write_text("lr = 3e-4")
    (moved / "model.safetensors").touch()
    (moved / "tokenizer_config.json").unlink()
    assert model_digest(moved) == first


def test_weights_saved_as_pickles_count_where_there_is_nothing_else(model):
    first = model_digest(model)
    torch.save({}, model / "pytorch_model.bin")
    assert model_digest(model) == first  # transformers prefers safetensors
    (model / "model.safetensors").unlink()
    pickled = model_digest(model)
    torch.save({"a": torch.ones(1)}, model / "pytorch_model.bin")
    assert model_digest(model) not in (pickled, first)


def test_one_byte_of_the_weights_makes_another_model(model):
    first = model_digest(model)
    data = bytearray((model / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (model / "model.safetensors").write_bytes(data)
    assert model_digest(model) != first


def test_only_config_fields_that_count_count(model):
    first = model_digest(model)
    change_config(model, transformers_version="0", _name_or_path="x", use_cache=False, dtype="float16", torch_dtype="x")
    assert model_digest(model) == first
    change_config(model, rms_norm_eps=1e-3)
    assert model_digest(model) != first


@pytest.mark.parametrize("spoil", ["no config", "config is no JSON", "config is a list", "no weights"])
def test_a_folder_that_is_no_model_is_refused_in_one_line(model, spoil):
    if spoil == "no weights":
        (model / "model.safetensors").unlink()
    elif spoil == "no config":
        (model / "config.json").unlink()
    else:
        (model / "config.json").write_text("[]" if "list" in spoil else "{")
    with pytest.raises(WrongInput, match="no weights" if spoil == "no weights" else "no config") as error:
        model_digest(model)
    assert str(model) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_model_that_is_nowhere(tmp_path, model):
    assert local_model(str(model)) == model
    for source in (str(tmp_path / "missing"), "nobody/nothing"):
        with pytest.raises(WrongInput, match="neither a model folder nor a Hub repository") as error:
            local_model(source)
        assert source in str(error.value)
        assert "\n" not in str(error.value)
