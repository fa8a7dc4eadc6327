"""What the documents quote from the code is still there: paths, and the messages of docs/troubleshooting.md."""

import ast
import re
from pathlib import Path

import pytest
from documents import DOCUMENTS, REPOSITORY, relative

import simulsa_plugin

PACKAGE = Path(simulsa_plugin.__file__).parent
# Said by LLaMA-Factory, PyTorch or the documents themselves.
NOT_OURS = ("Some keys are not used by the HfArgumentParser", "Could not load this library")


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_every_path_that_is_named_exists(path):
    named = re.findall(r"`((?:simulsa_plugin|tests|recipes|docs)/[\w./-]+)`", path.read_text(encoding="utf-8"))
    # By the package where it is installed: the one in the tree may be gone.
    there = {name: PACKAGE.parent if name.startswith("simulsa_plugin/") else REPOSITORY for name in named}
    assert [name for name, root in there.items() if "NAME" not in name and not (root / name).exists()] == []


def texts():
    """Every text of the package, with … for what is filled in, in one line each."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(one.value if isinstance(one, ast.Constant) else "…" for one in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(" ".join(text.split()) for text in found)


def test_every_message_of_troubleshooting_is_in_the_code():
    page = (REPOSITORY / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^\|[^|]*?`([^`]+)`", page, re.MULTILINE)
    assert len(quoted) > 40
    code = texts()
    lost = [
        message
        for message in quoted
        if not message.startswith(NOT_OURS)
        and not all(part.strip(" .:?") in code for part in re.split(r"…", message) if len(part) > 3)
    ]
    assert not lost, "\n".join(["docs/troubleshooting.md quotes what the code no longer says:", *lost])
