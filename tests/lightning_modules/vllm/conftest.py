import pytest

from tests.lightning_modules.vllm.stand_in import FakeVLLM, gone


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A command in vLLM's place; nothing of it is left when the test ends."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # loopback is asked directly
    command = FakeVLLM(tmp_path / "bin", canned=True)
    yield command
    assert gone(command), command.alive()
