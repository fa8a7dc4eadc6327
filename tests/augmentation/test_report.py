"""The table and report.html: their numbers are those of scores.jsonl, and nothing in a corpus can break the page."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile
from helpers.fakes import ByteModel, ListDataset, make_dataset, write_noise
from helpers.files import read_json_lines

from simulsa_plugin.augmentation.augment_report import (
    augment_summary,
    cut_bins,
    run_command_line,
    write_augment_report,
)
from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.label_quality import LabelQuality
from simulsa_plugin.augmentation.method.acceptance import Decision
from simulsa_plugin.augmentation.method.truncation import cut_samples, expected_cuts
from simulsa_plugin.augmentation.pipeline import augment_dataset
from simulsa_plugin.augmentation.relabeling import relabel
from simulsa_plugin.augmentation.shown_samples import (
    KINDS,
    REST_SECONDS,
    SAMPLES_OF_A_KIND,
    ShownSamples,
    page_samples,
)
from simulsa_plugin.augmentation.tally import Tally

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Tables as text, the data of the page, and whether every tag is closed in its turn."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tables, self.tags, self.attributes, self.text = [], [], set(), set(), ""
        self.settings = {}
        self.feed(text)
        self.close()
        assert self.open == [], "tags that are never closed"
        (found,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', text, re.S)
        self.data = json.loads(found)

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
        elif tag == "dt":
            self.key = ""
        elif tag == "dd":
            self.settings[self.key] = ""

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"script", "style"} & set(self.open):
            return
        self.text += data
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data
        elif "dt" in self.open:
            self.key += data
        elif "dd" in self.open:
            self.settings[self.key] += data

    def table(self, *head):
        (found,) = [rows[1:] for rows in self.tables if rows and tuple(rows[0]) == head]
        return found

    def samples(self, kind):
        return [one["id"] for one in self.data["samples"] if kind in one["kinds"]]


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
    assert page.table("heard", "samples", "empty", "accepted") == by_tenth(rows)
    halves = [int(row["cut_seconds"] * 2) for row in rows]
    assert [row[:2] for row in page.table("seconds", "samples", "expected")] == [
        [f"{half / 2:g}–{(half + 1) / 2:g}", str(halves.count(half))] for half in range(1, max(halves) + 1)
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


def test_the_first_skips_of_each_reason_are_named(finished):
    outcome, _ = finished
    skipped = read_json_lines(outcome.folder / "skipped.jsonl")
    wanted = [one for reason in ("multi_turn", "not_one_audio") for one in skipped if one["reason"] == reason]
    wanted = [*wanted[:3], *[one for one in wanted if one["reason"] == "not_one_audio"][:3]]
    assert page_of(outcome.folder).table("id", "reason", "audio", "cause") == [
        [one["id"], one["reason"], one.get("audio", "–"), one.get("cause", "–")] for one in wanted
    ]


@pytest.mark.parametrize("sure", [30.0, 1.0], ids=["some are whole", "some are empty"])
def test_the_samples_of_each_kind_are_what_they_are_called(toy, tmp_path, sure):
    outcome = augment_dataset(toy, ByteModel(sure), AugmentSettings(samples=40), tmp_path)
    rows = read_json_lines(outcome.folder / "scores.jsonl")
    page, by_id = page_of(outcome.folder), {row["id"]: row for row in rows}
    empty = {row["id"] for row in rows if not row["partial"]}
    whole = {row["id"] for row in rows if row["partial"] == row["reference"]}
    assert len(empty if sure == 1.0 else whole) > SAMPLES_OF_A_KIND
    assert set(page.samples("empty")) <= empty
    assert set(page.samples("whole")) <= whole
    assert [len(page.samples(kind)) for kind in KINDS] == [
        *(min(SAMPLES_OF_A_KIND, len(some)) for some in (empty, whole, [])),  # no truth: no `over`
        SAMPLES_OF_A_KIND,
        SAMPLES_OF_A_KIND,
    ]
    order = [row["id"] for row in rows]
    assert [one["id"] for one in page.data["samples"]] == sorted(
        (one["id"] for one in page.data["samples"]), key=order.index
    )
    for one in page.data["samples"]:
        row = by_id[one["id"]]
        assert "".join(one["texts"]) == row["reference"]
        assert "".join(one["texts"][: one["accepted"]]) == row["partial"]
        assert (one["logprobs"], one["accepted"]) == (row["logprobs"], row["accepted_tokens"])
        assert one["best"] == [int(a == b) for a, b in zip(row["token_ids"], row["greedy"], strict=True)]


def test_the_players_have_the_clip_and_what_follows_it(toy, finished):
    # Both as decoded again from the page; MP3 adds a little silence at the ends.
    outcome, rows = finished
    by_id = {row["id"]: row for row in rows}
    for one in page_of(outcome.folder).data["samples"]:
        row = by_id[one["id"]]
        rest = min(REST_SECONDS, row["duration_seconds"] - row["cut_seconds"])
        assert seconds_of(one["clip"]) == pytest.approx(row["cut_seconds"], abs=0.15)
        if rest >= 0.05:
            assert seconds_of(one["rest"]) == pytest.approx(rest, abs=0.15)


def seconds_of(address):
    return soundfile.info(io.BytesIO(base64.b64decode(address.partition(",")[2]))).duration


def test_what_cannot_be_read_any_more_has_no_player(toy, tmp_path):
    outcome = augment_dataset(toy, ByteModel(), AugmentSettings(samples=5), tmp_path)
    for row in read_json_lines(outcome.folder / "scores.jsonl"):
        (tmp_path / row["clip"]).unlink()
    shown = ShownSamples()
    for row in read_json_lines(outcome.folder / "scores.jsonl"):
        shown.add({**row, "audio": "/not/there.wav"}, Decision(0, ""), None, None)
    assert {(one["clip"], one["rest"]) for one in page_samples(shown, tmp_path)} == {(None, None)}


def test_the_choice_of_samples_does_not_depend_on_their_order():
    rows = [
        {"id": f"toy-{number:08d}-0", "token_ids": [1], "reference": "a", "number": number} for number in range(300)
    ]
    found = []
    for ordered in (rows, rows[::-1]):
        shown = ShownSamples()
        for row in ordered:
            commitment = LabelQuality(row["number"] % 7, 0)
            shown.add(row, Decision(0, "", distance=abs(row["number"] - 100.2)), commitment, "")
        found.append({row["id"]: kinds for row, kinds in shown.rows()})
    assert found[0] == found[1]
    assert sorted(int(name[4:12]) for name, kinds in found[0].items() if "near" in kinds) == [98, 99, 100, 101, 102]
    assert {int(name[4:12]) % 7 for name, kinds in found[0].items() if "over" in kinds} == {6}


def test_a_page_of_long_audio_stays_small(tmp_path):
    rows = [
        ("wort " * 120, write_noise(tmp_path / f"{row}.wav", 60.0, seed=row)) for row in range(3 * SAMPLES_OF_A_KIND)
    ]
    settings = AugmentSettings(samples=len(rows), truncation="uniform", min_seconds=30.0, max_seconds=50.0)
    outcome = augment_dataset(ListDataset("toy", rows), ByteModel(2.0), settings, tmp_path / "out")
    assert 1_000_000 < (outcome.folder / "report.html").stat().st_size < 5_000_000


@pytest.mark.parametrize("truncation", ["beta_decay", "beta_full", "beta_discrete", "uniform"])
@pytest.mark.parametrize("max_seconds", [2.3, 5.0])
def test_the_expected_cuts_are_those_that_are_drawn(truncation, max_seconds):
    # Many cuts of three utterances, one of which ends before max_seconds: a count has a deviation below √n.
    settings = AugmentSettings(truncation=truncation, max_seconds=max_seconds)
    durations, times = [1.7, 4.0, 9.0], 4000
    rng = np.random.default_rng(0)
    drawn = [cut_samples(duration, settings, rng) / 16_000 for duration in durations for _ in range(times)]
    edges = np.arange(1, 20) / 2
    counted = np.histogram(drawn, bins=edges)[0]
    expected = expected_cuts(edges, durations, settings) * times
    assert expected.sum() == pytest.approx(len(drawn))
    assert np.abs(expected - counted).max() < 4 * np.sqrt(times)


def test_the_expected_cuts_stand_beside_the_counts(finished):
    outcome, rows = finished
    cuts = page_of(outcome.folder).data["cuts"]
    assert sum(one["wanted"] for one in cuts) == pytest.approx(len(rows), abs=1)
    assert sum(one["value"] for one in cuts) == len(rows)


def test_a_chart_of_long_cuts_has_few_bins():
    tally = tally_of(*((0.5 + second, 400.0, 1) for second in range(300)))
    cuts = cut_bins({"settings": {}}, tally)
    assert len(cuts) <= 40
    assert sum(one["samples"] for one in cuts) == 300
    assert {one["expected"] for one in cuts} == {None}


def test_settings_model_and_versions_stand_on_the_page(finished):
    outcome, _ = finished
    table = page_of(outcome.folder).settings
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
    assert not page.tags & {"link", "img", "iframe", "object"}
    assert not page.attributes & {"src", "onload", "onerror", "onclick"}


def test_the_command_says_what_differs_from_the_defaults(finished, toy, tmp_path):
    outcome, _ = finished
    assert run_command_line(outcome.manifest) == "simulsa-augment RECIPE.yaml simulsa_samples=45"
    scores = outcome.folder / "scores.jsonl"
    again = relabel(scores, {"simulsa_acceptance": "greedy", "simulsa_keep_empty": False}, tmp_path, lambda *_: None)
    assert run_command_line(again.manifest) == (
        f"simulsa-augment --from-scores {scores} simulsa_samples=45 simulsa_acceptance=greedy simulsa_keep_empty=false"
    )


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
    assert not page.tags & {"img"}
    shown = {one["id"]: "".join(one["texts"]) for one in page.data["samples"]}
    assert shown == {f"toy-{row:08d}-0": text for row, text in enumerate(HOSTILE)}


def test_hostile_names_reasons_and_settings_stay_text(tmp_path):
    name, reason, model = "a<i>&b", "<script>x</script>", {"model": "</code><script>", "<b>": "&amp;"}
    dataset = ListDataset(name, [("Auto", write_noise(tmp_path / "a.wav", 2.0)), reason])
    outcome = augment_dataset(dataset, ByteModel(description=model), AugmentSettings(samples=2), tmp_path / "out")
    page = page_of(outcome.folder)
    assert not page.tags & {"i"}
    assert page.table("reason", "rows") == [[reason, "1"]]
    assert page.data["samples"][0]["id"] == f"{name}-00000000-0"
    table = page.settings
    assert (table["model"], table["<b>"]) == ("</code><script>", "&amp;")
    assert f"Partial samples of {name}" in page.text


def tally_of(*cuts):
    """Decided rows (cut, duration, accepted of 4 tokens)."""
    tally = Tally()
    for number, (cut, duration, accepted) in enumerate(cuts):
        row = {"id": f"toy-{number:08d}-0", "cut_seconds": cut, "duration_seconds": duration}
        row |= {"token_ids": [1, 2, 3, 4], "char_ends": [1, 2, 3, 4], "reference": "abcd", "logprobs": [-0.5] * 4}
        row |= {"clip": "none.wav", "audio": "none.wav"}
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
        {"id": "toy-00000001-0", "cut_seconds": 1, "duration_seconds": 2, "token_ids": [1], "reference": "a"}
        | {"char_ends": [1], "logprobs": [-0.5], "clip": "none.wav", "audio": "none.wav"},
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
    write_augment_report(manifest, tally, [], tmp_path, tmp_path / "report.html")
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
