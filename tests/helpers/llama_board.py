"""LLaMA Board as a program, and how a person fills in its page."""

import contextlib
import os
import socket
import subprocess
import sys
import urllib.request

from helpers.processes import wait_until

_START = "import sys; from llamafactory.cli import main; sys.argv = ['llamafactory-cli', 'webui']; main()"


@contextlib.contextmanager
def running_board(folder):
    """LLaMA Board in a folder; its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {"SERVER_NAME": "127.0.0.1", "SERVER_PORT": str(port), "ANALYTICS_ENABLED": "0"}
    environment = os.environ | {f"GRADIO_{name}": value for name, value in settings.items()}
    board = subprocess.Popen([sys.executable, "-c", _START], cwd=folder, env=environment)
    try:
        address = f"http://127.0.0.1:{port}/"
        wait_until(lambda: _answers(address))
        yield address
    finally:
        board.terminate()
        board.wait()


def _answers(address):
    try:
        return urllib.request.urlopen(address, timeout=5).status == 200
    except OSError:
        return False


def augment_demo(page):
    """Choose the embedded model and a dataset `demo` in the folder `data`, and press Augment."""
    page.get_by_label("Model path").first.fill("simulsa-demo")
    page.wait_for_timeout(5000)  # LLaMA Board answers with the template of the path
    assert _choose(page, "Chat template", "qwen2_audio").input_value() == "qwen2_audio"
    page.get_by_label("Data dir").first.fill("data")
    _choose(page, "Dataset", "demo")
    page.get_by_role("tab", name="SimulSA").click()
    page.get_by_role("button", name="Augment").click()
    page.get_by_text("finished").wait_for(timeout=120_000)


def _choose(page, label, value):
    box = page.get_by_label(label, exact=True).first
    box.click()
    page.get_by_role("option", name=value, exact=True).click()  # LLaMA Board lists datasets when the box is clicked
    return box
