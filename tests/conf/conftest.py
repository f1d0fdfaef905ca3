import sys

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

import train
from tests.conf.tiny import CONF


@pytest.fixture
def composed(tmp_path):
    """Compose a config as the command line does, into a folder of the test's own."""

    def build(*overrides, cache=None):
        GlobalHydra.instance().clear()
        paths = [f"paths.output_dir={tmp_path}/out", f"paths.cache_dir={cache or tmp_path / 'cache'}", "name=test"]
        with initialize_config_dir(CONF, version_base="1.3"):
            return compose("train", overrides=[*paths, *overrides])

    yield build
    GlobalHydra.instance().clear()


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Run the command line in this process; gives the exit code and what stood on standard error."""

    monkeypatch.delenv(train.ASKED_FOR_TRACEBACK, raising=False)  # a command line before it, in this process, set it

    def run(*overrides):
        GlobalHydra.instance().clear()
        monkeypatch.setenv("SMOOTHTALK_CACHE", str(tmp_path / "cache"))
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["train.py", *overrides])
        mode = RunMode.MULTIRUN if "-m" in overrides else RunMode.RUN  # Hydra composes all of the config to know it
        monkeypatch.setattr(Hydra, "get_mode", lambda *a, **k: mode)
        capsys.readouterr()
        try:
            train.command_line()
            code = 0
        except SystemExit as error:
            code = error.code
        monkeypatch.setenv("HYDRA_FULL_ERROR", "")
        return code, capsys.readouterr().err

    yield run
    GlobalHydra.instance().clear()
