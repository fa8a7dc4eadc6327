"""Pages of mapped files are released, and nothing is lost."""

import mmap
import os
import sys

import pytest
from helpers.memory import resident_kb

from simulsa_plugin.memory import release_mapped_pages

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
CONTENT = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "with a space.arrow"
    path.write_bytes(CONTENT)
    return path


def mapped(path, access):
    with path.open("r+b") as handle:
        return mmap.mmap(handle.fileno(), 0, access=access)


def test_pages_are_released_and_read_again(file):
    with mapped(file, mmap.ACCESS_READ) as memory:
        assert bytes(memory) == CONTENT
        assert resident_kb(file) == 1024
        release_mapped_pages([file])
        assert resident_kb(file) == 0
        assert bytes(memory) == CONTENT


def test_a_link_names_the_file_that_is_mapped(file, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(file)
    with mapped(file, mmap.ACCESS_READ) as memory:
        assert memory[::4096]
        release_mapped_pages([str(link)])
        assert resident_kb(file) == 0


def test_what_was_written_and_other_files_stay(file, tmp_path):
    other = tmp_path / "other.arrow"
    other.write_bytes(CONTENT)
    with mapped(file, mmap.ACCESS_COPY) as private, mapped(other, mmap.ACCESS_READ) as memory:
        private[:4] = b"mine"
        assert bytes(memory) == CONTENT
        release_mapped_pages([file])
        assert private[:4] == b"mine"
        assert resident_kb(other) == 1024


def test_nothing_to_release_is_no_error(tmp_path):
    release_mapped_pages([])
    release_mapped_pages([tmp_path / "gone", os.devnull])
