"""What clients are told: the text of an evaluation, whoever else speaks, and however they send their audio."""

import asyncio
import json
import threading

import numpy as np
import pytest
from helpers.live_server import ROLLBACK, reading_server, reading_system, silence
from helpers.reading_model import ReadingModel, text_of
from helpers.talks import EnergyDetector, evaluated_text, spoken_talk
from websockets.exceptions import ConnectionClosed

from simulsa_plugin.api.live_system import StreamPrompts
from simulsa_plugin.audio.samples import to_pcm16
from simulsa_plugin.longform import silero
from simulsa_plugin.server.limits import Limits
from simulsa_plugin.server.protocol import StreamRequest
from simulsa_plugin.server.speaker import Speaker
from simulsa_plugin.streaming.engine import DecodingSetting
from simulsa_plugin.streaming.policies import Confidence, LocalAgreement, Retranslation, Rollback

DEFAULT = DecodingSetting(Rollback(2), 480)


def expected(waveform, setting=DEFAULT):
    return evaluated_text(ReadingModel(regret=True), waveform, setting)


@pytest.mark.parametrize("packet", [128, 1600, 40_000])
def test_a_client_of_simulstream_gets_the_text_of_an_evaluation(monkeypatch, packet):
    talk = spoken_talk()
    with reading_server(monkeypatch) as server, server.connect() as client:
        said = client.translate(talk, packet, sample_rate=16_000, metrics_metadata={"wav_name": "talk.wav"})
    assert said == expected(talk)
    assert said.split()[-1] == text_of([30])
    assert all(set(message) == {"new", "deleted"} for message in client.messages[:-1])
    assert client.messages[-1] == {"end_of_processing": True}
    assert any(message["deleted"] for message in client.messages[:-1])  # guesses are taken back


def test_streams_follow_each_other_on_one_connection(monkeypatch):
    with reading_server(monkeypatch) as server, server.connect("/ws") as client:
        for first in (1, 31):
            client.text = ""
            talk = spoken_talk(first)
            assert client.translate(talk) == expected(talk)


def test_speakers_at_once_get_each_their_own_text(monkeypatch):
    model = ReadingModel(regret=True)
    with reading_server(monkeypatch, model=model) as server:
        said = {}

        def take_part(number):
            with server.connect() as client:
                said[number] = client.translate(spoken_talk(1 + 8 * number), [160, 700, 1600, 5000][number % 4])

        threads = [threading.Thread(target=take_part, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert said == {number: expected(spoken_talk(1 + 8 * number)) for number in range(8)}
    assert max(model.batches) > 1  # they share batches


POINTS = {
    "by name": ({"point": ROLLBACK}, DEFAULT),
    "confidence": (
        {"simulsa_policies": "confidence", "simulsa_chunks": 320, "simulsa_confidence_threshold": 0.9},
        DecodingSetting(Confidence(0.9), 320),
    ),
    "agreement": (
        {"simulsa_policies": ["local_agreement"], "simulsa_agreement_n": 2},
        DecodingSetting(LocalAgreement(2), 480),
    ),
    "retranslation": ({"simulsa_policies": "retranslation"}, DecodingSetting(Retranslation(), 480)),
}


@pytest.mark.parametrize("name", POINTS)
def test_a_client_chooses_its_operating_point_and_is_told_more(monkeypatch, name):
    chosen, setting = POINTS[name]
    talk = spoken_talk()
    with reading_server(monkeypatch) as server, server.connect() as client:
        said = client.translate(talk, simulsa=chosen if "point" in chosen else {"keys": chosen})
    assert said == expected(talk, setting)
    told = [message["simulsa"] for message in client.messages[:-1]]
    assert told[-1]["audio_ms"] == len(talk) / 16
    assert told[-1]["open"] == ""
    assert max(one["heard_ms"] for one in told) <= len(talk) / 16
    assert any(one["open"] for one in told)
    text = ""
    for message in client.messages[:-1]:
        text = text[: len(text) - len(message["deleted"])] + message["new"]
        assert text.endswith(message["simulsa"]["open"])


def test_a_client_names_its_languages_where_the_recipe_writes_the_prompt(monkeypatch):
    prompts = StreamPrompts(None, "Translate from {source} to {target}.", "qwen2_audio", "en", "de")
    with reading_server(monkeypatch, prompts=prompts) as server:
        streams = remember_streams(monkeypatch, server.system)
        for languages in ({}, {"source_lang": "", "target_lang": "zh"}):
            with server.connect() as client:
                client.translate(silence(0.1), **languages)
        with server.connect() as client:
            client.say(target_lang="Klingonese")
            client.speak(silence(0.1))
            assert "Klingonese" in client.hear()["error"]
    assert [stream._prompt.messages[0]["content"].removeprefix("<audio>") for stream in streams] == [
        "Translate from English to German.",
        "Translate from English to Chinese.",
    ]
    assert [stream.transcript.unit for stream in streams] == ["word", "char"]


@pytest.mark.parametrize("seconds", [0, 0.01, 3])
def test_silence_has_an_end_and_no_text(monkeypatch, seconds):
    with reading_server(monkeypatch) as server, server.connect() as client:
        assert client.translate(silence(seconds)) == ""
    assert client.messages == [{"new": "", "deleted": ""}, {"end_of_processing": True}]


MISTAKES = {
    "not JSON": ("{", "allowed: JSON"),
    "a list": ("[1]", "allowed: a JSON object"),
    "nested": ("[" * 5000, "allowed: JSON"),
    "rate": ('{"sample_rate": 1}', "sample_rate is 1; allowed: a whole number from 8000 to 192000"),
    "rate as text": ('{"sample_rate": "16000"}', "sample_rate is '16000'"),
    "language": ('{"target_lang": 3}', "target_lang is 3"),
    "simulsa": ('{"simulsa": 3}', "simulsa is 3; allowed: a JSON object"),
    "unknown": ('{"simulsa": {"pont": "x"}}', "allowed: point, keys, skip_late. Did you mean point?"),
    "both": ('{"simulsa": {"point": "x", "keys": {}}}', "allowed: one of them"),
    "point": ('{"simulsa": {"point": "rollback"}}', f"allowed: {ROLLBACK}"),
    "foreign key": ('{"simulsa": {"keys": {"simulsa_max_new_tokens": 9999}}}', "The key of an operating point is"),
    "value": ('{"simulsa": {"keys": {"simulsa_rollbacks": -1}}}', "simulsa_rollbacks is -1; allowed: a number ≥ 0"),
    "several": ('{"simulsa": {"keys": {"simulsa_rollbacks": [1, 2]}}}', "simulsa_rollbacks has 2 values"),
    "none": ('{"simulsa": {"keys": {"simulsa_chunks": []}}}', "simulsa_chunks has 0 values"),
    "long chunk": ('{"simulsa": {"keys": {"simulsa_chunks": 5000}}}', "more than half of the window"),
    "code": ('{"simulsa": {"keys": {"simulsa_policies": "os.getcwd"}}}', "simulsa_policies is 'os.getcwd'; allowed:"),
    "heads": ('{"simulsa": {"keys": {"simulsa_policies": "attention"}}}', "simulsa_policies is 'attention'; allowed:"),
    "half a sample": (b"123", "An audio message has 3 bytes"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_in_a_line(monkeypatch, name):
    message, reason = MISTAKES[name]
    with reading_server(monkeypatch) as server, server.connect() as client:
        client.socket.send(message)
        if isinstance(message, str):
            client.speak(silence(0.1))
        error = client.hear()["error"]
        assert reason in error
        assert "\n" not in error
        with pytest.raises(ConnectionClosed) as closed:
            client.hear()
        assert closed.value.rcvd.code == 1008


def test_settings_stay_during_a_stream(monkeypatch):
    with reading_server(monkeypatch) as server, server.connect() as client:
        client.speak(silence(0.5))
        client.say(metrics_metadata={"page": 3})
        client.say(sample_rate=16_000)
        client.say(sample_rate=48_000)
        while "error" not in client.hear():
            pass
        assert "changes the settings of a stream that has begun" in client.messages[-1]["error"]


class SlowReader:
    """A client that has sent everything, and takes a message only when it is told to."""

    def __init__(self, waveform):
        self.incoming = [to_pcm16(waveform).tobytes(), json.dumps({"end_of_stream": True})]
        self.taken, self.ready = [], asyncio.Event()

    async def receive(self):
        return self.incoming.pop(0)

    async def send(self, message):
        self.taken.append(message)
        await self.ready.wait()


def test_a_slow_reader_is_told_several_changes_as_one_and_nobody_waits_for_it(monkeypatch):
    monkeypatch.setattr(silero, "SpeechDetector", EnergyDetector)
    talk, system = spoken_talk(), reading_system()

    async def listen():
        client, stream = SlowReader(talk), system.new_stream()
        speaker = Speaker(client, stream, system.engine, StreamRequest(), Limits(), dict)
        running = asyncio.ensure_future(speaker.run(await client.receive()))
        while stream.transcript.text != expected(talk):
            await asyncio.sleep(0.001)
        while stream.due_steps:
            await asyncio.sleep(0.001)
        assert len(client.taken) == 1  # all steps are done, and it has not yet taken what came first
        client.ready.set()
        await running
        return client.taken, system.engine.load.steps

    try:
        taken, steps = asyncio.run(listen())
    finally:
        system.close()
    text = ""
    for message in taken[:-1]:
        text = text[: len(text) - len(message["deleted"])] + message["new"]
    assert text == expected(talk)
    assert len(taken) <= 4 < steps  # the first change, all others, perhaps that there are no more, the end


class Gate(ReadingModel):
    """Computes nothing before it is opened."""

    def generate(self, prompts, requests):
        self.opened.wait()
        return super().generate(prompts, requests)


def test_audio_that_comes_faster_than_it_is_decoded_waits_at_the_client(monkeypatch):
    model = Gate(regret=True)
    model.opened = threading.Event()
    talk = np.concatenate([spoken_talk(), *[spoken_talk()] * 20])
    with reading_server(monkeypatch, Limits(backlog_ms=2000), model=model) as server:
        streams = remember_streams(monkeypatch, server.system)
        with server.connect() as client:
            result = []
            thread = threading.Thread(target=lambda: result.append(client.translate(talk, 16_000)))
            thread.start()
            received = settled(lambda: streams[0].received_ms if streams else 0)
            assert 2000 < received < 10_000 < len(talk) / 16
            model.opened.set()
            thread.join()
    assert result == [expected(talk)]


def remember_streams(monkeypatch, system):
    """Keep the streams that a system begins."""
    streams, original = [], type(system).new_stream

    def new_stream(self, *arguments, **options):
        streams.append(original(self, *arguments, **options))
        return streams[-1]

    monkeypatch.setattr(type(system), "new_stream", new_stream)
    return streams


def settled(read):
    """A value that has not changed for a third of a second."""
    waiting, before = threading.Event(), None
    while (now := read()) != before or not now:
        before = now
        waiting.wait(0.3)
    return now
