"""Starts `ferrum up` as a user does and hands out official clients."""

import os
import pathlib
import signal
import subprocess
import time

import openai
import pytest

CHAT_AND_EMBEDDING = """
apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: smollm2
spec:
  model: file://{models}/SmolLM2-135M-Instruct.Q4_1.gguf
  task: chat
  engine:
    maxModelLen: 2048
---
apiVersion: ferrum.dev/v1alpha1
kind: FerrumModel
metadata:
  name: minilm
spec:
  model: file://{models}/all-minilm-l6-v2
  task: embedding
"""


def environment(name):
    """A path that `make test` sets."""
    value = os.environ.get(name)
    if not value:
        pytest.fail(f"{name} is not set: run these tests with `make test`")
    return pathlib.Path(value)


class Stack:
    """One `ferrum up` and its address."""

    def __init__(self, folder, manifest, *arguments):
        self.state = folder / "state"
        file = folder / "models.yaml"
        file.write_text(manifest)
        self.log = (folder / "up.log").open("w+")
        self.process = subprocess.Popen(
            [environment("FERRUM_BIN"), "up", "-f", file, "--state-dir", self.state, "--port", "0", *arguments],
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        self.url = self._await_address()

    def _await_address(self):
        address = self.state / "router.address"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if address.exists() and address.read_text().strip():
                return address.read_text().strip()
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        self.log.seek(0)
        pytest.fail(f"ferrum up gave no address:\n{self.log.read()}")

    def client(self, **options):
        """An official client without retries of its own, so that every error is seen."""
        return openai.OpenAI(base_url=f"{self.url}/v1", **{"api_key": "unused", "max_retries": 0, **options})

    def await_models(self, *names):
        """Waits until each model answers."""
        deadline = time.monotonic() + 120
        client = self.client()
        for name in names:
            while True:
                try:
                    client.models.retrieve(name)
                    if self._answers(client, name):
                        break
                except (openai.APIStatusError, openai.APIConnectionError):
                    pass
                assert time.monotonic() < deadline, f"{name} is not ready"
                time.sleep(0.1)

    @staticmethod
    def _answers(client, name):
        if name == "minilm":
            return bool(client.embeddings.create(model=name, input="x").data)
        messages = [{"role": "user", "content": "x"}]
        return bool(client.chat.completions.create(model=name, messages=messages, max_tokens=1).choices)

    def stop(self):
        """Ctrl-C, and everything is gone."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(timeout=60) == 0


class SimulatedEngine:
    """One `ferrum serve --sim` with few places, to fill them."""

    def __init__(self, folder, *arguments):
        self.address = folder / "address"
        self.process = subprocess.Popen(
            [environment("FERRUM_BIN"), "serve", "/sim", "--served-name=sim", "--sim", "--port=0"]
            + [f"--address-file={self.address}", *arguments],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 30
        while not self.address.exists():
            assert time.monotonic() < deadline and self.process.poll() is None, "ferrum serve --sim gave no address"
            time.sleep(0.02)
        self.url = self.address.read_text().strip()

    def client(self):
        """An official client without retries of its own."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="unused", max_retries=0)

    def await_ready(self):
        """Waits until it answers."""
        deadline = time.monotonic() + 30
        while True:
            try:
                return self.client().models.retrieve("sim")
            except openai.APIStatusError:
                assert time.monotonic() < deadline, "the simulated engine is not ready"
                time.sleep(0.02)

    def stop(self):
        """SIGKILL: a simulated engine has nothing to lose."""
        self.process.kill()
        self.process.wait(timeout=30)


@pytest.fixture(scope="session")
def stack(tmp_path_factory):
    """SmolLM2 and MiniLM behind one router."""
    stack = Stack(
        tmp_path_factory.mktemp("stack"), CHAT_AND_EMBEDDING.format(models=environment("FERRUM_TEST_MODELS"))
    )
    stack.await_models("smollm2", "minilm")
    yield stack
    stack.stop()


@pytest.fixture(scope="session")
def client(stack):
    """An official client of it."""
    return stack.client()
