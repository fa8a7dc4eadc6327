"""The default tests reach no network, neither themselves nor through the programs that they start."""

import socket
import subprocess
import sys

import pytest
from pytest_socket import SocketConnectBlockedError

ELSEWHERE = "192.0.2.1"  # RFC 5737: an address of nobody


def test_a_test_connects_to_this_machine_alone():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        pass
    with pytest.raises(SocketConnectBlockedError), pytest.warns(UserWarning, match=ELSEWHERE):
        socket.create_connection((ELSEWHERE, 80), timeout=1)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_program_that_a_test_starts_finds_no_way_out(scheme):
    fetch = f"import urllib.request; urllib.request.urlopen({f'{scheme}://{ELSEWHERE}'!r}, timeout=5)"
    result = subprocess.run([sys.executable, "-c", fetch], capture_output=True, text=True, check=False)
    assert result.stderr.splitlines()[-1] == "urllib.error.URLError: <urlopen error [Errno 111] Connection refused>"


def test_what_needs_a_network_is_left_out_unless_it_is_named(pytestconfig):
    options = " ".join(pytestconfig.getini("addopts"))
    assert all(f"not {name}" in options for name in ("real_speech", "other_tools", "comet"))
