"""Cards of the Hugging Face Hub (README.md): a command writes what stands between its marks, the user the rest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulsa_plugin.files.atomic import replacing
from simulsa_plugin.files.json_files import reading_from
from simulsa_plugin.terminal import markdown_text

CARD = "README.md"  # where the Hub looks for it
_NO_FOLDING = 1 << 20  # columns of a line of YAML
_KEPT = "edit outside of it"


@dataclass(frozen=True)
class Part:
    """A part of a card between two marks, each a line.

    Attributes:
        begin: first mark.
        end: second mark.
        text: what stands between them, lines with their ends.
    """

    begin: str
    end: str
    text: str

    def __str__(self) -> str:
        return f"{self.begin}\n{self.text}{self.end}\n"


def metadata_part(owner: str, metadata: Mapping[str, Any]) -> Part:
    """Return a part of the YAML at the head of a card, whose marks are comments of YAML; `owner`: the command."""
    import yaml

    text = yaml.safe_dump(dict(metadata), allow_unicode=True, sort_keys=False, width=_NO_FOLDING)
    return Part(f"# begin of what {owner} writes, {_KEPT}", f"# end of what {owner} writes", text)


def body_part(owner: str, text: str) -> Part:
    """Return a part of the Markdown of a card; `owner`: the command."""
    return Part(f"<!-- begin of what {owner} writes, {_KEPT} -->", f"<!-- end of what {owner} writes -->", text)


def with_parts(card: str, parts: Iterable[Part]) -> str | None:
    r"""Return a card with the text of its parts replaced; None where it has none of them, or one is not whole.

    >>> with_parts("mine\n<b>\nold\n<e>\n", [Part("<b>", "<e>", "new\n"), Part("<x>", "<y>", "")])
    'mine\n<b>\nnew\n<e>\n'
    """
    found = False
    for part in parts:
        lines = card.splitlines(keepends=True)
        begins, ends = (_lines_like(lines, mark) for mark in (part.begin, part.end))
        if not begins and not ends:
            continue
        if len(begins) != 1 or len(ends) != 1 or begins > ends:
            return None
        card = "".join([*lines[: begins[0]], str(part), *lines[ends[0] + 1 :]])
        found = True
    return card if found else None


def _lines_like(lines: Sequence[str], mark: str) -> list[int]:
    return [number for number, line in enumerate(lines) if line.rstrip("\r\n") == mark]


def read_card(path: Path) -> str | None:
    """Return the text of a card; None where something else stands: a link, a folder, or bytes that are not UTF-8.

    Raises:
        StorageError: it cannot be read.
    """
    if path.is_symlink() or not path.is_file():
        return None
    try:
        with reading_from(path):
            return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return None


def write_card(path: Path, text: str) -> None:
    """Write a card, whole or not at all; one that is the same already stays.

    Raises:
        StorageError: it cannot be written.
    """
    if read_card(path) != text:
        with replacing(path) as handle:
            handle.write(text.encode("utf-8"))


def fenced(lines: Iterable[str], language: str = "") -> str:
    r"""Return lines as a code block that no text in them can end.

    >>> fenced(["a```b"], "text")
    '````text\na```b\n````\n'
    """
    shown = [one_line(line) for line in lines]
    longest = max((len(run) for line in shown for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([f"{fence}{language}", *shown, fence, ""])


def shown(text: str) -> str:
    """Return a text for a line of Markdown, where it is shown as it is."""
    return markdown_text(one_line(text))


def one_line(text: str) -> str:
    r"""Escape what would end a line, or act on a terminal.

    >>> one_line("a\nb\u2028c")
    'a\\x0ab\\u2028c'
    """
    return "".join(
        f"\\x{ord(one):02x}"
        if ord(one) < 0x20 or 0x7F <= ord(one) < 0xA0
        else f"\\u{ord(one):04x}"
        if one in "\u2028\u2029"
        else one
        for one in text
    )


def public_name(name: str) -> str:
    """Return a model as others may see it: of a path on this machine that starts elsewhere, the last part.

    >>> public_name("Qwen/Qwen2-Audio-7B-Instruct"), public_name("/home/me/saves/simulsa/"), public_name("../a/b")
    ('Qwen/Qwen2-Audio-7B-Instruct', 'simulsa', 'b')
    """
    return Path(name).name if name.startswith(("/", ".", "~")) else name
