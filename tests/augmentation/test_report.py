"""The table and report.html: their numbers are those of scores.jsonl, and nothing in a corpus can break the page."""

import re
from html import unescape
from html.parser import HTMLParser

import pytest
from helpers.fakes import ByteModel, ListDataset, make_dataset, write_noise
from helpers.files import read_json_lines

from simulsa_plugin.augmentation.augment_report import augment_summary, write_augment_report
from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.method.acceptance import Decision
from simulsa_plugin.augmentation.pipeline import augment_dataset
from simulsa_plugin.augmentation.relabeling import relabel
from simulsa_plugin.augmentation.tally import EXAMPLES, Tally
from simulsa_plugin.terminal import printable

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Tables as text, and whether every tag is closed in its turn."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tables, self.tags, self.attributes, self.text = [], [], set(), set(), ""
        self.feed(text)
        self.close()
        assert self.open == [], "tags that are never closed"

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}
        if tag in VOID:
            return
        self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data

    def table(self, *head):
        (found,) = [rows[1:] for rows in self.tables if rows and tuple(rows[0]) == head]
        return found


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """60 rows with references in which 40 can be cut; the others say why not."""
    dataset = make_dataset(tmp_path_factory.mktemp("offline"), count=60)
    for row in range(0, 60, 6):
        dataset.rows[row] = "multi_turn"
        dataset.rows[row + 1] = "not_one_audio"
    return dataset


@pytest.fixture(scope="module")
def finished(toy, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    outcome = augment_dataset(toy, ByteModel(sure_per_second=9.0), AugmentSettings(samples=45), out)
    rows = read_json_lines(outcome.folder / "scores.jsonl")
    return outcome, rows


def page_of(folder):
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def percent(accepted, tokens):
    return f"{accepted / tokens:.0%}"


def by_tenth(rows):
    """(heard, samples, empty, accepted share) recomputed in whole samples of audio, where no division can err."""
    found = []
    for tenth in range(10):
        chosen = [
            row
            for row in rows
            if min(round(row["cut_seconds"] * 16_000) * 10 // round(row["duration_seconds"] * 16_000), 9) == tenth
        ]
        if chosen:
            accepted, tokens = (
                sum(len(row["partial"].encode()) for row in chosen),
                sum(len(row["reference"].encode()) for row in chosen),
            )
            found.append(
                [
                    f"{tenth * 10}%–{tenth * 10 + 10}%",
                    str(len(chosen)),
                    str(sum(row["partial"] == "" for row in chosen)),
                    percent(accepted, tokens),
                ]
            )
    return found


def test_the_pages_numbers_are_those_of_the_scores(finished):
    outcome, rows = finished
    page = page_of(outcome.folder)
    assert len(rows) == 40
    assert [row[:4] for row in page.table("heard", "samples", "empty", "accepted", "")] == by_tenth(rows)
    halves = [int(row["cut_seconds"] * 2) for row in rows]
    assert page.table("seconds", "samples", "") == [
        [f"{half / 2:g}–{(half + 1) / 2:g}", str(halves.count(half)), ""] for half in range(max(halves) + 1)
    ]
    assert page.table("reason", "rows") == [["multi_turn", "10"], ["not_one_audio", "10"]]
    counts = dict(page.table("count", "value"))
    assert counts == {
        "wanted": "45",
        "scored": "40",
        "samples": "40",
        "empty": str(sum(row["partial"] == "" for row in rows)),
        "whole_reference": str(sum(row["partial"] == row["reference"] for row in rows)),
        "tokens": str(sum(len(row["reference"].encode()) for row in rows)),
        "accepted_tokens": str(sum(len(row["partial"].encode()) for row in rows)),
        "retokenized": "0",
        "close_to_threshold": "0",
    }


def test_the_terminals_table_has_the_same_numbers(finished):
    outcome, rows = finished
    lines = augment_summary(outcome.manifest)
    accepted = sum(len(row["partial"].encode()) for row in rows)
    share = percent(accepted, sum(len(row["reference"].encode()) for row in rows))
    assert lines[0] == (
        f"toy: 40 partial samples from 60 rows ({sum(not row['partial'] for row in rows)} empty, "
        f"{sum(row['partial'] == row['reference'] for row in rows)} whole, {share} of the reference tokens accepted)"
    )
    table = [line.split() for line in lines[1 : 2 + len(by_tenth(rows))]]
    assert table == [["heard", "samples", "empty", "accepted"], *by_tenth(rows)]
    assert lines[-3:] == [
        "  skipped: multi_turn 10, not_one_audio 10",
        "  tokenized differently in training: 0; within 0.0001 of the threshold: 0",
        f"  {outcome.manifest['signature']}",
    ]


def test_the_first_samples_are_shown_as_they_are(finished):
    outcome, rows = finished
    shown = page_of(outcome.folder).table("id", "heard", "of", "reference")
    assert shown == [
        [row["id"], f"{row['cut_seconds']:.2f} s", f"{row['duration_seconds']:.2f} s", row["reference"]]
        for row in rows[:EXAMPLES]
    ]
    text = (outcome.folder / "report.html").read_text(encoding="utf-8")
    cells = re.findall(r"<td>([^<]*)<span class=rest>([^<]*)</span></td>", text)
    assert [tuple(map(unescape, cell)) for cell in cells] == [
        (row["partial"], row["reference"][len(row["partial"]) :]) for row in rows[:EXAMPLES]
    ]


def test_settings_model_and_versions_stand_on_the_page(finished):
    outcome, _ = finished
    table = dict(page_of(outcome.folder).table("key", "value"))
    assert table["simulsa_samples"] == "45"
    assert table["model"] == "bytes"
    assert set(outcome.manifest["settings"]) | set(outcome.manifest["versions"]) <= set(table)


def test_the_same_run_elsewhere_and_later_has_the_same_page(toy, finished, tmp_path):
    # No date, no folder, nothing by chance.
    outcome, _ = finished
    other = augment_dataset(toy, ByteModel(sure_per_second=9.0), AugmentSettings(samples=45), tmp_path / "elsewhere")
    page = (outcome.folder / "report.html").read_bytes()
    assert (other.folder / "report.html").read_bytes() == page
    assert str(outcome.folder.parent).encode() not in page
    assert not re.search(rb"\b20\d\d-\d\d-\d\d\b", page)


def test_the_page_needs_nothing_from_elsewhere(finished):
    outcome, _ = finished
    page = page_of(outcome.folder)
    assert not page.tags & {"script", "link", "img", "iframe", "object", "a"}
    assert not page.attributes & {"src", "href", "onload", "onerror", "onclick"}


HOSTILE = [
    "<script>alert(1)</script> Auto",
    "</td></tr></table><h1>Ende",
    "<!-- der Mann",
    "&lt;b&gt; &amp;amp; & < >",
    "\"><img src=x onerror='alert(1)'>",
    "]]> <![CDATA[ \u202e umgekehrt \x07",
]


@pytest.mark.parametrize("sure", [0.0, 3.0, 1000.0], ids=["nothing", "some", "all"])
def test_hostile_references_stay_text(tmp_path, sure):
    rows = [(text, write_noise(tmp_path / f"{row}.wav", 2.0, seed=row)) for row, text in enumerate(HOSTILE)]
    outcome = augment_dataset(ListDataset("toy", rows), ByteModel(sure), AugmentSettings(samples=6), tmp_path / "out")
    page = page_of(outcome.folder)
    assert not page.tags & {"script", "img", "b"}
    shown = {row[0]: row[3] for row in page.table("id", "heard", "of", "reference")}
    assert shown == {f"toy-{row:08d}-0": printable(text) for row, text in enumerate(HOSTILE)}


def test_hostile_names_reasons_and_settings_stay_text(tmp_path):
    name, reason, model = "a<i>&b", "<script>x</script>", {"model": "</code><script>", "<b>": "&amp;"}
    dataset = ListDataset(name, [("Auto", write_noise(tmp_path / "a.wav", 2.0)), reason])
    outcome = augment_dataset(dataset, ByteModel(description=model), AugmentSettings(samples=2), tmp_path / "out")
    page = page_of(outcome.folder)
    assert not page.tags & {"script", "i", "b"}
    assert page.table("reason", "rows") == [[reason, "1"]]
    assert page.table("id", "heard", "of", "reference")[0][0] == f"{name}-00000000-0"
    table = dict(page.table("key", "value"))
    assert (table["model"], table["<b>"]) == ("</code><script>", "&amp;")
    assert f"{name}: partial samples" in page.text


def tally_of(*cuts):
    """Decided rows (cut, duration, accepted of 4 tokens)."""
    tally = Tally()
    for number, (cut, duration, accepted) in enumerate(cuts):
        row = {"id": f"toy-{number:08d}-0", "cut_seconds": cut, "duration_seconds": duration}
        row |= {"token_ids": [1, 2, 3, 4], "reference": "abcd"}
        tally.add(row, Decision(accepted, "abcd"[:accepted]), kept=True, retokenized=None, commitment=None)
    return tally


@pytest.mark.parametrize("duration", [0.7, 1.0, 1.1, 3.0, 4.9, 5.0, 6.1, 7.3, 9.9])
def test_a_share_of_exactly_a_tenth_begins_its_bin(duration):
    # 0.3 / 3.0 is 0.09999999999999999, and 0.7 · 0.3 / 0.7 another neighbour of 0.3.
    for tenth in range(11):
        tally = tally_of((tenth * duration / 10, duration, 1))
        (found,) = [row for row in tally.by_cut_share() if row["samples"]]
        assert (found["from"], found["to"]) == (min(tenth, 9) / 10, (min(tenth, 9) + 1) / 10), tenth


def test_a_sample_less_than_a_tenth_is_in_the_bin_before():
    # Of the longest audio that is read, 6 h, a sample is 3 · 10⁻⁹.
    duration = 6 * 3600.0
    tally = tally_of((0.1 * duration - 1 / 16_000, duration, 1), (0.1 * duration, duration, 1))
    assert [row["samples"] for row in tally.by_cut_share()[:2]] == [1, 1]


def test_shares_and_lengths_by_hand():
    tally = tally_of((0.5, 5.0, 0), (0.99, 5.0, 2), (1.0, 5.0, 4), (1.5, 1.5, 4))
    assert [row for row in tally.by_cut_share() if row["samples"]] == [
        {"from": 0.1, "to": 0.2, "samples": 2, "empty": 1, "tokens": 8, "accepted_tokens": 2, "accepted_share": 0.25},
        {"from": 0.2, "to": 0.3, "samples": 1, "empty": 0, "tokens": 4, "accepted_tokens": 4, "accepted_share": 1.0},
        {"from": 0.9, "to": 1.0, "samples": 1, "empty": 0, "tokens": 4, "accepted_tokens": 4, "accepted_share": 1.0},
    ]
    assert [row["samples"] for row in tally.by_cut_seconds()] == [0, 2, 1, 1]  # 0.5–1, 1–1.5, 1.5–2
    assert Tally().by_cut_seconds() == []


def test_what_is_not_known_is_not_a_number(tmp_path):
    # Rows that cannot tell (made by hand, or of an older run) make the whole count unknown, and the page says so.
    tally = tally_of((1.0, 2.0, 1))
    tally.add(
        {"id": "toy-00000001-0", "cut_seconds": 1, "duration_seconds": 2, "token_ids": [1], "reference": "a"},
        Decision(1, "a", close=None),
        kept=True,
        retokenized=False,
        commitment=None,
    )
    counts = tally.counts(2)
    assert (counts["retokenized"], counts["close_to_threshold"]) == (None, None)
    manifest = {
        "dataset": "toy",
        "rows": None,
        "model": None,
        "settings": {},
        "versions": {},
        "counts": counts,
        "skipped": {},
        "by_cut_share": tally.by_cut_share(),
        "by_cut_seconds": tally.by_cut_seconds(),
        "commitment": None,
        "tolerance": 1e-4,
        "signature": "none",
    }
    write_augment_report(manifest, tally.examples, tmp_path / "report.html")
    page = page_of(tmp_path)
    assert dict(page.table("count", "value"))["retokenized"] == "not known"
    assert "tokenized differently in training: not known; within 0.0001 of the threshold: not known" in page.text
    assert augment_summary(manifest)[0].startswith("toy: 2 partial samples from an unknown number of rows (0 empty, 1 ")


def test_an_empty_page_of_dropped_samples_is_still_a_page(toy, tmp_path):
    outcome = augment_dataset(toy, ByteModel(0.0), AugmentSettings(samples=5, keep_empty=False), tmp_path)
    lines = augment_summary(outcome.manifest)
    assert lines[0].startswith("toy: 0 partial samples from 60 rows (5 empty, 0 whole, 0% of the reference tokens")
    assert ["empty_partial", "5"] in page_of(outcome.folder).table("reason", "rows")


def test_deciding_again_writes_the_same_page(toy, tmp_path):
    outcome = augment_dataset(toy, ByteModel(), AugmentSettings(samples=9), tmp_path)
    before = (outcome.folder / "report.html").read_bytes()
    again = relabel(outcome.folder / "scores.jsonl", {}, tmp_path, lambda name, entry: None)
    assert (again.folder / "report.html").read_bytes() == before
    assert again == outcome
