"""Make the screenshots of the live page: `python docs/figures/shoot_live.py [FOLDER]`; needs Debian's Chromium.

The embedded default is served; Chromium plays a talk of the embedded corpus into its microphone.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "tests"))

from helpers.browser import launched, open_address  # noqa: E402
from helpers.live_server import running_server  # noqa: E402

from simulsa_plugin.api.live_system import open_live_system  # noqa: E402
from simulsa_plugin.audio.samples import to_pcm16, write_wav  # noqa: E402
from simulsa_plugin.demo.corpus import TEST_SPLIT  # noqa: E402
from simulsa_plugin.demo.talks import iterate_talks  # noqa: E402

SHOTS = {"live_desktop.png": (1280, False, "retranslation"), "live_phone.png": (390, True, "confidence")}


def main() -> None:
    """Take each picture after half a minute of speech, at a moment when text may still change."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    system = open_live_system(None, default_longform="window", endless=True)
    with tempfile.TemporaryDirectory() as temporary, running_server(system) as server:
        speech = Path(temporary) / "talk.wav"
        (talk,) = iterate_talks(TEST_SPLIT, [1], processes=1)
        write_wav(speech, to_pcm16(talk.waveform))
        devices = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
        with launched(*devices, f"--use-file-for-fake-audio-capture={speech}") as browser:
            for name, (width, dark, policy) in SHOTS.items():
                opened, context = open_address(browser, f"http://127.0.0.1:{server.port}/", width, dark)
                page = opened.page
                if policy != "confidence":
                    page.select_option("#point", "")
                    page.select_option("#policy", policy)
                page.get_by_role("button", name="Start").click()
                page.wait_for_timeout(30_000)
                page.locator("#transcript .open", has_text=" " if policy == "retranslation" else "").wait_for()
                page.screenshot(path=folder / name, full_page=True)
                context.close()


if __name__ == "__main__":
    main()
