"""`simulsa-live` as it is typed: the embedded default answers, mistakes are one line, and Ctrl-C ends it."""

import contextlib
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import urllib.request

import numpy as np
import pytest
from helpers.live_server import Client, running_server
from helpers.processes import PATIENCE_SECONDS, environment_of_no_launcher
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from simulsa_plugin.api.live_system import open_live_system
from simulsa_plugin.audio.resampling import resample_waveform
from simulsa_plugin.audio.samples import from_pcm16, to_pcm16
from simulsa_plugin.commands.live import main
from simulsa_plugin.demo.corpus import TEST_SPLIT
from simulsa_plugin.demo.talks import iterate_talks
from simulsa_plugin.errors import SimulsaError
from simulsa_plugin.evaluation.session_rows import step_rows
from simulsa_plugin.logs.steps import parse_session
from simulsa_plugin.longform.silero import SpeechDetector
from simulsa_plugin.longform.voice_activity import find_speech, segment_arrivals
from simulsa_plugin.server.access import Access
from simulsa_plugin.server.limits import Limits
from simulsa_plugin.streaming.engine import decode_batched
from simulsa_plugin.streaming.steps import BatchLimits, StreamSource
from simulsa_plugin.streaming.windows import SlidingWindow

PROGRAM = "import sys; from simulsa_plugin.commands.live import main; sys.exit(main())"


@contextlib.contextmanager
def started(*words, interrupt=signal.SIGINT):
    """The command as a process, from its first line on; what it says until a signal ends it comes into the list."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment_of_no_launcher(),
    )  # fmt: skip
    try:
        said = []
        first, line = process.stdout.readline(), process.stdout.readline()
        assert re.fullmatch(r"loading \S+, operating points: \d+, simulsa_longform: window\n", first), (
            process.stderr.read()
        )
        found = re.fullmatch(r"(\S+) is served at (https?://\S+:\d+/)\n", line)
        assert found, (line, process.stderr.read())
        yield process, found[2], said
        process.send_signal(interrupt)
        said += process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


@pytest.fixture(scope="module")
def talk():
    """Half a minute of the embedded test split."""
    (found,) = iterate_talks(TEST_SPLIT, [0.4], processes=1)
    return from_pcm16(to_pcm16(found.waveform))


@pytest.fixture(scope="module")
def system():
    found = open_live_system(None, default_longform="window", endless=True)
    yield found
    found.close()


def evaluated(system, waveform):
    """The text of the whole recording at the default point, as the evaluation of long recordings gives it."""
    activity = system.settings.voice_activity(system.model.window_seconds)
    setting = system.points[system.default_point]
    sources = [
        StreamSource(
            system.prompts.prompt(),
            waveform[each.start : each.end],
            lambda chunk, each=each: segment_arrivals(each, chunk * 16, len(waveform)),
            SlidingWindow(round(activity.window_seconds * 16_000), each.pauses),
        )
        for each in find_speech(SpeechDetector().probabilities(waveform), len(waveform), activity)
    ]
    (sessions,) = decode_batched(system.model, sources, [setting], BatchLimits())
    steps = [parse_session(step_rows("", one.steps, system.model.decode, one.left_token_ids)) for one in sessions]
    return " ".join(list(one)[-1].shown for one in steps)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"model_name_or_path": "no/such/folder"}, "Cannot load the model no/such/folder: there is no such folder"),
        ({"template": "qwen2audio"}, "There is no template qwen2audio. Did you mean qwen2_audio?"),
        ({"dataset_dir": "nowhere", "dataset": "a"}, "No dataset is registered in nowhere"),
    ],
)
def test_names_are_looked_up_before_the_libraries_are_imported(monkeypatch, keys, said):
    monkeypatch.setattr("simulsa_plugin.api.loading.activate_plugin", lambda: pytest.fail("it comes later"))
    recipe = {"model_name_or_path": "simulsa-demo", "template": "qwen2_audio"}
    with pytest.raises(SimulsaError, match=re.escape(said)):
        open_live_system(recipe | keys, default_longform="window", endless=True)


def test_the_embedded_default_is_served(talk, system):
    expected = evaluated(system, talk)
    assert len(expected.split()) > 20
    with started("--port", "0") as (process, address, said):
        with urllib.request.urlopen(address) as page:
            assert b"<!doctype html>" in page.read()
        with Client(connect(address.replace("http", "ws"), compression=None)) as client:
            assert client.translate(talk) == expected
        held = connect(address.replace("http", "ws"))  # who is connected at the end is told so
        held.send(bytes(3200))
    assert process.returncode == 130
    assert said == ["", "simulsa-live: ended.\n"]
    with pytest.raises(ConnectionClosed) as closed:
        held.recv(timeout=PATIENCE_SECONDS)
    assert closed.value.rcvd.code == 1001


def test_audio_of_another_rate_is_resampled_as_in_evaluation(talk, system):
    fast = np.repeat(talk, 3)  # a sample for each third of the time, as a poor sound card gives it
    with running_server(system_that_stays(system)) as server, server.connect() as client:
        said = client.translate(fast, 4410, sample_rate=48_000)
    assert said == evaluated(system, resample_waveform(fast, 48_000, 16_000))


def test_a_stream_as_the_web_client_of_simulstream_sends_it(talk, system):
    """A page of another port; 44.1 kHz in blocks of 128 samples; and no end of it."""
    page, heard = "http://localhost:8001", from_pcm16(to_pcm16(resample_waveform(talk, 16_000, 44_100)))
    limits, access = Limits(idle_seconds=3), Access.for_origins([page], "127.0.0.1")
    with running_server(system_that_stays(system), limits, access) as server, server.connect(origin=page) as client:
        client.socket.send('{"target_lang":"de","source_lang":"en","sample_rate":44100}')
        speaking = threading.Thread(target=client.speak, args=(heard, 128))
        speaking.start()
        while "error" not in client.hear():
            assert set(client.messages[-1]) == {"new", "deleted"}  # it reads both of every message
        speaking.join(PATIENCE_SECONDS)
    assert client.text == evaluated(system, resample_waveform(heard, 44_100, 16_000))


def system_that_stays(system):
    """The system, which another test uses afterwards."""

    class Staying(type(system)):
        def close(self):
            pass

    return Staying(**vars(system))


def test_the_default_point_is_the_usual_one(system):
    assert system.default_point == "confidence_k500_b0_confidence_threshold0.99"


def refused(*words):
    """The line by which the command refuses, and its exit code."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return done.returncode, line


def test_a_port_that_is_taken_is_a_line_before_the_model_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert refused("--port", str(port)) == (
            2,
            f"simulsa-live: error: Port {port} of 127.0.0.1 is taken by another program. "
            f"Choose another: --port {port + 1}, or --port 0.",
        )


def test_a_missing_package_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "websockets", None)
    assert main([]) == 1
    assert capsys.readouterr().err == (
        "simulsa-live: error: simulsa-live needs the package websockets. Install it: pip install websockets, "
        "or all of the extra, in the clone: pip install '.[live]'.\n"
    )


MISTAKES = {
    "port": (["--port", "99999"], "'99999' is not a port; allowed: 0 to 65535"),
    "host": (["--host", "no.such.host.invalid"], "--host is 'no.such.host.invalid', which has no address"),
    "origin": (["--origin", "example.org"], "--origin is 'example.org'; allowed: scheme and host"),
    "speakers": (["--max-speakers", "0"], "--max-speakers is 0; allowed: a number ≥ 1."),
    "half a certificate": (["--certificate", "a.pem"], "HTTPS needs both"),
    "no certificate": (["--certificate", "a.pem", "--key", "b.pem"], "Cannot use the certificate a.pem"),
    "longform": (["--port", "0", "simulsa_longform=none"], "simulsa_longform is none; allowed: window and vad"),
    "cell": (["--port", "0", "simulsa_cells=nothing"], "simulsa_cells names 'nothing'"),
    "key": (["--port", "0", "simulsa_nothing=1"], "simulsa_nothing"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_a_line(name):
    words, reason = MISTAKES[name]
    code, line = refused(*words)
    assert code == 2
    assert reason in line


def test_a_server_for_all_networks_with_a_certificate_and_one_point(tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2",
         "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    trusting = ssl.create_default_context(cafile=certificate)
    words = ["--host", "0.0.0.0", "--port", "0", "--certificate", str(certificate), "--key", str(key)]
    with started(*words, "simulsa_cells=rollback_k500_b0", interrupt=signal.SIGTERM) as (process, address, said):
        assert address.startswith("https://localhost:")
        with urllib.request.urlopen(f"{address}system.json", context=trusting) as answer:
            assert b'"default_point":"rollback_k500_b0"' in answer.read()
        with Client(connect(address.replace("https", "wss"), ssl=trusting)) as client:
            assert client.translate(np.zeros(1600, dtype=np.float32)) == ""
    assert process.returncode == 0
    assert said == ["", "simulsa-live: warning: Everybody who reaches this machine can use the model.\n"]
