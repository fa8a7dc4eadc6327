"""`simulsa-live` under load: speakers at the speed of speech, then a long recording as fast as it is taken.

    python tests/bench/bench_live.py                        # 1, 4 and 8 speakers for a minute each
    python tests/bench/bench_live.py --speakers --hours 3   # three hours of speech in one stream, with the memory

The embedded default is served as `simulsa-live` serves it, in a process of its own; the clients are in this one. Of
each number of speakers: the server's processor time, the share of time in which the model computes, steps a batch, the
time from sound to text (age of the newest audio that a step heard when its text came), how late steps were, and how
many were skipped.
"""

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from websockets.asyncio.client import connect

from simulsa_plugin.audio.samples import SAMPLE_RATE, to_pcm16
from simulsa_plugin.demo.corpus import TEST_SPLIT
from simulsa_plugin.demo.talks import iterate_talks

SERVER = "import sys; from simulsa_plugin.commands.live import main; sys.exit(main())"
PACKET = SAMPLE_RATE // 10
STAGGER_SECONDS = 0.13  # speakers do not begin at once


def main():
    """Start the server, measure, and end it."""
    options = parse()
    (talk,) = iterate_talks(TEST_SPLIT, [max(1.0, options.seconds / 60)], processes=1)
    pcm = to_pcm16(talk.waveform)
    most = max([1, *options.speakers])
    words = [sys.executable, "-c", SERVER, "--port", "0", "--max-speakers", str(most), *options.keys]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        try:
            address = re.search(r"http://(\S+)", server.stdout.readline())[1]
            print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}, memory {memory_mb(server.pid)} MB")
            for count in options.speakers:
                asyncio.run(measure(f"ws://{address}", pcm[: options.seconds * SAMPLE_RATE], count, server.pid))
            if options.hours:
                asyncio.run(long_stream(f"ws://{address}", pcm, options.hours, server.pid))
        finally:
            server.terminate()


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speakers", type=int, nargs="*", default=[1, 4, 8], help="at the same time")
    parser.add_argument("--seconds", type=int, default=60, help="that each of them speaks")
    parser.add_argument("--hours", type=float, default=0, help="of speech in one stream, as fast as it is taken")
    parser.add_argument("--keys", nargs="*", default=[], metavar="key=value", help="of the server")
    return parser.parse_args()


async def measure(address, pcm, count, server):
    """Let speakers speak, and print what their listeners saw."""
    before = processor_seconds(server)
    seen = await asyncio.gather(*(speak(address, np.roll(pcm, -n * len(pcm) // count), n) for n in range(count)))
    used = (processor_seconds(server) - before) / (count * len(pcm) / SAMPLE_RATE)
    reports = [report for one in seen for report in one["reports"]]
    ages = sorted(age for one in seen for age in one["ages"])
    busy = [report["load"]["busy"] for report in reports if report["audio_ms"] > 5000]
    batches = [report["load"]["batch"] for report in reports if report["audio_ms"] > 5000]
    skipped = sum(one["reports"][-1]["skipped_steps"] for one in seen)
    late = max(report["late_ms"] for report in reports)
    print(
        f"{count} speakers: {used:.3f} s of processor time per second of speech; the model computes "
        f"{statistics.mean(busy):.0%} of the time, {statistics.mean(batches):.2f} steps a batch; sound to text "
        f"{statistics.median(ages):.0f} ms (median), {ages[int(0.95 * len(ages))]:.0f} (95 %), {ages[-1]:.0f} (all); "
        f"late at most {late:.0f} ms; {len(ages)} steps shown, {skipped} skipped",
        flush=True,
    )


async def speak(address, pcm, number):
    """Speak at the speed of speech; return the reports, and the age in ms of the newest audio of each step."""
    await asyncio.sleep(STAGGER_SECONDS * number)
    reports, ages = [], []
    async with connect(address, compression=None, ping_interval=None) as socket:
        await socket.send(json.dumps({"simulsa": {"skip_late": True}}))
        start = time.monotonic()

        async def listen():
            heard = 0.0
            async for message in map_json(socket):
                if "end_of_processing" in message:
                    return
                report = message["simulsa"]
                reports.append(report)
                if report["heard_ms"] > heard:
                    heard = report["heard_ms"]
                    ages.append(1000 * (time.monotonic() - start) - heard)

        listening = asyncio.ensure_future(listen())
        for count, begin in enumerate(range(0, len(pcm), PACKET), 1):
            await asyncio.sleep(max(0.0, start + count * PACKET / SAMPLE_RATE - time.monotonic()))
            await socket.send(pcm[begin : begin + PACKET].tobytes())
        await socket.send(json.dumps({"end_of_stream": True}))
        await listening
    return {"reports": reports, "ages": ages}


async def map_json(socket):
    async for text in socket:
        yield json.loads(text)


async def long_stream(address, pcm, hours, server):
    """Send a talk again and again, and print the memory of the server as it goes on."""
    total, start = int(hours * 3600 * SAMPLE_RATE), time.monotonic()
    text, shown = "", 0
    async with connect(address, compression=None, ping_interval=None) as socket:

        async def send():
            sent = 0
            while sent < total:
                part = pcm[sent % len(pcm) : sent % len(pcm) + 10 * PACKET][: total - sent]
                await socket.send(part.tobytes())
                sent += len(part)
            await socket.send(json.dumps({"end_of_stream": True}))

        await socket.send(json.dumps({"simulsa": {}}))
        sending = asyncio.ensure_future(send())
        async for message in map_json(socket):
            if "end_of_processing" in message:
                break
            text = text[: len(text) - len(message["deleted"])] + message["new"]
            minutes = message["simulsa"]["audio_ms"] / 60_000
            if minutes >= shown:
                print(f"  {minutes:4.0f} min: {memory_mb(server)} MB, {len(text.split())} words", flush=True)
                shown += max(1, 60 * hours // 12)
        await sending
    seconds = time.monotonic() - start
    print(
        f"{hours:g} h of speech in {seconds:.0f} s, {processor_seconds(server):.0f} s of processor time: "
        f"real-time factor {seconds / 3600 / hours:.3f}, {len(text.split())} words, {memory_mb(server)} MB"
    )


def processor_seconds(process):
    """Processor time that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(process):
    """Resident memory of a process."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text(encoding="utf-8"))
    return round(int(found[1]) / 1024)


if __name__ == "__main__":
    main()
