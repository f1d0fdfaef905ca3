import os
import subprocess
import sys
import textwrap

import pytest

from callbacks.run.loggers import close_loggers, wandb_logger


def test_without_a_key_the_run_is_offline_and_says_so(tmp_path, monkeypatch, caplog):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    logger = wandb_logger(str(tmp_path / "out"), project="p")
    assert logger._offline
    assert "offline" in caplog.text


def test_with_a_key_it_is_online(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert not wandb_logger(str(tmp_path), project="p")._offline


def test_nothing_open_is_nothing_to_close():
    close_loggers(ok=True)


@pytest.mark.parametrize(("ok", "code"), [(True, 0), (False, 1)])
def test_an_open_run_is_closed_with_its_outcome(ok, code, monkeypatch):
    class Wandb:
        run = object()
        codes: list[int] = []

        @classmethod
        def finish(cls, exit_code):
            cls.codes.append(exit_code)

    Wandb.codes = []
    monkeypatch.setitem(sys.modules, "wandb", Wandb)
    close_loggers(ok)
    assert Wandb.codes == [code]


@pytest.mark.slow
def test_a_crashed_job_leaves_a_closed_offline_run(tmp_path):
    script = textwrap.dedent(
        """
        import sys
        from callbacks.run.loggers import close_loggers, wandb_logger
        logger = wandb_logger(sys.argv[1], project="p", offline=True)
        try:
            logger.log_metrics({"a": 1.0})
            raise ZeroDivisionError
        finally:
            close_loggers(ok=False)
            import wandb
            print("open" if wandb.run else "closed")
        """
    )
    out = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"WANDB_SILENT": "true", "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)},
    )
    assert "closed" in out.stdout, out.stderr
    assert "ZeroDivisionError" in out.stderr
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
