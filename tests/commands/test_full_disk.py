"""Disks that are really full, or read-only: one line, nothing lost, and with room the same command ends the same.

Run as a program inside a mount namespace of its own, this file mounts small disks and runs on them; the tests judge.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from helpers.fakes import ByteModel, make_dataset, write_offline
from helpers.files import no_file_beyond, tree

from simulsa_plugin.commands import augment
from simulsa_plugin.commands.console import run_command
from simulsa_plugin.errors import StorageError
from simulsa_plugin.files.atomic import UNFINISHED, cannot_write
from simulsa_plugin.files.locks import LOCK

TESTS = Path(__file__).resolve().parents[1]
PAGE = 4096
MAKE_ROOM = "Make room and start again: the run goes on where it stopped."
NAMESPACE = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
MODEL = ["model_name_or_path=simulsa-demo", "template=qwen2_audio", "dataset=toy"]
SETTINGS = ["simulsa_samples=14", "simulsa_batch_size=4", "simulsa_max_seconds=0.55"]  # short clips: much else counts


def words(place, out):
    return [*MODEL, *SETTINGS, f"dataset_dir={place / 'offline'}", "--out", str(out)]


# What runs inside the namespace: one process, because LLaMA-Factory takes long to start.


class Disk:
    """A small disk, mounted at one place again and again, so that every path is the same."""

    def __init__(self, path):
        self.path, self.out = path, path / "out"
        path.mkdir()

    @contextlib.contextmanager
    def mounted(self, options):
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.path], check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", self.path], check=True)

    def remount(self, options):
        subprocess.run(["mount", "-o", f"remount,{options}", self.path], check=True)

    def pages_used(self):
        used = os.statvfs(self.path)
        return (used.f_blocks - used.f_bfree) * used.f_frsize // PAGE


def run_everything(place, *, mounts):
    """Every scenario; results.json says what happened."""
    results = {"limit": list(command_under_limits(place))}
    if mounts:
        disk, fake = Disk(place / "disk"), make_dataset(place / "fake", count=10)
        results |= {
            "pages": list(every_size(disk, fake, "size={}k", PAGE // 1024)),
            "files": list(every_size(disk, fake, "size=64m,nr_inodes={}", 1)),
            "command": list(command_at_sizes(disk, place)),
            "read_only": list(command_read_only(disk, place)),
        }
    (place / "results.json").write_text(json.dumps(results), encoding="utf-8")
    if mounts:  # to the very end, with all that Python and its libraries do and may say then
        with disk.mounted(f"size={20 * PAGE}"):
            sys.exit(augment.main(words(place, disk.out)))


def command_under_limits(place):
    """No file may be longer than a limit: first a clip is refused, then what holds all rows, which is longer."""
    out = place / "limited"
    undisturbed, expected = command(out, place), tree(out)
    longest_clip = max(path.stat().st_size for path in out.rglob("*.wav"))
    shutil.rmtree(out)
    yield {"name": "none", "said": undisturbed, "left": []}
    for limit, name in ((10_000, r"clips/\S+\.wav"), (longest_clip, r"scores\S*\.jsonl")):
        with no_file_beyond(limit):
            said = command(out, place)
        yield {"name": name, "said": said, "left": strays(out)}
    yield {"name": "none again", "said": command(out, place), "left": strays(out), "same": tree(out) == expected}


def every_size(disk, dataset, options, unit):
    """Augment on every size of disk, in `unit`s, until there is room; each time once more with more room."""
    with disk.mounted("size=64m"):
        attempt(disk, dataset)
        expected = tree(disk.out)
    for size in range(2, 500):
        with disk.mounted(options.format(size * unit)):
            said = attempt(disk, dataset)
            left = strays(disk.path)
            disk.remount("size=64m,nr_inodes=10k")
            again = attempt(disk, dataset)
            same = tree(disk.out) == expected
        yield {"size": size, "said": said, "left": left, "again": again, "same": same}
        if said is None:
            return


def attempt(disk, dataset):
    """Run the pipeline with the model made of arithmetic; what it said, or None where it came to its end."""
    from simulsa_plugin.augmentation.augment_settings import AugmentSettings
    from simulsa_plugin.augmentation.pipeline import augment_dataset

    try:
        augment_dataset(dataset, ByteModel(), AugmentSettings(samples=8, batch_size=3, max_seconds=0.6), disk.out)
    except StorageError as error:
        return str(error)
    except BaseException:
        return traceback.format_exc()
    return None


def strays(folder):
    return [path.name for path in folder.rglob(".*") if path.name == LOCK or path.name.endswith(UNFINISHED)]


def command_at_sizes(disk, place):
    with disk.mounted("size=64m"):
        undisturbed = command(disk.out, place)
        expected, pages = tree(disk.out), disk.pages_used()
    clips = sum(5 for name in expected if name.endswith(".wav"))  # of 0.50–0.55 s: five pages each
    yield {"size": "64m", "first": undisturbed, "left": [], "again": undisturbed, "same": True}
    for size in (clips // 2, clips + 3, pages - 1):
        with disk.mounted(f"size={size * PAGE}"):
            first = command(disk.out, place)
            left = strays(disk.path)
            disk.remount("size=64m")
            again = command(disk.out, place)
            yield {"size": size, "first": first, "left": left, "again": again, "same": tree(disk.out) == expected}


def command_read_only(disk, place):
    with disk.mounted("size=64m"):
        for moment in ("empty", "stopped", "finished"):
            if moment == "stopped":
                disk.remount(f"size={20 * PAGE}")
                command(disk.out, place)
                disk.remount("size=64m")
            elif moment == "finished":
                command(disk.out, place)
            before = tree(disk.path)
            disk.remount("ro")
            said = command(disk.out, place)
            yield {"moment": moment, "said": said, "same": tree(disk.path) == before, "files": len(before)}
            disk.remount("rw")


def command(out, place):
    """Run the command in this process; its exit code and everything that any library wrote to the terminal."""
    with captured(place) as read:
        code = augment.main(words(place, out))
        sys.stdout.flush()
        return {"code": code, **read()}


@contextlib.contextmanager
def captured(place):
    """Yield what reads what standard output and error got meanwhile."""
    texts, kept = {}, {1: os.dup(1), 2: os.dup(2)}
    for number in kept:
        texts[number] = os.open(place, os.O_TMPFILE | os.O_RDWR)
        os.dup2(texts[number], number)
    try:
        yield lambda: {name: os.pread(texts[number], 1 << 20, 0).decode() for name, number in (("out", 1), ("err", 2))}
    finally:
        for number, before in kept.items():
            os.dup2(before, number)
            os.close(before)
            os.close(texts[number])


# What the tests make of it.


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What happened; without the disks where the machine lets nobody mount one."""
    place = tmp_path_factory.mktemp("place")
    refusal = refusal_to_mount(place)
    write_offline(place / "offline", 16)
    ran = subprocess.run(
        [*([] if refusal else NAMESPACE), sys.executable, __file__, str(place), *([] if refusal else ["mounts"])],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TESTS), "HF_DATASETS_CACHE": str(place / "cache")},
        timeout=600,
        check=False,
    )
    assert (place / "results.json").exists(), ran.stderr
    results = json.loads((place / "results.json").read_text(encoding="utf-8"))
    process = {"code": ran.returncode, "out": ran.stdout, "err": ran.stderr}
    return results | {"refusal": refusal, "place": str(place), "disk": str(place / "disk"), "process": process}


@pytest.fixture
def disks(seen):
    if seen["refusal"]:
        pytest.skip(f"this machine mounts no small disk: {seen['refusal']}")
    return seen


def refusal_to_mount(place):
    probe = [*NAMESPACE, "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    try:
        tried = subprocess.run(probe, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        return str(error)
    return tried.stderr.strip() or f"exit code {tried.returncode}" if tried.returncode else ""


@pytest.mark.parametrize("what", ["pages", "files"])
def test_on_a_disk_of_any_size_one_line_says_what_is_missing_and_nothing_is_lost(disks, what):
    *stopped, finished = disks[what]
    assert (finished["said"], finished["same"]) == (None, True)
    line = re.compile(rf"Cannot write (the folder )?{disks['disk']}(/\S+)?: No space left on device\. {MAKE_ROOM}")
    for one in stopped:
        assert line.fullmatch(one["said"]), one
        assert (one["left"], one["again"], one["same"]) == ([], None, True), one
    kinds = {re.sub(r"toy-[\d-]+", "CLIP", line.fullmatch(one["said"])[2] or "") for one in stopped}
    print(what, sorted(kinds))
    assert {"/out/toy_simulsa/clips/CLIP.wav"} < kinds
    assert len(kinds) >= 4


def test_a_full_disk_stops_the_command_with_one_line_and_it_goes_on_when_there_is_room(disks):
    undisturbed, *stopped = disks["command"]
    assert undisturbed["first"]["code"] == 0
    assert undisturbed["first"]["err"] == ""
    error = rf"simulsa-augment: error: Cannot write {disks['disk']}/(\S+): No space left on device\. {MAKE_ROOM}\n"
    for one in stopped:
        assert (one["first"]["code"], one["first"]["out"]) == (1, ""), one
        assert re.fullmatch(error, one["first"]["err"]), one
        assert one["left"] == []
        assert one["again"] == undisturbed["first"]
        assert one["same"]
    named = [re.fullmatch(error, one["first"]["err"])[1] for one in stopped]
    print(named)
    assert named[0].endswith(".wav")
    assert named[1] == "out/toy_simulsa/scores.partial.jsonl"
    assert not named[2].startswith("out/toy_simulsa/clips/")


def test_a_read_only_disk_is_one_line_and_nothing_changes(disks):
    for one in disks["read_only"]:
        assert one["same"]
        assert (one["said"]["code"], one["said"]["out"]) == (1, ""), one
        error = rf"simulsa-augment: error: Cannot write .*{disks['disk']}\S+: Read-only file system\. Choose another"
        assert re.match(error, one["said"]["err"]), one
        assert one["said"]["err"].count("\n") == 1
    empty, stopped, finished = (one["files"] for one in disks["read_only"])
    assert empty == 0 < stopped < finished


def test_the_end_of_the_process_adds_no_word(disks):
    assert disks["process"]["code"] == 1
    assert disks["process"]["out"] == ""
    (line,) = disks["process"]["err"].splitlines()
    assert line.endswith(f".wav: No space left on device. {MAKE_ROOM}")


def test_a_limit_of_the_kernel_stops_the_command_with_one_line_and_it_goes_on(seen):
    undisturbed, *stopped, finished = seen["limit"]
    for one in stopped:
        assert (one["said"]["code"], one["said"]["out"], one["left"]) == (1, "", [])
        folder = f"{seen['place']}/limited/toy_simulsa"
        error = rf"simulsa-augment: error: Cannot write {folder}/{one['name']}: File too large\. {MAKE_ROOM}\n"
        assert re.fullmatch(error, one["said"]["err"]), one
    assert len(stopped) == 2
    assert finished["said"] == undisturbed["said"]
    assert (finished["said"]["code"], finished["left"], finished["same"]) == (0, [], True)


def test_a_folder_that_may_not_be_written_is_one_line(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write_offline(tmp_path / "offline", 16)
    (tmp_path / "closed").mkdir(mode=0o555)
    if os.access(tmp_path / "closed", os.W_OK):
        pytest.skip("this user may write anywhere; see the disk that is mounted read-only")
    assert augment.main(words(tmp_path, tmp_path / "closed")) == 1
    error = r"simulsa-augment: error: Cannot write .*/closed/\S+: Permission denied\. Choose another --out.*\n"
    assert re.fullmatch(error, capfd.readouterr().err)
    assert list((tmp_path / "closed").iterdir()) == []


def test_the_last_resort_is_one_line_too(capsys):
    def fill():
        with open("/dev/full", "w", encoding="utf-8") as full:  # as a library that knows nothing of us would write
            full.write("x")

    assert run_command("simulsa-x", fill) == 1
    assert capsys.readouterr().err == (
        f"simulsa-x: error: Cannot write the output: No space left on device. {MAKE_ROOM}\n"
    )


def test_the_last_resort_hides_no_other_mistake(tmp_path):
    with pytest.raises(FileNotFoundError):
        run_command("simulsa-x", lambda: len((tmp_path / "gone").read_bytes()))


def test_a_name_that_the_system_gives_is_kept():
    read_only = OSError(30, "Read-only file system", "/data/a.bin")
    said = str(cannot_write(read_only.filename, read_only))
    assert said == "Cannot write /data/a.bin: Read-only file system. Choose another --out, or allow writing there."


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_printed_is_one_line_and_an_error(unbuffered):
    program = Path(sys.executable).parent / "simulsa-eval"
    log = TESTS / "data" / "latency" / "word.instances.log"
    with open("/dev/full", "w", encoding="utf-8") as full:
        result = subprocess.run(
            [program, "score", log],
            stdout=full,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            text=True,
            timeout=120,
            check=False,
        )
    assert result.returncode == 1
    errors = [line for line in result.stderr.splitlines() if not line.startswith("simulsa-eval: warning: ")]
    assert errors == [f"simulsa-eval: error: Cannot write the output: No space left on device. {MAKE_ROOM}"]


if __name__ == "__main__":
    run_everything(Path(sys.argv[1]), mounts="mounts" in sys.argv)
