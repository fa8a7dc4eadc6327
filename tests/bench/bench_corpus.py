"""Seconds and memory of making a dataset of 30,000 segments of hour-long recordings, in the form of MuST-C.

    python tests/bench/bench_corpus.py [FORM [HOURS [SEGMENTS]]]

By hand; without arguments WAV as above, then FLAC, MP3 and M4A smaller. At most 6 GB under the folder of temporary
files, gone at the end. Beside it stands what decoding the whole file for every segment would take.
"""

import argparse
import itertools
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from simulsa_plugin.audio.decoding import read_mono
from simulsa_plugin.audio.samples import SAMPLE_RATE, seconds_to_samples, to_pcm16, write_wav

RUNS = (("wav", 25, 30_000), ("flac", 3, 3_600), ("mp3", 3, 3_600), ("m4a", 3, 3_600))
NAIVE_SEGMENTS = 8
HOUR, BLOCK_SECONDS = 3600, 60
# Peak memory of a process counts that of the one it was forked from: a small starter in between forgets this one's.
STARTER = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"


def write_corpus(folder: Path, form: str, hours: int, segments: int) -> list[tuple[Path, float, float]]:
    """`hours` recordings of an hour with `segments` segments in all; returns (recording, start, seconds) of each."""
    (folder / "data" / "train" / "wav").mkdir(parents=True)
    (folder / "data" / "train" / "txt").mkdir()
    rng, table = random.Random(0), []
    for number in range(hours):
        recording = folder / "data" / "train" / "wav" / f"ted_{number}.{form}"
        write_recording(recording, number)
        step = HOUR / (segments // hours)
        for start in (step * index for index in range(segments // hours)):
            table.append((recording, round(start + rng.uniform(0, 0.1), 6), round(rng.uniform(0.4, 0.95) * step, 6)))
    lines = [f"- {{duration: {length}, offset: {start}, wav: {path.name}}}\n" for path, start, length in table]
    (folder / "data" / "train" / "txt" / "train.yaml").write_text("".join(lines), encoding="utf-8")
    texts = "".join(f"Satz {number}.\n" for number in range(len(table)))
    (folder / "data" / "train" / "txt" / "train.de").write_text(texts, encoding="utf-8")
    return table


def write_recording(path: Path, seed: int) -> None:
    """An hour of noise, the same minute again and again."""
    rng = np.random.default_rng(seed)
    block = rng.integers(-3000, 3000, BLOCK_SECONDS * SAMPLE_RATE).astype(np.int16)
    blocks = itertools.repeat(block, HOUR // BLOCK_SECONDS)
    if path.suffix == ".m4a":
        write_m4a(path, blocks)
        return
    import soundfile

    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1) as file:
        for samples in blocks:
            file.write(samples)


def write_m4a(path: Path, blocks: Iterator[np.ndarray]) -> None:
    """AAC in MP4."""
    import av

    with av.open(str(path), "w", format="ipod") as container:
        stream = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        for samples in blocks:
            frame = av.AudioFrame.from_ndarray((samples / np.float32(32768))[None], format="fltp", layout="mono")
            frame.sample_rate = SAMPLE_RATE
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def make(corpus: str, out: str, workers: str) -> None:
    """What is measured, in a process of its own; prints seconds and KiB of memory at most."""
    from simulsa_plugin.corpora.corpus_settings import CorpusSettings
    from simulsa_plugin.corpora.prepare import prepare
    from simulsa_plugin.corpora.prompts import TranslationPrompt

    settings = CorpusSettings("mustc", corpus, source_language="en", target_language="de", corpus_workers=int(workers))
    start = time.perf_counter()
    prepared = prepare(settings, ["train"], TranslationPrompt("", "<audio>Translate.", ""), Path(out), "big")
    seconds, memory = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    utterances = prepared.manifest["counts"]["utterances"]
    print(json.dumps({"seconds": seconds, "memory": memory, "utterances": utterances}))


def measure(corpus: Path, workers: int, segments: int) -> float:
    """Seconds of `make`; prints them."""
    with tempfile.TemporaryDirectory(dir=corpus.parent) as out:
        words = [sys.executable, __file__, "make", str(corpus), out, str(workers)]
        child = subprocess.run([sys.executable, "-S", "-c", STARTER, *words], stdout=subprocess.PIPE, check=True)
    made = json.loads(child.stdout)
    if made["utterances"] != segments:
        raise SystemExit(f"{made['utterances']} utterances of {segments}")
    seconds, mebibytes = made["seconds"], made["memory"] / 1024
    print(
        f"  {workers} worker{'s' * (workers > 1)}: {seconds:6.1f} s, {segments / seconds:5.0f} segments a second, "
        f"{mebibytes:.0f} MiB at most",
        flush=True,
    )
    return seconds


def measure_whole_files(table: list[tuple[Path, float, float]], folder: Path) -> float:
    """Seconds that a segment takes where its whole file is decoded for it."""
    sample = table[:: max(1, len(table) // NAIVE_SEGMENTS)][:NAIVE_SEGMENTS]
    begin = time.perf_counter()
    for number, (recording, start, length) in enumerate(sample):
        waveform = read_mono(recording)
        part = waveform[seconds_to_samples(start) : seconds_to_samples(start + length)]
        write_wav(folder / f"{number}.wav", to_pcm16(part))
    return (time.perf_counter() - begin) / len(sample)


def compare(form: str, hours: int, segments: int) -> None:
    """Print the times of one form of recordings."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        table = write_corpus(corpus, form, hours, segments)
        size = sum(path.stat().st_size for path in corpus.rglob("*.*")) / 1e9
        print(f"{form}, {hours} recordings of an hour ({size:.1f} GB), {len(table)} segments", flush=True)
        seconds = {workers: measure(corpus, workers, len(table)) for workers in (1, 2)}
        each = measure_whole_files(table, Path(folder))
        print(
            f"  the whole file for every segment: {each:.2f} s for one, {each * len(table) / 3600:.1f} h for all: "
            f"{each * len(table) / seconds[1]:.0f} times as long as with 1 worker",
            flush=True,
        )


def main() -> None:
    """Print seconds, speed and memory of every form, or of the one that is asked for."""
    if sys.argv[1:2] == ["make"]:
        make(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("form", nargs="?", choices=[form for form, *_ in RUNS])
    parser.add_argument("hours", nargs="?", type=int, default=3, help="recordings of an hour (default: 3)")
    parser.add_argument("segments", nargs="?", type=int, default=3600, help="of all recordings (default: 3600)")
    options = parser.parse_args()
    if options.form:
        compare(options.form, options.hours, options.segments)
    else:
        for form, hours, segments in RUNS:
            compare(form, hours, segments)


if __name__ == "__main__":
    main()
