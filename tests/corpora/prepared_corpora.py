"""Corpora to be prepared in tests, with what may be wrong in them, and how they are prepared."""

from pathlib import Path

import pytest
from corpora_files import write_audio, write_text
from helpers.fakes import Killed
from helpers.files import read_json_lines

from simulsa_plugin.corpora.corpus_settings import CorpusSettings
from simulsa_plugin.corpora.prepare import dry_run_corpus, prepare, splits_for
from simulsa_plugin.corpora.prompts import TranslationPrompt

PROMPT = TranslationPrompt("", "<audio>Translate the English speech into German.", "You translate.")


def write_covost2(folder):
    """Common Voice with all that is found in it: mp3 at 48 kHz, some of them unusable, and a row longer than 30 s."""
    clips = folder / "clips"
    lengths = [1.5, 2.0, None, 31.0, 1.0, None, 2.5, 1.2]
    for number, seconds in enumerate(lengths):
        if seconds:
            write_audio(clips / f"cv_{number}.mp3", seconds, 48_000, seed=number)
    (clips / "cv_2.mp3").write_bytes(b"")
    write_text(clips / "cv_6.mp3", "<html>404 Not Found</html>" * 40)
    texts = ["Guten Tag.", 'Er sagte: "Nein.', "Leer", "Ein sehr langer Satz.", "NA", "Weg", "Kaputt", "   "]
    rows = [("client_id", "path", "sentence"), *((f"c{n}", f"cv_{n}.mp3", "Hello.") for n in range(len(lengths)))]
    write_text(folder / "validated.tsv", "".join("\t".join(row) + "\n" for row in rows))
    rows = [("path", "translation", "split"), *((f"cv_{n}.mp3", text, "train") for n, text in enumerate(texts))]
    write_text(folder / "covost_v2.en_de.tsv", "".join("\t".join(row) + "\n" for row in rows))
    return CorpusSettings("covost2", str(folder), source_language="en", target_language="de")


def write_mustc(folder, segments=None, seconds=12.0, rate=16_000, channels=1):
    """Talks as MuST-C has them; `segments` are (talk, offset, duration)."""
    segments = segments or [
        (1, 10.2, 1.1), (1, 9.5, 0.7), (2, 2.0, 1.5), (1, 0.0, 0.9), (2, 11.0, 1.2), (3, 1.0, 1.0), (2, 0.0, 12.0),
        (1, 10.2, 1.1), (2, 20.0, 1.0), (1, 1.123456, 0.654321),
    ]  # fmt: skip
    data = folder / "data" / "train"
    for talk in {talk for talk, *_ in segments} - {3}:  # the third was not downloaded
        write_audio(data / "wav" / f"ted_{talk}.wav", seconds, rate, channels, seed=talk)
    lines = [f"- {{duration: {length}, offset: {start}, wav: ted_{talk}.wav}}\n" for talk, start, length in segments]
    write_text(data / "txt" / "train.yaml", "".join(lines))
    write_text(data / "txt" / "train.de", "".join(f"Satz {number}.\n" for number in range(len(segments))))
    return CorpusSettings("mustc", str(folder), source_language="en", target_language="de", corpus_workers=1)


def write_parquet(folder, rows=5):
    """A table with WAV and MP3 files inside it, one of them broken; the rows with an odd number are parts."""
    import pyarrow
    import pyarrow.parquet

    table = []
    for number in range(rows):
        path = write_audio(folder / f"{number}.{'mp3' if number == 2 else 'wav'}", 2.0, seed=number)
        content = path.read_bytes() if number != 4 else b"no audio"
        start, end = (0.25, 1.0) if number % 2 else (None, None)
        audio = {"bytes": content, "path": path.name}
        table.append({"id": f"r{number}", "audio": audio, "start": start, "end": end, "translation": f"Satz {number}."})
        path.unlink()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), folder / "train.parquet")
    return CorpusSettings("table", str(folder / "train.parquet"))


def make(settings, out, name="toy", prompt=PROMPT, splits=None, **how):
    splits = splits_for(settings, evaluation=False) if splits is None else splits
    return prepare(settings, splits, prompt, out, name, **how)


def planned(settings, out, name="toy", prompt=PROMPT, splits=None):
    splits = splits_for(settings, evaluation=False) if splits is None else splits
    return dry_run_corpus(settings, splits, prompt, out, name)


def texts(out, name="toy"):
    return [row["messages"][-1]["content"] for row in read_json_lines(out / f"{name}.jsonl")]


def refusal(error, action):
    with pytest.raises(error) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def snapshot(folder):
    """Every file with its bytes, times and number on the disk: whatever is written anew shows."""
    files = [path for path in sorted(Path(folder).rglob("*")) if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_ino, path.read_bytes()) for path in files}


def folders(folder):
    """Every folder with its time: whatever comes there, or came and went, shows."""
    return {str(path): path.stat().st_mtime_ns for path in [folder, *Path(folder).rglob("*")] if path.is_dir()}


def stop_at(monkeypatch, place, name, call):
    """Stop before the `call`-th call of `place.name`."""
    calls, function = [], getattr(place, name)

    def stopping(*arguments, **named):
        calls.append(name)
        if len(calls) == call:
            raise Killed
        return function(*arguments, **named)

    monkeypatch.setattr(place, name, stopping)
    return calls
