"""The Markdown documents of the repository: their links, headings, and the commands in their code blocks."""

import re
import shlex
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "recipes/**/*.md", "data_templates/*.md")
    for path in REPOSITORY.glob(pattern)
)
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[(?:[^][]|\[[^]]*\])*\]\(([^)\s]+)\)")


def relative(path):
    return path.relative_to(REPOSITORY).as_posix()


def links(path):
    """Targets of all links and images, those in code left out."""
    text = re.sub(r"`[^`\n]*`", "", _FENCE.sub("", path.read_text(encoding="utf-8")))
    return _LINK.findall(text)


def anchors(path):
    """The anchors that GitHub gives to the headings."""
    text = _FENCE.sub("", path.read_text(encoding="utf-8"))
    found = []
    for heading in re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        found.append(f"{anchor}-{found.count(anchor)}" if anchor in found else anchor)
    return set(found)


def bash_blocks(path):
    return [block for kind, block in _FENCE.findall(path.read_text(encoding="utf-8")) if kind == "bash"]


def commands(block):
    """The simple commands of a bash block, in words: continued lines joined, comments and `&&` taken away."""
    joined = re.sub(r"\s*\\\n\s*", " ", block)
    for line in joined.splitlines():
        for part in re.split(r" && |; ", re.sub(r"(^|\s)#.*", "", line)):
            words = shlex.split(part)
            if words:
                yield words


def all_commands():
    """(document, words) of every command in a bash block."""
    return [(relative(path), words) for path in DOCUMENTS for block in bash_blocks(path) for words in commands(block)]
