"""A live server on loopback, in a thread of the test, with a model that reads; and a client that keeps the text."""

import asyncio
import contextlib
import json
import socket
import threading
import urllib.request

import numpy as np
from websockets.sync.client import connect

from helpers.fakes import ASK
from helpers.reading_model import ReadingModel
from helpers.talks import WINDOW, EnergyDetector
from simulsa_plugin.api.live_system import LiveSystem, StreamPrompts
from simulsa_plugin.audio.samples import to_pcm16
from simulsa_plugin.evaluation.block_decoding import cell_folder
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.evaluation.run import plan_cells
from simulsa_plugin.live.engine import LiveEngine
from simulsa_plugin.longform import silero
from simulsa_plugin.server.access import Access
from simulsa_plugin.server.limits import Limits
from simulsa_plugin.server.server import LiveServer
from simulsa_plugin.streaming.steps import BatchLimits

KEYS = {
    "simulsa_longform": "window",
    "simulsa_window_seconds": WINDOW,
    "simulsa_vad_min_silence_ms": 500,
    "simulsa_vad_pad_ms": 300,
    "simulsa_chunks": [480],
    "simulsa_rollbacks": [2],
}
ROLLBACK = "rollback_k480_b2"
PATIENCE_SECONDS = 60


def reading_system(model=None, prompts=None, **keys):
    """A system whose model reads audio of `spoken`, and whose detector hears any sound."""
    model = model or ReadingModel(regret=True)
    settings = EvaluationSettings.from_keys(KEYS | keys)
    points = {cell_folder(cell): cell for cell in plan_cells(settings) if cell.chunk_ms}
    prompts = prompts or StreamPrompts(ASK, None, "qwen2_audio", None, None)
    return LiveSystem(model, LiveEngine(model, BatchLimits(64, batch_size=8)), settings, points, prompts, "reader")


class RunningServer:
    """A server that runs, with its address."""

    def __init__(self, port, server, system):
        self.port, self.server, self.system = port, server, system

    def connect(self, path="/", **options):
        return Client(connect(f"ws://127.0.0.1:{self.port}{path}", compression=None, **options))

    def describe(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/system.json") as answer:
            return json.load(answer)


@contextlib.contextmanager
def running_server(system, limits=None, access=None):
    """Serve a system until the block ends; then all of its threads end, too."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = LiveServer(system, access or Access(), limits or Limits())
    started, loops, stop = threading.Event(), [], []

    async def serve():
        loops.append(asyncio.get_running_loop())
        stop.append(asyncio.Event())
        await server.run(listener, stop[0], on_start=started.set)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert started.wait(PATIENCE_SECONDS)
        yield RunningServer(listener.getsockname()[1], server, system)
    finally:
        loops[0].call_soon_threadsafe(stop[0].set)
        thread.join(PATIENCE_SECONDS)
        system.close()
        assert not thread.is_alive()


@contextlib.contextmanager
def reading_server(monkeypatch, limits=None, access=None, model=None, prompts=None, **keys):
    """`running_server` of `reading_system`."""
    monkeypatch.setattr(silero, "SpeechDetector", EnergyDetector)
    with running_server(reading_system(model, prompts, **keys), limits, access) as running:
        yield running


class Client:
    """A client that applies what it is told to its text, as simulstream's page does."""

    def __init__(self, socket):
        self.socket, self.text, self.messages = socket, "", []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def say(self, message=None, **more):
        self.socket.send(json.dumps((message or {}) | more))

    def speak(self, waveform, packet=1600):
        """Send audio in messages of so many samples."""
        pcm = to_pcm16(waveform).astype("<i2")
        for start in range(0, len(pcm), packet):
            self.socket.send(pcm[start : start + packet].tobytes())

    def hear(self):
        """Take the next message, and apply it."""
        message = json.loads(self.socket.recv(timeout=PATIENCE_SECONDS))
        self.messages.append(message)
        if "new" in message:
            assert self.text.endswith(message["deleted"])
            self.text = self.text[: len(self.text) - len(message["deleted"])] + message["new"]
        return message

    def hear_all(self):
        """Take messages to the end of the stream; return the text."""
        while "end_of_processing" not in self.hear():
            assert "error" not in self.messages[-1], self.messages[-1]
        return self.text

    def translate(self, waveform, packet=1600, **settings):
        """Have a whole stream translated, while another thread listens; return the text."""
        self.say(settings)
        speaking = threading.Thread(target=self._speak_to_the_end, args=(waveform, packet))
        speaking.start()
        try:
            return self.hear_all()
        finally:
            speaking.join(PATIENCE_SECONDS)

    def _speak_to_the_end(self, waveform, packet):
        self.speak(waveform, packet)
        self.say(end_of_stream=True)


def silence(seconds):
    return np.zeros(round(16000 * seconds), dtype=np.float32)
