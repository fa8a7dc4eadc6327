"""The page in a browser: sound in, the translation grows, is taken back and commits; nothing else is asked for.

The microphone is a file that Chromium plays into it.
"""

import re

import numpy as np
import pytest
from helpers.browser import launched, open_address
from helpers.fakes import ClockModel
from helpers.live_server import reading_server, running_server

from simulsa_plugin.api.live_system import open_live_system
from simulsa_plugin.audio.samples import to_pcm16, write_wav
from simulsa_plugin.demo.corpus import TEST_SPLIT
from simulsa_plugin.demo.talks import iterate_talks
from simulsa_plugin.server.limits import Limits

pytestmark = pytest.mark.browser
EVIL = "<img src=x onerror=alert(1)> 你好 &amp; end"
PATIENCE_MS = 60_000
# What has stood in the page since the observer began: every open part, and every part that was taken back.
OBSERVE = """() => {
  window.seen = { open: [], deleted: [] };
  const note = () => {
    for (const [name, query] of [["open", "#transcript .open"], ["deleted", "#transcript del"]]) {
      const text = document.querySelector(query).textContent;
      if (text && window.seen[name].at(-1) !== text) window.seen[name].push(text);
    }
  };
  new MutationObserver(note).observe(document.getElementById("transcript"),
    { childList: true, characterData: true, subtree: true });
}"""


@pytest.fixture(scope="module")
def talk():
    """Half a minute of the embedded test split, and its references."""
    (found,) = iterate_talks(TEST_SPLIT, [0.4], processes=1)
    return found


@pytest.fixture(scope="module")
def recording(talk, tmp_path_factory):
    path = tmp_path_factory.mktemp("microphone") / "talk.wav"
    write_wav(path, to_pcm16(talk.waveform))
    return path


@pytest.fixture(scope="module")
def browser(recording):
    with launched(
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={recording}",
    ) as found:
        yield found


@pytest.fixture
def visit(browser):
    """Open the page of a server; at the end nothing may have gone wrong, or been asked for elsewhere."""
    opened = []

    def open_page(server, **options):
        one, context = open_address(browser, f"http://127.0.0.1:{server.port}/", **options)
        opened.append((one, context, server.port))
        one.page.set_default_timeout(PATIENCE_MS)
        one.page.get_by_text("Ready.").wait_for()
        return one

    yield open_page
    for one, context, port in opened:
        assert one.problems == []
        own = re.compile(rf"(http|ws)://127\.0\.0\.1:{port}/|(data|blob):")
        assert [address for address in one.requests if not own.match(address)] == []
        context.close()


def choose(page, **parameters):
    """Choose an operating point that the recipe does not name."""
    page.select_option("#point", "")
    page.select_option("#policy", parameters.pop("policy"))
    page.fill("#chunk", str(parameters.pop("chunk")))
    for key, value in parameters.items():
        page.fill(f"[data-key=simulsa_{key}]", str(value))


def finish(page):
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Finished.").wait_for()


def words(text):
    return re.findall(r"\w+", text)


def test_the_microphone_is_translated_by_the_embedded_default(visit, talk):
    system = open_live_system(None, default_longform="window", endless=True)
    with running_server(system) as server:
        page = visit(server).page
        assert page.inner_text("#model") == "simulsa-demo"
        assert page.inner_text("#point option:checked") == "confidence, 500 ms, threshold 0.99"
        choose(page, policy="retranslation", chunk=300)
        page.evaluate(OBSERVE)
        page.get_by_role("button", name="Start").click()
        page.locator("#transcript del", has_text=re.compile(r"\w")).wait_for(state="attached")
        page.wait_for_timeout(9000)
        finish(page)
        said, seen = page.inner_text("#transcript"), page.evaluate("window.seen")
        announced = page.inner_text("#announced")
        assert page.inner_text("#speakers") == "1 of 8"
        assert re.fullmatch(r"\d+ ms", page.inner_text("#compute"))
        assert re.fullmatch(r"\d\.\d s", page.inner_text("#delay"))
    reference = words(" ".join(one.sentence.target_text for one in talk.segments))
    assert len(words(said)) > 5
    assert np.mean([word in reference for word in words(said)]) > 0.7
    assert len(seen["open"]) > 5  # it grew
    assert seen["deleted"]  # and was taken back
    assert page.locator("#transcript .open").inner_text() == ""  # and is final in the end
    assert words(announced) == words(said)[-len(words(announced)) :]


def clock(text):
    return ClockModel(text=text, ms_per_byte=60.0, regret=True)


def test_a_file_is_played_and_translated_and_its_text_is_only_text(visit, monkeypatch, recording, tmp_path):
    with reading_server(monkeypatch, model=clock(EVIL), simulsa_window_seconds=None) as server:
        page = visit(server).page
        page.select_option("#source", "file")
        page.get_by_role("button", name="Start").click()
        page.get_by_text("Choose a file first.").wait_for()
        tone = 0.3 * np.sin(np.arange(4 * 16_000) / 5)
        write_wav(tmp_path / "tone.wav", to_pcm16(tone.astype(np.float32)))
        page.set_input_files("#file", tmp_path / "tone.wav")
        page.evaluate(OBSERVE)
        page.get_by_role("button", name="Start").click()
        page.get_by_text("Finished.").wait_for()
        assert page.locator("#transcript").text_content() == EVIL
        assert page.locator("#transcript img").count() == 0
        assert any(text.endswith("?") for text in page.evaluate("window.seen")["deleted"])
        assert page.inner_text("#audio") in ("0:03", "0:04")
        with page.expect_download() as download:
            page.get_by_role("button", name="Save as text").click()
        assert download.value.path().read_text(encoding="utf-8") == f"{EVIL}\n"
        # Another stream follows below, on another connection.
        page.get_by_role("button", name="Start").click()
        page.get_by_text("Listening.").wait_for()
        page.get_by_text("Finished.").wait_for()
        assert page.locator("#transcript").text_content() == f"{EVIL}\n{EVIL}"
        page.get_by_role("button", name="Clear").click()
        assert page.locator("#transcript").text_content() == ""


def test_the_sound_of_a_tab_arrives(visit, monkeypatch):
    with reading_server(monkeypatch, model=clock("eins zwei drei")) as server:
        page = visit(server).page
        page.select_option("#source", "tab")
        page.get_by_role("button", name="Start").click()
        page.locator("#transcript", has_text="eins").wait_for()  # about what Chromium's stand-in for a tab plays
        finish(page)


def test_what_goes_wrong_is_told(visit, monkeypatch, tmp_path):
    with reading_server(monkeypatch, Limits(max_speakers=1), model=clock("eins zwei drei")) as server:
        page, other = visit(server).page, visit(server).page
        page.get_by_role("button", name="Start").click()
        page.get_by_text("Listening.").wait_for()
        other.get_by_role("button", name="Start").click()
        other.get_by_text("The server is busy: 1 of 1 speakers. Try again later.").wait_for()
        finish(page)
        choose(other, policy="hold_n", chunk=480, hold_n=-1)
        other.get_by_role("button", name="Start").click()
        other.get_by_text("simulsa_hold_n is -1; allowed: a number ≥ 0.").wait_for()
        other.fill("[data-key=simulsa_hold_n]", "1")
        (tmp_path / "no.wav").write_bytes(b"no audio")
        other.select_option("#source", "file")
        other.set_input_files("#file", tmp_path / "no.wav")
        other.get_by_role("button", name="Start").click()
        other.get_by_text("The browser cannot play this file (NotSupportedError)").wait_for()
        assert other.get_by_role("button", name="Start").is_enabled()


def test_a_stream_that_could_not_begin_leaves_its_place_and_ends_no_other(visit, monkeypatch, tmp_path):
    limits = Limits(max_speakers=1, idle_seconds=2)
    with reading_server(monkeypatch, limits, model=clock("eins zwei drei")) as server:
        page = visit(server).page
        (tmp_path / "no.wav").write_bytes(b"no audio")
        page.select_option("#source", "file")
        page.set_input_files("#file", tmp_path / "no.wav")
        page.get_by_role("button", name="Start").click()
        page.get_by_text("The browser cannot play this file (NotSupportedError)").wait_for()
        page.select_option("#source", "microphone")
        page.get_by_role("button", name="Start").click()
        page.get_by_text("Listening.").wait_for()
        page.wait_for_timeout(1000 * (limits.idle_seconds + 1))  # what is left of the first one would end here
        assert page.inner_text("#status") == "Listening."
        finish(page)


@pytest.mark.parametrize(("width", "dark"), [(390, False), (1280, True), (2560, False)])
def test_everybody_can_use_the_page(visit, monkeypatch, width, dark):
    with reading_server(monkeypatch, model=clock("eins zwei drei")) as server:
        opened = visit(server, width=width, dark=dark)
        page = opened.page
        choose(page, policy="confidence", chunk=500)
        page.select_option("#source", "file")
        assert opened.width() == width
        assert opened.serious() == []
        page.select_option("#source", "microphone")
        page.focus("#start")
        page.keyboard.press("Enter")
        page.locator("#transcript", has_text="eins").wait_for()
        assert opened.width() == width
        assert opened.serious() == []
        page.keyboard.press("Enter")
        page.get_by_text("Finished.").wait_for()
        assert page.locator("#status").get_attribute("role") == "status"
        assert page.locator("#announced").get_attribute("role") == "log"
        assert "eins" in page.inner_text("#announced")
