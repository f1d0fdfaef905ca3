"""Who keeps a command at work, and ends it whatever becomes of the one who wanted it."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from lightning_modules.vllm import guard
from tests.lightning_modules.vllm.stand_in import running

FAMILY = """
import subprocess, sys, time
child = subprocess.Popen(["sleep", "600"])
open(sys.argv[1], "w").write(f"{child.pid}")
time.sleep(float(sys.argv[2]))
sys.exit(7)
"""


def pid_in(path):
    deadline = time.monotonic() + 20
    while not (path.exists() and path.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return int(path.read_text())


def ended(pid):
    deadline = time.monotonic() + 10
    while running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not running(pid)


def kept(path, seconds):
    command = [sys.executable, "-c", FAMILY, str(path), str(seconds)]
    return subprocess.Popen([sys.executable, "-I", guard.__file__, *command], stdin=subprocess.PIPE)


def test_the_exit_code_is_the_commands_and_its_children_go_with_it(tmp_path):
    process = kept(tmp_path / "child", 0.1)
    assert process.wait(20) == 7
    assert ended(pid_in(tmp_path / "child"))


def test_a_closed_pipe_ends_the_command_and_its_children(tmp_path):
    process = kept(tmp_path / "child", 600)
    child = pid_in(tmp_path / "child")
    assert running(child)
    process.stdin.close()
    assert process.wait(10) == 128 + signal.SIGTERM
    assert ended(child)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_guard_is_one_to_the_command(tmp_path, how):
    process = kept(tmp_path / "child", 600)
    child = pid_in(tmp_path / "child")
    process.send_signal(how)
    assert process.wait(10) == 1
    assert ended(child)


def test_kill_9_of_the_one_who_started_it_ends_the_command(tmp_path):
    starts = f"""
import subprocess, sys, time
command = [sys.executable, "-c", {FAMILY!r}, {str(tmp_path / "child")!r}, "600"]
subprocess.Popen([sys.executable, "-I", {guard.__file__!r}, *command], stdin=subprocess.PIPE, start_new_session=True)
time.sleep(600)
"""
    owner = subprocess.Popen([sys.executable, "-c", starts])
    child = pid_in(tmp_path / "child")
    owner.kill()
    owner.wait()
    assert ended(child)


def test_a_command_that_does_not_listen_is_made_to_end(monkeypatch):
    monkeypatch.setattr(guard, "END_S", 0.2)
    read, write = os.pipe()
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    )
    threading.Timer(1.0, os.close, [write]).start()
    start = time.monotonic()
    assert guard.keep([sys.executable, "-c", deaf], read) == 128 + signal.SIGKILL
    assert time.monotonic() - start < 10
    os.close(read)
