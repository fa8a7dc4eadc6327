"""simulstream's own client, unchanged, with our server. It is fetched with pip, see helpers/other_tools.py."""

import json
import os
import subprocess
import sys

import pytest
from helpers.live_server import reading_server
from helpers.other_tools import unpack
from helpers.reading_model import ReadingModel
from helpers.talks import evaluated_text, spoken_talk

from simulsa_plugin.audio.samples import to_pcm16, write_wav
from simulsa_plugin.streaming.engine import DecodingSetting
from simulsa_plugin.streaming.policies import Rollback

pytestmark = pytest.mark.other_tools
# The client prints what it is told at the level DEBUG alone.
PROGRAM = (
    "import logging; from simulstream.client import wav_reader_client as client; "
    "client.LOGGER.setLevel(logging.DEBUG); client.cli_main()"
)


@pytest.fixture(scope="module")
def simulstream(tmp_path_factory):
    return unpack("simulstream", tmp_path_factory.mktemp("simulstream"))


@pytest.mark.parametrize("chunk_ms", [100, 2000])
def test_its_wav_reader_gets_every_file_translated(simulstream, monkeypatch, tmp_path, chunk_ms):
    talks = [spoken_talk(1), spoken_talk(31)]
    for number, talk in enumerate(talks):
        write_wav(tmp_path / f"{number}.wav", to_pcm16(talk))
    (tmp_path / "list.txt").write_text("0.wav\n1.wav\n")
    environment = os.environ | {"PYTHONPATH": f"{simulstream}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    with reading_server(monkeypatch) as server:
        words = ["--uri", f"ws://127.0.0.1:{server.port}/", "--wav-list-file", str(tmp_path / "list.txt")]
        words += ["--chunk-duration-ms", str(chunk_ms), "--tgt-lang", "de", "--src-lang", "en"]
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *words], env=environment, capture_output=True, text=True, timeout=120
        )
    assert done.returncode == 0, done.stderr
    assert "All 2 files sent." in done.stderr
    texts, said = [""], [line.split(" | ", 3)[3] for line in done.stderr.splitlines() if " | DEBUG | " in line]
    for message in map(json.loads, said):
        if "end_of_processing" in message:
            texts.append("")
            continue
        texts[-1] = texts[-1][: len(texts[-1]) - len(message["deleted"])] + message["new"]
    setting = DecodingSetting(Rollback(2), 480)
    assert texts == [*(evaluated_text(ReadingModel(regret=True), talk, setting) for talk in talks), ""]
