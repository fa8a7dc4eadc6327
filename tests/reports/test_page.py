"""Pages: what is inside them, and that texts from anywhere stay texts."""

import base64
import io
import json
import re

import numpy as np
import pytest
import soundfile

from simulsa_plugin.reports.page import (
    CHARTS,
    Column,
    Value,
    cards,
    embedded_json,
    html_table,
    render_page,
    settings_list,
)
from simulsa_plugin.reports.sound import audio_address

EVIL = "</script><img src=x onerror=alert(1)>\x1b[31m&"


def small_page():
    rows = [["one", Value("2.00", 2.0, "[1.0, 3.0]")], ["two", Value("10.00", 10.0, best=True)], ["three", Value("–")]]
    return render_page(
        EVIL,
        [
            cards({EVIL: EVIL}),
            html_table([Column("cell"), Column("BLEU", numeric=True)], rows),
            settings_list({EVIL: EVIL}),
        ],
        {"text": EVIL},
        CHARTS,
    )


def test_data_reads_back_and_texts_stay_texts():
    page = small_page()
    (found,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page, re.S)
    assert json.loads(found) == {"text": EVIL}
    assert "<img" not in page
    assert "\x1b" not in page.replace(found, "")


def test_a_page_names_no_address_to_load_from():
    page = small_page()
    assert "default-src 'none'" in page
    assert not re.findall(r"<(?:link|script|img|audio)[^>]*(?:src|href)=", page)


def test_numbers_that_json_cannot_have_are_refused():
    with pytest.raises(ValueError, match="JSON"):
        embedded_json(float("nan"))


def test_audio_is_the_waveform_compressed():
    time = np.arange(16_000) / 16_000
    tone = (0.3 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    address = audio_address(tone)
    assert address.startswith("data:audio/mpeg;base64,")
    assert len(address) < 6_000
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(address.partition(",")[2])))
    assert rate == 16_000
    assert np.argmax(np.abs(np.fft.rfft(samples[:16_000]))) == pytest.approx(440, abs=2)


@pytest.mark.browser
@pytest.mark.parametrize(("width", "dark"), [(390, False), (1280, True), (2560, False)])
def test_a_page_opens_at_every_width(open_page, tmp_path, width, dark):
    path = tmp_path / "page.html"
    path.write_text(small_page(), encoding="utf-8")
    opened = open_page(path, width, dark)
    assert opened.width() == width
    assert opened.serious() == []
    assert opened.page.evaluate("document.documentElement.dataset.theme") == ("dark" if dark else "light")
    opened.page.click("#theme")
    assert opened.page.evaluate("document.documentElement.dataset.theme") == ("light" if dark else "dark")


@pytest.mark.browser
def test_a_click_on_a_head_sorts_and_missing_values_come_last(open_page, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(small_page(), encoding="utf-8")
    page = open_page(path).page
    cells = "tbody tr td:first-child"
    page.get_by_role("button", name="BLEU").click()
    assert page.locator(cells).all_inner_texts() == ["two", "one", "three"]
    page.get_by_role("button", name="BLEU").click()
    assert page.locator(cells).all_inner_texts() == ["one", "two", "three"]
    page.get_by_role("button", name="cell").click()
    assert page.locator(cells).all_inner_texts() == ["one", "three", "two"]
