"""The dataset's script, as far as it goes without a network."""

import doctest
import gzip

import make_dataset
import pytest

from simulsa_plugin.errors import DatasetError


def test_examples():
    results = doctest.testmod(make_dataset)
    assert (results.failed, results.attempted) == (0, 2)


def test_a_machine_without_apt_is_told_what_is_needed(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert make_dataset.main(["--out", str(tmp_path / "speech")]) == 1
    message = capsys.readouterr().err
    assert message.startswith("make_dataset: error: `apt-get update` cannot be run: ")
    assert "Use a Debian or Ubuntu machine." in message


def test_a_package_that_cannot_be_had_is_named_with_what_apt_says(monkeypatch, tmp_path):
    apt = tmp_path / "bin" / "apt-get"
    apt.parent.mkdir()
    apt.write_text('#!/bin/sh\n[ "$3" = update ] || { echo "E: Unable to locate package $4" >&2; exit 100; }\n')
    apt.chmod(0o755)
    monkeypatch.setenv("PATH", f"{apt.parent}:/usr/bin:/bin")
    (tmp_path / "work").mkdir()
    with pytest.raises(DatasetError, match="`apt-get download gone` failed: E: Unable to locate package gone"):
        make_dataset.fetch_packages(["gone"], tmp_path / "work")


def test_a_list_in_another_encoding_is_refused(tmp_path):
    path = tmp_path / "core-sounds-fr.txt.gz"
    path.write_bytes(gzip.compress("activated: activé".encode("latin-1")))
    with pytest.raises(DatasetError, match=r"Cannot read core-sounds-fr\.txt\.gz of asterisk-core-sounds-fr: 'utf-8'"):
        make_dataset.read_lines(path)
