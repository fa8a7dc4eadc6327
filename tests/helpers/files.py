"""What stands on the disk: read without the code under test, compared, damaged, watched, limited."""

import contextlib
import hashlib
import json
import os
import resource
import shutil
from pathlib import Path


def read_json(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def read_json_lines(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def read_texts(log):
    """(predictions, references) of a log of instances."""
    rows = read_json_lines(log)
    return [row["prediction"] for row in rows], [row["reference"] for row in rows]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def tree(folder):
    """Every file below a folder: relative name → digest."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


def recorded_disk(monkeypatch):
    """A list that grows by (what, path) at every fsync, rename and removal; the path of a rename is the new one."""
    events = []
    fsync, replace, rename, unlink = os.fsync, os.replace, os.rename, os.unlink

    def record_fsync(descriptor):
        fsync(descriptor)
        events.append(("fsync", Path(os.readlink(f"/proc/self/fd/{descriptor}"))))

    def recorded(name, call):
        def record(*arguments, **options):
            folder = os.readlink(f"/proc/self/fd/{options['dir_fd']}") if options.get("dir_fd") else ""
            call(*arguments, **options)
            events.append((name, Path(folder, arguments[-1])))

        return record

    monkeypatch.setattr(os, "fsync", record_fsync)
    for name, call in (("replace", replace), ("rename", rename), ("unlink", unlink)):
        monkeypatch.setattr(os, name, recorded(name, call))
    return events


def damaged_files(state, out):
    """Yield (name, damage) with a copy of the folder `state` at `out` in which that file is damaged so."""
    for path in sorted(path for path in state.rglob("*") if path.is_file()):
        data = path.read_bytes()
        for damage, made in DAMAGES.items():
            if made(data) != data:
                shutil.copytree(state, out)
                (out / path.relative_to(state)).write_bytes(made(data))
                yield str(path.relative_to(state)), damage


def _without_last_line(data):
    return data[: data.rstrip(b"\n").rfind(b"\n") + 1]


def _changed_digit(data):
    digits = [place for place, byte in enumerate(data) if byte in b"0123456789"]
    if not digits:
        return data
    place = digits[len(digits) // 2]
    return data[:place] + (b"1" if data[place : place + 1] == b"9" else b"9") + data[place + 1 :]


DAMAGES = {
    "zero length": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "zeros at the end": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
    "last line dropped": _without_last_line,
    "changed digit": _changed_digit,
    "twice": lambda data: data + data,
}


@contextlib.contextmanager
def no_file_beyond(num_bytes):
    """The kernel refuses every byte after `num_bytes` of any file (EFBIG), as a quota or a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
