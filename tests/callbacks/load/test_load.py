"""A command under watch: how it is ended, what is kept of its log, and what is told of it."""

import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from callbacks.load import LoadCallback, process
from callbacks.load.aiperf import AIPerf
from callbacks.load.export import complaint, drop_cut_off_row, requests_sent
from datamodules.endpoint_load import LoadLevel
from datamodules.wrong_input import WrongInput
from tests.callbacks.load.fakes import Server, fake_aiperf

LEVEL = LoadLevel("rate-2", 2, None, 4, 1, [[{"role": "user", "content": "Hi?"}]] * 5)


@pytest.fixture
def make(tmp_path, monkeypatch):
    """A callback on a server of its own, with a stand-in for AIPerf that hangs after two rows."""
    monkeypatch.setenv("FAKE_CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("FAKE_AIPERF", '{"2": "hang"}')
    server = Server()
    yield lambda **more: LoadCallback(tmp_path / "load", server.url, aiperf=fake_aiperf(tmp_path / "aiperf"), **more)
    server.http.shutdown()
    server.http.server_close()


def started(code):
    run = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    run.stdout.readline()
    return run


def test_sigterm_ends_the_load_and_the_run(make, tmp_path):
    seen = []

    class Trainer:
        @property
        def received_sigterm(self):
            log = tmp_path / "load/aiperf/rate-2/profile_export.jsonl"
            seen.append(log.is_file() and log.read_text().count("\n"))
            return seen[-1] == 2

    callback = make()
    callback.on_test_start(Trainer(), None)
    with pytest.raises(SystemExit) as ended:
        callback.on_test_batch_end(Trainer(), None, None, LEVEL, 0)
    assert ended.value.code == 143
    with process.alone(tmp_path / "load/aiperf/.lock", 0.0):  # nobody is left who holds it
        pass
    assert not (tmp_path / "load/rate-2.jsonl").exists()


def test_a_second_test_begins_anew(make, monkeypatch):
    monkeypatch.setenv("FAKE_AIPERF", "{}")
    callback, trainer = make(), SimpleNamespace()
    for _ in range(2):
        callback.on_test_start(trainer, None)
        callback.on_test_batch_end(trainer, None, None, LEVEL, 0)
        assert callback.final_metrics == {"rate-2/requests_sent": 4, "rate-2/requests_cut_off": 0}


def test_what_does_not_end_when_asked_is_made_to(monkeypatch):
    monkeypatch.setattr(process, "_END_S", 0.2)
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    run = started(deaf)
    process.end(run)
    assert run.returncode == -9
    polite = started("import signal, time\nsignal.signal(2, lambda *_: exit(7))\nprint(flush=True)\ntime.sleep(60)")
    process.end(polite)
    assert polite.returncode == 7
    process.end(polite)  # once more does nothing


def test_rows_are_counted_as_they_come(tmp_path):
    log = tmp_path / "log"
    code = "import time\nf = open({!r}, 'w')\nfor k in range(3):\n f.write('x\\n'); f.flush(); time.sleep(0.4)"
    looks = []
    run = subprocess.Popen([sys.executable, "-c", code.format(str(log))])
    assert process.watch(run, log, 30.0, looks.append)
    assert looks == sorted(looks)
    assert {1, 3} <= {*looks} <= {0, 1, 2, 3}


def test_one_waits_for_the_load_of_another(tmp_path):
    lock, order = tmp_path / "lock", []

    def hold():
        with process.alone(lock, 0.0):
            order.append("first")
            time.sleep(0.5)
            order.append("ends")

    thread = threading.Thread(target=hold)
    thread.start()
    while not order:
        time.sleep(0.01)
    with pytest.raises(WrongInput, match="goes on"), process.alone(lock, 0.0):
        pass
    with process.alone(lock, 10.0):
        order.append("second")
    thread.join()
    assert order == ["first", "ends", "second"]


def test_a_row_cut_off_is_dropped(tmp_path):
    log = tmp_path / "log"
    drop_cut_off_row(log)
    assert not log.exists()
    for content, kept in ((b"", b""), (b"a\nb\n", b"a\nb\n"), (b"a\nb", b"a\n"), (b"b", b"")):
        log.write_bytes(content)
        drop_cut_off_row(log)
        assert log.read_bytes() == kept


@pytest.mark.parametrize(
    ("printed", "told"),
    [
        ("start\n12:00:01.5 ERROR   Failed: no\n  luck\n12:00:02.1 ERROR later\n", "Failed: no"),
        ("╭─ Error ──────╮\n│ Unknown option: \"--foo\". │\n╰──────╯\n", 'Unknown option: "--foo".'),
        ("one\n\nlast words\n──\n", "last words"),
        ("", "it printed nothing"),
    ],
)  # fmt: skip
def test_what_is_told_of_its_complaints(tmp_path, printed, told):
    (tmp_path / "output.txt").write_text(printed)
    assert complaint(tmp_path) == told


def test_how_many_were_sent_is_by_aiperfs_log(tmp_path):
    assert requests_sent(tmp_path) is None
    (tmp_path / "logs").mkdir()
    told = [
        "NOTICE - Phase warmup (warmup) sending complete | sent=2, completed=2",
        "NOTICE - Phase profiling (profiling) sending complete | sent=33, completed=9 | sessions: sent=33",
        "WARNING - Phase profiling timed out, cancelling all credits. Stats: sent=33, completed=9",
    ]
    (tmp_path / "logs" / "aiperf.log").write_text(told[0])
    assert requests_sent(tmp_path) is None
    (tmp_path / "logs" / "aiperf.log").write_text("\n".join(told))
    assert requests_sent(tmp_path) == 33


def test_aiperf_beside_this_python_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    fake_aiperf(tmp_path / "aiperf")
    with pytest.raises(WrongInput, match=r"pip install 'smoothtalk\[serve\]'"):
        AIPerf("aiperf", "http://127.0.0.1:1")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert AIPerf("aiperf", "http://127.0.0.1:1").command == str(tmp_path / "aiperf")
