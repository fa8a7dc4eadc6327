"""Who is let in, and that nobody who breaks off, sends nonsense or listens to nothing costs the others anything."""

import gc
import http.client
import re
import socket
import struct
import weakref

import pytest
from helpers.live_server import reading_server, silence
from helpers.processes import wait_until
from helpers.reading_model import ReadingModel
from helpers.talks import evaluated_text, spoken_talk
from websockets.exceptions import ConnectionClosed, InvalidStatus

from simulsa_plugin.errors import UsageError
from simulsa_plugin.server.access import Access
from simulsa_plugin.server.limits import Limits
from simulsa_plugin.server.site import FILES
from simulsa_plugin.streaming.engine import DecodingSetting
from simulsa_plugin.streaming.policies import Rollback


def speaks(server, first=1):
    """A client gets the text of an evaluation."""
    talk = spoken_talk(first)
    with server.connect() as client:
        said = client.translate(talk)
    return said == evaluated_text(ReadingModel(regret=True), talk, DecodingSetting(Rollback(2), 480))


def get(server, path, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def test_the_page_loads_nothing_from_elsewhere(monkeypatch):
    with reading_server(monkeypatch) as server:
        for path in FILES:
            answer, body = get(server, path)
            assert answer.status == 200
            assert body
            assert not re.search(rb"https?://(?!www\.w3\.org)", body)
            policy = answer.headers["Content-Security-Policy"]
            assert policy.startswith(
                "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' ws://"
            )
            assert "unsafe" not in policy
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert get(server, "/../pyproject.toml")[0].status == 404
        assert get(server, "/server.py")[0].status == 404


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:80", "", "[::1", "127.0.0.1.evil.example"])
def test_another_name_for_this_server_is_refused(monkeypatch, host):
    with reading_server(monkeypatch) as server:
        answer, body = get(server, "/", Host=host)
    assert (answer.status, body) == (403, b"This server has another name. Start it with --origin for this one.\n")


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1", "http://127.0.0.1"])
def test_a_page_of_another_site_opens_no_socket(monkeypatch, origin):
    with reading_server(monkeypatch) as server, pytest.raises(InvalidStatus) as refused:
        server.connect(origin=origin)
    assert refused.value.response.status_code == 403


def test_pages_that_are_refused_are_named_once_and_not_without_end(monkeypatch, caplog):
    with reading_server(monkeypatch) as server:
        for origin in ["http://localhost:8001"] * 2 + [f"http://{number}.example" for number in range(20)]:
            with pytest.raises(InvalidStatus):
                server.connect(origin=origin)
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "A page of 'http://localhost:8001' was refused. If it is yours, name it with --origin."
    assert len(said) == len(set(said)) == 10


def test_origins_that_are_named_are_let_in(monkeypatch):
    access = Access.for_origins(["https://Talks.example.org/"], "127.0.0.1")
    with reading_server(monkeypatch, access=access) as server:
        assert get(server, "/", Host="talks.example.org")[0].status == 200
        for origin in ("https://talks.example.org", f"http://127.0.0.1:{server.port}"):
            with server.connect(origin=origin) as client:
                assert client.translate(silence(0.1)) == ""
        with pytest.raises(InvalidStatus):
            server.connect(origin="http://talks.example.org")


@pytest.mark.parametrize("origin", ["talks.example.org", "https://", "https://a/b", "ftp://a"])
def test_an_origin_is_a_scheme_and_a_host(origin):
    with pytest.raises(UsageError, match=r"allowed: scheme and host, such as https://talks\.example\.org"):
        Access.for_origins([origin], "127.0.0.1")


def test_sockets_have_two_addresses(monkeypatch):
    with reading_server(monkeypatch) as server, pytest.raises(InvalidStatus) as refused:
        server.connect("/live.js")
    assert refused.value.response.status_code == 404


def test_the_next_speaker_is_told_that_the_server_is_busy(monkeypatch):
    with reading_server(monkeypatch, Limits(max_speakers=2)) as server:
        with server.connect() as first, server.connect() as second:
            for client in (first, second):
                client.speak(silence(0.1))
            wait_until(lambda: server.describe()["load"]["speakers"] == 2)
            with server.connect() as third:
                assert third.hear() == {
                    "error": "The server is busy: 2 of 2 speakers. Try again later.",
                    "busy": True,
                }
                with pytest.raises(ConnectionClosed) as closed:
                    third.hear()
                assert closed.value.rcvd.code == 1013
        wait_until(lambda: server.describe()["load"]["speakers"] == 0)
        assert speaks(server)


def test_a_connection_that_breaks_frees_its_stream(monkeypatch):
    with reading_server(monkeypatch) as server:
        streams = []
        original = type(server.system).new_stream

        def new_stream(self, *arguments, **options):
            stream = original(self, *arguments, **options)
            streams.append(weakref.ref(stream))
            return stream

        monkeypatch.setattr(type(server.system), "new_stream", new_stream)
        client = server.connect()
        client.speak(spoken_talk()[:80_000])
        client.hear()
        reset = struct.pack("ii", 1, 0)
        client.socket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        client.socket.socket.shutdown(socket.SHUT_RDWR)
        client.socket.socket.close()
        wait_until(lambda: server.describe()["load"]["speakers"] == 0)
        wait_until(lambda: gc.collect() >= 0 and streams[0]() is None)
        assert server.system.engine.load.waiting == 0
        assert speaks(server, 31)


def test_who_sends_nothing_is_disconnected(monkeypatch):
    with reading_server(monkeypatch, Limits(idle_seconds=0.2)) as server:
        for begin in (lambda client: None, lambda client: client.speak(silence(0.1))):
            with server.connect() as client:
                begin(client)
                while "error" not in client.hear():
                    pass
                assert client.messages[-1]["error"] == "Nothing came for 0.2 s. Connect again when there is audio."
        wait_until(lambda: server.describe()["load"]["speakers"] == 0)


def test_who_stops_without_an_end_still_gets_the_rest(monkeypatch):
    talk = spoken_talk()[:-24_000]  # it breaks off in a word
    with reading_server(monkeypatch, Limits(idle_seconds=2)) as server, server.connect() as client:
        client.speak(talk)
        while "error" not in client.hear():
            pass
        with pytest.raises(ConnectionClosed) as closed:
            client.hear()
    assert client.text == evaluated_text(ReadingModel(regret=True), talk, DecodingSetting(Rollback(2), 480))
    assert closed.value.rcvd.code == 1008


def test_who_takes_no_messages_is_disconnected(monkeypatch):
    # Status after status until the buffers of both sides are full.
    with reading_server(monkeypatch, Limits(send_seconds=0.3, status_seconds=1e-6)) as server:
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect(("127.0.0.1", server.port))
        raw.sendall(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        for opcode, content in ((0x81, b'{"simulsa": {}}'), (0x82, bytes(100))):
            raw.sendall(bytes([opcode, 0x80 | len(content)]) + bytes(4) + content)  # masked with zeros
        wait_until(lambda: server.describe()["load"]["speakers"] == 1)
        wait_until(lambda: server.describe()["load"]["speakers"] == 0)
        raw.close()
        assert speaks(server)


def test_a_message_that_is_too_large_ends_its_connection(monkeypatch):
    with reading_server(monkeypatch, Limits(message_bytes=10_000)) as server:
        with server.connect() as client:
            client.socket.send(bytes(10_002))
            with pytest.raises(ConnectionClosed) as closed:
                client.hear()
            assert closed.value.rcvd.code == 1009
        wait_until(lambda: server.describe()["load"]["speakers"] == 0)
        assert speaks(server)


class FailsAtWord(ReadingModel):
    """Cannot translate a word."""

    def _heard(self, waveform):
        words = super()._heard(waveform)
        if 50 in words:
            raise RuntimeError("no word for it: \x1b[31m")
        return words


def test_a_stream_that_fails_fails_alone(monkeypatch):
    with reading_server(monkeypatch, model=FailsAtWord(regret=True)) as server:
        with server.connect() as client:
            client.speak(spoken_talk(41))
            client.say(end_of_stream=True)
            while "error" not in client.hear():
                pass
            assert client.messages[-1] == {"error": "The stream failed; the server's log has the cause."}
            with pytest.raises(ConnectionClosed) as closed:
                client.hear()
            assert closed.value.rcvd.code == 1011
        assert speaks(server)
