"""simulstream's own commands, server and client run our processor, and its scorers give our numbers.

simulstream is fetched with pip (`pytest -m other_tools`), see helpers/other_tools.py.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import wave
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from helpers.fakes import ASK
from helpers.other_tools import run_tool, tool_environment, unpack
from helpers.reading_model import ReadingModel, spoken, text_of
from hypothesis import given, settings
from hypothesis import strategies as st

import simulsa_plugin
from simulsa_plugin.api.live_system import LiveSystem, StreamPrompts
from simulsa_plugin.audio.decoding import read_mono
from simulsa_plugin.audio.samples import to_pcm16
from simulsa_plugin.commands.evaluate import main
from simulsa_plugin.demo.corpus import TEST_NAME, write_demo_corpus
from simulsa_plugin.demo.talks import write_demo_talks
from simulsa_plugin.errors import UsageError
from simulsa_plugin.evaluation.evaluation_settings import EvaluationSettings
from simulsa_plugin.live.engine import LiveEngine
from simulsa_plugin.streaming.engine import DecodingSetting
from simulsa_plugin.streaming.policies import Rollback
from simulsa_plugin.streaming.steps import BatchLimits

pytestmark = [pytest.mark.other_tools, pytest.mark.filterwarnings("ignore")]
CODE = Path(simulsa_plugin.__file__).parents[1]
REPOSITORY = Path(__file__).resolve().parents[2]
DEMO = REPOSITORY / "recipes" / "simulstream" / "demo.yaml"
DOCKER = REPOSITORY / "docker"
ROWS = 12
CHUNK = 0.5  # seconds
CELL = {
    "simulsa_policies": "confidence",
    "simulsa_confidence_threshold": 0.999,
    "simulsa_chunks": 500,
    "simulsa_rollbacks": 0,
}
FOLDER = "confidence_k500_b0_confidence_threshold0.999"


@pytest.fixture(scope="module")
def simulstream(tmp_path_factory):
    """The folder of simulstream, in which its import of COMET, for whatever scorer, finds nothing to use."""
    folder = unpack("simulstream_run", tmp_path_factory.mktemp("simulstream"))
    (folder / "comet.py").write_text("download_model = load_from_checkpoint = None\n")
    return folder


def run(simulstream, *words):
    return run_tool(simulstream, *words, beside=[CODE])


def write_recipe(folder, dataset, **keys):
    """A recipe of the packaged model, and the processor's YAML beside it."""
    recipe = {
        "model_name_or_path": "simulsa-demo",
        "template": "qwen2_audio",
        "dataset_dir": str(folder),
        "eval_dataset": dataset,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe | CELL | keys))
    processor = yaml.safe_load(DEMO.read_text())
    processor |= {"recipe": str(folder / "recipe.yaml"), "keys": {}}
    (folder / "processor.yaml").write_text(yaml.safe_dump(processor))
    return folder / "recipe.yaml", folder / "processor.yaml"


def evaluated(recipe, out, *words):
    """The cell of an evaluation, and its folder as simulstream reads it."""
    assert main([str(recipe), *words, "--out", str(out)]) == 0
    converted = out.with_name(f"{out.name}_converted")
    assert main(["convert", str(out / FOLDER), "--to", "simulstream", "--out", str(converted)]) == 0
    cells = json.loads((out / "scores.json").read_text())["cells"]
    return next(cell for cell in cells if cell["chunk_ms"]), converted


def emissions(log):
    """For each audio its units with their times, as (seconds, unit), after all deletions."""
    names, found = {}, {}
    for row in map(json.loads, log.read_text().splitlines()):
        if "metadata" in row:
            names[row["id"]] = row["metadata"]["wav_name"]
        elif "id" in row:
            units = found.setdefault(Path(names[row["id"]]).stem, [])
            for token in reversed(row["deleted_tokens"]):
                assert units.pop()[1] == token
            units += [(row["total_audio_processed"], token) for token in row["generated_tokens"]]
    return found


def moments(log):
    """For each audio the seconds that had been received at its steps."""
    names, found = {}, {}
    for row in map(json.loads, log.read_text().splitlines()):
        if "metadata" in row:
            names[row["id"]] = row["metadata"]["wav_name"]
        elif "id" in row:
            found.setdefault(Path(names[row["id"]]).stem, []).append(row["total_audio_processed"])
    return found


def texts(found):
    return {name: [unit for _, unit in units] for name, units in found.items()}


def later_by(found, expected):
    """How much later each unit was written, in seconds."""
    return [
        mine[0] - theirs[0] for name in found for mine, theirs in zip(found[name], expected[name], strict=True)
    ]  # fmt: skip


def scores(simulstream, processor, log, converted):
    """simulstream's StreamLAAL in milliseconds, and its BLEU."""
    words = ["--eval-config", str(processor), "--log-file", str(log)]
    words += ["--audio-definition", str(converted / "segments.yaml")]
    references = str(converted / "references.txt")
    latency = run(
        simulstream, "simulstream.metrics.score_latency", *words, "--reference", references, "--scorer", "stream_laal"
    )
    quality = run(
        simulstream, "simulstream.metrics.score_quality", *words, "--references", references, "--scorer", "sacrebleu"
    )
    return 1000 * float(re.search(r"ideal_latency=([\d.]+)", latency)[1]), float(quality.split()[-1])


def infer(simulstream, processor, wavs, log):
    listed = log.with_suffix(".txt")
    listed.write_text("".join(f"{wav}\n" for wav in wavs))
    run(
        simulstream, "simulstream.inference", "--speech-processor-config", str(processor),
        "--wav-list-file", str(listed), "--metrics-log-file", str(log), "--src-lang", "en", "--tgt-lang", "de",
    )  # fmt: skip
    return log


@pytest.fixture(scope="module")
def utterances(tmp_path_factory):
    """The first utterances of the test set, named as `convert` names them, and their evaluation."""
    folder = tmp_path_factory.mktemp("utterances")
    write_demo_corpus(folder, rows=0)
    recipe, processor = write_recipe(folder, TEST_NAME, simulsa_eval_samples=ROWS)
    cell, converted = evaluated(recipe, folder / "result")
    rows = [json.loads(line) for line in (folder / f"{TEST_NAME}.jsonl").read_text().splitlines()[:ROWS]]
    wavs = [shutil.copy(row["audios"][0], folder / f"{number:08d}.wav") for number, row in enumerate(rows)]
    return SimpleNamespace(folder=folder, processor=processor, cell=cell, converted=converted, wavs=wavs)


def test_simulstream_gives_our_numbers_for_utterances(simulstream, utterances):
    log = infer(simulstream, utterances.processor, utterances.wavs, utterances.folder / "log.jsonl")
    found, expected = emissions(log), emissions(utterances.converted / "simulstream.jsonl")
    assert texts(found) == texts(expected)
    assert np.allclose(later_by(found, expected), 0, atol=1e-9)
    laal, bleu = scores(simulstream, utterances.processor, log, utterances.converted)
    assert laal == pytest.approx(utterances.cell["LAAL"], rel=1e-9)
    assert bleu == pytest.approx(utterances.cell["BLEU"], rel=1e-9)


def test_everything_shown_has_the_first_stable_delays(simulstream, utterances):
    processor = utterances.folder / "shown.yaml"
    keys = {**CELL, "simulsa_policies": "retranslation"}
    processor.write_text(utterances.processor.read_text() + yaml.safe_dump({"text": "shown"}))
    config = yaml.safe_load(processor.read_text()) | {"keys": keys}
    processor.write_text(yaml.safe_dump(config))
    log = infer(simulstream, processor, utterances.wavs, utterances.folder / "shown.jsonl")
    out = utterances.folder / "retranslation"
    words = [f"{key}={value}" for key, value in keys.items()]
    assert main([str(utterances.folder / "recipe.yaml"), *words, "--out", str(out)]) == 0
    cell = next(one for one in json.loads((out / "scores.json").read_text())["cells"] if one["chunk_ms"])
    laal, bleu = scores(simulstream, processor, log, utterances.converted)
    assert laal == pytest.approx(cell["delays"]["first_stable"]["LAAL"], rel=1e-9)
    assert bleu == pytest.approx(cell["BLEU"], rel=1e-9)
    stats = run(simulstream, "simulstream.metrics.stats", "--eval-config", str(processor), "--log-file", str(log))
    erasure = json.loads(stats.partition("Stats:")[2])["normalized_erasure"]["value"]
    assert erasure >= cell["NE"] > 0  # a last word that grows is deleted and written again


@pytest.fixture(scope="module")
def talks(tmp_path_factory):
    """Three short talks and their evaluation; each ends as the client of simulstream ends it."""
    folder = tmp_path_factory.mktemp("talks")
    write_demo_talks(folder, "talks", minutes=(0.3, 0.4, 0.5))
    recipe, processor = write_recipe(folder, "talks", simulsa_longform="window")
    wavs = sorted((folder / "talks").glob("*.wav"))
    return SimpleNamespace(folder=folder, recipe=recipe, processor=processor, wavs=wavs)


@pytest.mark.parametrize(("longform", "chunks"), [("window", (CHUNK, 0.1)), ("vad", (CHUNK,))])
def test_talks_have_the_same_text_and_are_later_by_less_than_a_chunk(simulstream, talks, longform, chunks, tmp_path):
    cell, converted = evaluated(talks.recipe, tmp_path / "result", f"simulsa_longform={longform}")
    processor = tmp_path / "processor.yaml"
    config = yaml.safe_load(talks.processor.read_text()) | {"keys": {"simulsa_longform": longform}}
    for chunk in chunks:
        processor.write_text(yaml.safe_dump(config | {"speech_chunk_size": chunk}))
        log = infer(simulstream, processor, talks.wavs, tmp_path / f"log{chunk}.jsonl")
        found, expected = emissions(log), emissions(converted / "simulstream.jsonl")
        assert texts(found) == texts(expected)
        assert len(found) == len(talks.wavs)
        late = later_by(found, expected)
        assert min(late) > -1e-9
        assert chunk / 2 < max(late) < chunk
        laal, bleu = scores(simulstream, processor, log, converted)
        assert 0 < laal - cell["StreamLAAL"] < 1000 * chunk
    assert bleu == scores(simulstream, processor, converted / "simulstream.jsonl", converted)[1]


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextlib.contextmanager
def served(simulstream, module, processor, folder, server, *, ready):
    """A server of simulstream, and the file with what it prints; it is interrupted as by Ctrl-C at the end."""
    (folder / "server.yaml").write_text(yaml.safe_dump({"hostname": "127.0.0.1"} | server))
    words = ["--server-config", str(folder / "server.yaml"), "--speech-processor-config", str(processor)]
    printed = folder / "printed.log"
    with printed.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *words],
            env=tool_environment(simulstream, CODE), stdout=output, stderr=output,
        )  # fmt: skip
        try:
            while ready not in printed.read_text():
                assert process.poll() is None, printed.read_text()[-2000:]
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.1)
            yield printed
            process.send_signal(signal.SIGINT)
            process.wait(60)
        finally:
            process.kill()


def as_the_client_sends_it(wav, path):
    """simulstream's client sends the last part of an audio, up to 100 ms, twice."""
    with wave.open(str(wav)) as source, wave.open(str(path), "wb") as target:
        target.setparams(source.getparams())
        audio = source.readframes(source.getnframes())
        target.writeframes(audio + audio[(len(audio) - 1) // 3200 * 3200 :])


def test_three_clients_of_the_websocket_server_share_batches(simulstream, talks, tmp_path):
    from websockets.sync.client import connect

    (tmp_path / "wavs").mkdir()
    (tmp_path / "talks.jsonl").write_text((talks.folder / "talks.jsonl").read_text().replace(
        str(talks.folder / "talks"), str(tmp_path / "wavs")))  # fmt: skip
    shutil.copy(talks.folder / "dataset_info.json", tmp_path)
    info = (tmp_path / "dataset_info.json").read_text().replace(str(talks.folder), str(tmp_path))
    (tmp_path / "dataset_info.json").write_text(info)
    for wav in talks.wavs:
        as_the_client_sends_it(wav, tmp_path / "wavs" / wav.name)
    _, converted = evaluated(talks.recipe, tmp_path / "result", f"dataset_dir={tmp_path}")
    log, port = tmp_path / "log.jsonl", free_port()
    server = {"port": port, "pool_size": 3, "acquire_timeout": 5, "metrics": {"enabled": True, "filename": str(log)}}
    with served(
        simulstream, "simulstream.server.websocket_server", talks.processor, tmp_path, server, ready="server listening"
    ) as printed:
        with connect(f"ws://127.0.0.1:{port}/") as leaves_early:
            leaves_early.send(json.dumps({"sample_rate": 16000, "metrics_metadata": {"wav_name": "left.wav"}}))
            leaves_early.send(bytes(48000))
            assert json.loads(leaves_early.recv()) == {"new": "", "deleted": ""}
        clients = []
        for wav in talks.wavs:
            listed = tmp_path / f"{wav.stem}.txt"
            listed.write_text(f"{wav}\n")
            words = ["simulstream.client.wav_reader_client", "--uri", f"ws://127.0.0.1:{port}/"]
            clients.append(subprocess.Popen(
                [sys.executable, "-m", *words, "--wav-list-file", str(listed)],
                env=tool_environment(simulstream, CODE), stderr=subprocess.DEVNULL,
            ))  # fmt: skip
        assert [client.wait(120) for client in clients] == [0, 0, 0]
    found, expected = emissions(log), emissions(converted / "simulstream.jsonl")
    assert found.pop("left") == []
    assert texts(found) == texts(expected)
    assert all(-1e-9 < late < CHUNK for late in later_by(found, expected))
    steps, batches = map(int, re.search(r"decoded (\d+) steps in (\d+) batches", printed.read_text()).groups())
    assert batches < steps


def test_the_http_server_of_the_docker_image_and_its_proxy_give_the_same_log(simulstream, utterances, tmp_path):
    direct = emissions(infer(simulstream, utterances.processor, utterances.wavs[:4], tmp_path / "direct.jsonl"))
    place = {"hostname": "127.0.0.1", "port": free_port()}
    proxy = tmp_path / "proxy.yaml"
    proxy.write_text(yaml.safe_dump(yaml.safe_load((DOCKER / "proxy.yaml").read_text()) | place))
    server = yaml.safe_load((DOCKER / "http_server.yaml").read_text()) | place
    (module,) = re.findall(r'^ENTRYPOINT \["python", "-m", "(.+)"\]', (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    with served(simulstream, module, utterances.processor, tmp_path, server, ready="Serving on"):
        assert emissions(infer(simulstream, proxy, utterances.wavs[:4], tmp_path / "proxied.jsonl")) == direct


@pytest.mark.parametrize(
    ("keys", "message", "code"),
    [
        ({"simulsa_chunk": 500}, "Unknown key simulsa_chunk: did you mean simulsa_chunks?", 2),
        ({"simulsa_chunks": [500, 1000]}, "Set simulsa_cells to one of them.", 2),
        ({"model_name_or_path": "/nowhere"}, "/nowhere", 1),
    ],
)
def test_a_wrong_recipe_ends_the_command_with_one_line(simulstream, utterances, tmp_path, keys, message, code):
    processor = tmp_path / "processor.yaml"
    config = yaml.safe_load(utterances.processor.read_text()) | {"keys": keys}
    processor.write_text(yaml.safe_dump(config))
    words = ["--speech-processor-config", str(processor), "--wav-list-file", "none.txt"]
    done = subprocess.run(
        [sys.executable, "-m", "simulstream.inference", *words, "--metrics-log-file", str(tmp_path / "log.jsonl")],
        env=tool_environment(simulstream, CODE), capture_output=True, text=True, timeout=120, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == code
    (line,) = [line for line in done.stderr.splitlines() if "| ERROR |" in line]
    assert message in line
    assert "Traceback" not in done.stderr


@contextlib.contextmanager
def processor_maker(simulstream, patch):
    """Make processors in this process, whose model reads its words from the audio; keys are those of the YAML."""
    patch.setattr(sys, "path", [*sys.path, str(simulstream)])
    from simulsa_plugin.agents import simulstream_processor

    engines = []

    def make(prompts=None, unit="word", **keys):
        engines.append(LiveEngine(ReadingModel(regret=True), BatchLimits(64, batch_size=4)))
        points = {"cell": DecodingSetting(Rollback(1), 500)}
        prompts = prompts or StreamPrompts(ASK, None, "qwen2_audio", None, None)
        system = LiveSystem(engines[-1]._model, engines[-1], EvaluationSettings(unit=unit), points, prompts, "toy")
        patch.setattr(simulstream_processor, "shared_system", lambda *_: system)
        return simulstream_processor.SimulstreamProcessor(SimpleNamespace(type="x", **keys))

    yield make
    for engine in engines:
        engine.close()


@pytest.fixture
def processors(simulstream, monkeypatch):
    with processor_maker(simulstream, monkeypatch) as make:
        yield make


def streamed(processor, waveform, *, size=8000):
    """What a client that appends text has in the end, and the tokens that simulstream has."""
    screen, tokens = "", []
    parts = np.split(waveform, range(size, len(waveform), size))
    for output in [*map(processor.process_chunk, parts), processor.end_of_stream()]:
        assert screen.endswith(output.deleted_string)
        screen = screen[: len(screen) - len(output.deleted_string)] + output.new_string
        kept = len(tokens) - len(output.deleted_tokens)
        assert tokens[kept:] == output.deleted_tokens
        tokens = tokens[:kept] + output.new_tokens
    return screen, tokens


@pytest.mark.parametrize("text", ["committed", "shown"])
@pytest.mark.parametrize("unit", ["word", "char"])
def test_tokens_are_units_and_strings_can_be_appended(processors, text, unit):
    processor = processors(text=text, unit=unit)
    screen, tokens = streamed(processor, spoken(range(1, 9)))
    expected = "w1 w2 w3 w4 w5. w6 w7 w8"
    assert screen == expected
    assert tokens == (expected.split() if unit == "word" else list(expected))
    assert processor.tokens_to_string(tokens) == expected


def test_a_chunk_is_that_of_the_cell_unless_it_is_set(processors):
    assert processors().speech_chunk_size == 0.5
    assert processors(speech_chunk_size=0.2).speech_chunk_size == 0.2


@pytest.mark.parametrize("text", ["committed", "shown"])
def test_a_stream_cut_off_in_the_middle_leaves_nothing_behind(processors, text):
    processor = processors(text=text)
    fresh = streamed(processor, spoken(range(1, 9)))
    processor.clear()
    processor.set_target_language("de")
    processor.process_chunk(spoken(range(1, 5)))
    processor.clear()
    assert streamed(processor, spoken(range(1, 9))) == fresh
    output = processor.end_of_stream()
    assert (output.new_tokens, output.deleted_tokens) == ([], [])


def logged(simulstream, patch, waveform, text):
    """The lines that simulstream's message processor logs about a stream in packets of 100 ms."""
    with processor_maker(simulstream, patch) as make:
        from simulstream.metrics.logger import METRICS_LOGGER
        from simulstream.server.message_processor import MessageProcessor

        rows = []
        patch.setattr(METRICS_LOGGER, "info", lambda row: rows.append(json.loads(row)))
        client = MessageProcessor(1, make(text=text))
        pcm = to_pcm16(waveform).tobytes()
        for start in range(0, len(pcm), 3200):
            client.process_speech(pcm[start : start + 3200])
        client.end_of_stream()
        return rows


@pytest.mark.parametrize("text", ["committed", "shown"])
@settings(max_examples=25)
@given(words=st.integers(1, 8), rest=st.integers(0, 8000))
def test_what_simulstream_merges_at_the_end_leads_to_the_whole_text(simulstream, text, words, rest):
    """It merges the outputs of the last, short chunk and of the end."""
    waveform = np.concatenate([spoken(range(1, words + 1)), np.zeros(rest, dtype=np.float32)])
    with pytest.MonkeyPatch.context() as patch:
        rows = logged(simulstream, patch, waveform, text)
    tokens = []
    for row in rows:
        kept = len(tokens) - len(row["deleted_tokens"])
        assert tokens[kept:] == row["deleted_tokens"]
        tokens = tokens[:kept] + row["generated_tokens"]
    assert tokens == text_of(range(1, words + 1)).split()


def test_languages_of_the_client_reach_the_prompt(processors):
    prompts = StreamPrompts(None, "{source} to {target}:", "qwen2_audio", "en", "de")
    processor = processors(prompts=prompts)
    processor.set_source_language("es")
    processor.set_target_language("it")
    processor.process_chunk(spoken([1, 2]))
    assert "Spanish to Italian" in str(processor._stream._prompt)
    with pytest.raises(UsageError, match="xx"):
        processor.set_target_language("xx")
    processor.clear()
    processor.process_chunk(spoken([1, 2]))
    assert "English to German" in str(processor._stream._prompt)


def test_languages_that_change_nothing_are_named_once(processors, caplog):
    for processor in (processors(), processors()):
        processor.set_target_language("pt")
    assert [record.message for record in caplog.records if "'pt' changes nothing" in record.message] != []
    assert len([record for record in caplog.records if "'pt'" in record.message]) == 1


def test_other_sampling_rates_give_the_same_steps(simulstream, utterances, tmp_path):
    """simulstream resamples each chunk alone: the model hears seams, but the steps and the length stay."""
    rates = (8000, 44100, 48000)
    wavs = [tmp_path / f"{rate}.wav" for rate in rates]
    for rate, wav in zip(rates, wavs, strict=True):
        with wave.open(str(wav), "wb") as target:
            target.setparams((1, 2, rate, 0, "NONE", ""))
            target.writeframes(to_pcm16(read_mono(utterances.wavs[0], rate)).tobytes())
    log = infer(simulstream, utterances.processor, wavs, tmp_path / "log.jsonl")
    expected = moments(utterances.converted / "simulstream.jsonl")["00000000"]
    found = moments(log)
    assert list(found) == [str(rate) for rate in rates]
    for rate in rates:
        assert found[str(rate)] == pytest.approx(expected, abs=2 / rate)
