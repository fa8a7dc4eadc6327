"""Recorded human speech as a LLaMA-Factory dataset: Debian's Asterisk prompts, English audio with French text.

    python tests/real_speech/make_dataset.py --out FOLDER

`asterisk-core-sounds-en-wav` holds 8 kHz recordings of one speaker; the documentation of `asterisk-core-sounds-fr` has
a French line for most of them, under the same name. FOLDER then holds `dataset_info.json`, `asterisk_en_fr.jsonl`
(sharegpt `messages` + `audios`, and the prompt's `name`), `prompts/` (the recordings as they were fetched) and
`unpaired.jsonl` (name, reason): every prompt that either side knows stands in one of the two files, once.

It needs Debian or Ubuntu, but no rights: apt-get gets folders of its own, and nothing of the machine's is changed.
"""

from __future__ import annotations

import argparse
import gzip
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from simulsa_plugin.errors import DatasetError, SimulsaError
from simulsa_plugin.files.atomic import make_folder
from simulsa_plugin.files.dataset_info import SHAREGPT_ENTRY
from simulsa_plugin.files.json_files import write_json, write_jsonl

NAME = "asterisk_en_fr"
UNPAIRED = "unpaired.jsonl"
REASONS = ("no_english_audio", "no_french_line", "empty_french_line", "stage_direction")
PROMPT = "<audio>Translate the English speech into French."

PACKAGES = ("asterisk-core-sounds-en-wav", "asterisk-core-sounds-fr")
FRENCH_LINES = "usr/share/doc/asterisk-core-sounds-fr/core-sounds-fr.txt.gz"
ENGLISH_AUDIO = "usr/share/asterisk/sounds/en_*"

# Folders of our own, and no hooks of the machine's: they would tidy its real cache. As root, apt would go on as a user
# who may not enter a temporary folder.
_APT_CONFIGURATION = """\
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear APT::Update::Pre-Invoke;
Dir::State "{folder}/state";
Dir::Cache "{folder}/cache";
APT::Sandbox::User "root";
Acquire::Retries "3";
"""
_APT_SECONDS = 300


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch, pair and write; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the dataset is written")
    options = parser.parse_args(argv)
    try:
        rows, unpaired = make_dataset(options.out)
    except SimulsaError as error:
        print(f"make_dataset: error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{NAME}: {rows} prompts with a translation, {unpaired} without one (see {options.out / UNPAIRED})")
    return 0


def make_dataset(out: Path) -> tuple[int, int]:
    """Fetch the packages and write the dataset.

    Args:
        out: folder of the dataset; created where it is missing.

    Returns:
        numbers of rows and of unpaired prompts.

    Raises:
        DatasetError: a package cannot be had, or does not hold what is expected of it.
        StorageError: the folder cannot be written.
    """
    make_folder(out)
    with tempfile.TemporaryDirectory() as folder:
        root = fetch_packages(PACKAGES, Path(folder))
        recordings, lines = find_recordings(root), read_lines(root / FRENCH_LINES)
        unpaired = dict(find_unpaired(recordings, lines))
        names = sorted(name for name in recordings if name not in unpaired)
        for name in names:
            make_folder((out / audio_path(name)).parent)
            shutil.copyfile(recordings[name], out / audio_path(name))
    write_jsonl(out / f"{NAME}.jsonl", (training_row(name, lines[name]) for name in names))
    write_jsonl(out / UNPAIRED, ({"name": name, "reason": reason} for name, reason in sorted(unpaired.items())))
    write_json(out / "dataset_info.json", {NAME: {"file_name": f"{NAME}.jsonl", **SHAREGPT_ENTRY}})
    return len(names), len(unpaired)


def fetch_packages(packages: Sequence[str], folder: Path) -> Path:
    """Download Debian packages and unpack them without installing.

    Args:
        packages: their names, as the machine's own package sources know them.
        folder: an empty folder for apt-get's state, the packages and their contents.

    Returns:
        the folder that stands for `/`.

    Raises:
        DatasetError: a program is missing or fails; its last words are passed on.
    """
    configuration = folder / "apt.conf"
    configuration.write_text(_APT_CONFIGURATION.format(folder=folder), encoding="utf-8")
    for needed in ("state/lists/partial", "cache/archives/partial", "packages", "root"):
        (folder / needed).mkdir(parents=True)
    apt = ("apt-get", "--quiet=2", f"--config-file={configuration}")
    _run([*apt, "update"], folder)
    _run([*apt, "download", *packages], folder / "packages")
    for package in sorted((folder / "packages").glob("*.deb")):
        _run(["dpkg", "-x", str(package), str(folder / "root")], folder)
    return folder / "root"


def _run(command: list[str], folder: Path) -> None:
    try:
        subprocess.run(
            command,
            cwd=folder,
            check=True,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_APT_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.CalledProcessError as error:
        words = " ".join(error.stderr.split()) or f"exit {error.returncode}"
        raise DatasetError(
            f"`{_shown(command)}` failed: {words}. "
            "The machine's package sources need Debian's main or Ubuntu's universe."
        ) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DatasetError(f"`{_shown(command)}` cannot be run: {error}. Use a Debian or Ubuntu machine.") from error


def _shown(command: Sequence[str]) -> str:
    """A command without its options, for messages."""
    return " ".join(word for word in command if not word.startswith("--"))


def find_recordings(root: Path) -> dict[str, Path]:
    """Prompt name (`digits/1`) to recording.

    Raises:
        DatasetError: there is not exactly one English voice.
    """
    voices = sorted(root.glob(ENGLISH_AUDIO))
    if len(voices) != 1:
        raise DatasetError(
            f"{PACKAGES[0]} holds {len(voices)} folders {ENGLISH_AUDIO}; expected one. The package has changed."
        )
    return {path.relative_to(voices[0]).with_suffix("").as_posix(): path for path in sorted(voices[0].rglob("*.wav"))}


def read_lines(path: Path) -> dict[str, str]:
    """Prompt name to text, from one of the packages' lists.

    Raises:
        DatasetError: the list is missing, or is no UTF-8.
    """
    try:
        return parse_lines(gzip.decompress(path.read_bytes()).decode("utf-8"))
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DatasetError(f"Cannot read {path.name} of {PACKAGES[1]}: {error}. The package has changed.") from error


def parse_lines(text: str) -> dict[str, str]:
    """Read `name: text` lines; `;` begins a comment, runs of spaces count as one, and the last line of a name holds.

    One line of the French list has lost its line break, so that a name and its text follow a full stop at once:

    >>> parse_lines("; French\\n\\nvm-no: aucun\\nvm-bye:Au  revoir.vm-hi: Salut.\\nvm-none:\\nvm-hi: Bonjour: vous")
    {'vm-no': 'aucun', 'vm-bye': 'Au revoir.', 'vm-hi': 'Bonjour: vous', 'vm-none': ''}
    """
    lines: dict[str, str] = {}
    for line in _LOST_BREAK.sub("\n", text).splitlines():
        name, colon, words = line.partition(":")
        if colon and not line.lstrip().startswith(";"):
            lines[name.strip()] = " ".join(words.split())
    return lines


_LOST_BREAK = re.compile(r"(?<=[.!?])(?=[a-z]+(?:-[\w-]+)+: )")  # names of two words or more: `pour.Appuyez:` is none


def find_unpaired(recordings: Collection[str], lines: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Prompts that only one side has, or whose line is not spoken, with one of REASONS.

    >>> dict(find_unpaired(["beep", "hello", "tone"], {"hello": "allo", "tone": "[bip]", "old": "vieux"}))
    {'beep': 'no_french_line', 'old': 'no_english_audio', 'tone': 'stage_direction'}
    """
    for name in sorted({*recordings, *lines}):
        if name not in recordings:
            yield name, "no_english_audio"
        elif name not in lines:
            yield name, "no_french_line"
        elif not lines[name]:
            yield name, "empty_french_line"
        elif re.fullmatch(r"\[[^]]*\]|\([^)]*\)", lines[name]):
            yield name, "stage_direction"


def audio_path(name: str) -> str:
    """Where a recording lies in the dataset's folder."""
    return f"prompts/{name}.wav"


def training_row(name: str, french: str) -> dict[str, object]:
    """A prompt as LLaMA-Factory reads it; it ignores the name."""
    messages = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": french}]
    return {"name": name, "messages": messages, "audios": [audio_path(name)]}


if __name__ == "__main__":
    sys.exit(main())
