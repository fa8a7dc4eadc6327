"""Rows of long recordings: their reference segments, from the file that LLaMA-Factory loads without them."""

import json

import pytest
from offline_data import ASK, SHAREGPT, load, register, turns, write_rows

from simulsa_plugin.demo.talks import TALKS_NAME, write_demo_talks
from simulsa_plugin.errors import DatasetError
from simulsa_plugin.llamafactory.data.segments_column import parse_segments
from simulsa_plugin.segments import ReferenceSegment


def row(segments=None, **more):
    column = {} if segments is None else {"segments": segments}
    return {"messages": turns(ASK, "Eins. Zwei."), "audios": ["wav/0.wav"], **column, **more}


def span(offset, duration=1.0, reference="Ja."):
    return {"offset": offset, "duration": duration, "reference": reference}


def load_rows(folder, rows, name="a.jsonl", text=None):
    if text is None:
        write_rows(folder / name, rows)
    else:
        (folder / name).write_text(text, encoding="utf-8")
    register(folder, {"a": SHAREGPT | {"file_name": name}})
    (dataset,) = load(folder, "a")
    return dataset


def test_segments_are_sorted_by_offset_and_keep_their_values(folder):
    rows = [row([span(4.25, 0.5, "Zwei."), span(0, 2, "„Eins“\u2028.")]), row([span(1.5)])]
    dataset = load_rows(folder, rows)
    assert dataset.sample(0).segments == (
        ReferenceSegment(0.0, 2.0, "„Eins“\u2028."),
        ReferenceSegment(4.25, 0.5, "Zwei."),
    )
    assert dataset.sample(1).segments == (ReferenceSegment(1.5, 1.0, "Ja."),)


def test_segments_that_overlap_are_those_of_the_corpus_and_stay(folder):
    dataset = load_rows(folder, [row([span(0.0, 9.0), span(2.0, 1.0)])])
    assert [one.offset_seconds for one in dataset.sample(0).segments] == [0.0, 2.0]


def test_rows_without_segments_stand_beside_others_and_blank_lines_count_for_nothing(folder):
    lines = [json.dumps(row()), "", json.dumps(row([span(3.0)])), "  ", json.dumps(row([]))]
    dataset = load_rows(folder, [], text="\n".join(lines) + "\n")
    assert [len(dataset.sample(number).segments) for number in range(3)] == [0, 1, 0]


@pytest.mark.parametrize("indent", [None, 2])
def test_a_file_that_is_one_list_of_rows_has_them_too(folder, indent):
    rows = [row([span(2.0)]), row([span(1.0), span(0.5)])]
    dataset = load_rows(folder, [], name="a.json", text=json.dumps(rows, indent=indent))
    assert [len(dataset.sample(number).segments) for number in range(2)] == [1, 2]


def test_ids_stay_beside_segments(folder):
    dataset = load_rows(folder, [row([span(0.0)], id="ted_1")])
    assert (dataset.sample(0).source_id, len(dataset.sample(0).segments)) == ("ted_1", 1)


def test_talks_of_the_embedded_corpus_are_read_as_they_were_written(folder):
    write_demo_talks(folder, minutes=(0.2,))
    (dataset,) = load(folder, TALKS_NAME)
    written = json.loads((folder / f"{TALKS_NAME}.jsonl").read_text(encoding="utf-8"))["segments"]
    assert dataset.sample(0).segments == tuple(
        ReferenceSegment(one["offset"], one["duration"], one["reference"]) for one in written
    )


LIST = 'a list of {"offset": seconds, "duration": seconds, "reference": text}.'
ONE = '{"offset": seconds, "duration": seconds, "reference": text}.'


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("Ja.", f'F: `segments` is "Ja."; expected {LIST}'),
        ({"offset": 1}, f"F: `segments` is an object; expected {LIST}"),
        (3, f"F: `segments` is 3; expected {LIST}"),
        ([span(0), None], f"F, segment 2 is null; expected {ONE}"),
        ([[0, 1, "Ja."]], f"F, segment 1 is a list; expected {ONE}"),
        (
            [{"duration": 1, "reference": "Ja."}],
            "F, segment 1: `offset` is missing; expected seconds, a number from 0.",
        ),
        (
            [span(0, reference=None)],
            "F, segment 1: `reference` is null; expected text, the translation of the segment.",
        ),
        ([{"offset": 0, "duration": 1}], "F, segment 1: `reference` is missing; expected text, the translation of the"),
        ([span(0, reference=["Ja."])], "F, segment 1: `reference` is a list; expected text"),
        ([span("1.0")], 'F, segment 1: `offset` is "1.0"; expected seconds, a number from 0.'),
        ([span(True)], "F, segment 1: `offset` is true; expected seconds"),
        ([span(-0.01)], "F, segment 1: `offset` is -0.01; expected seconds"),
        ([span(float("nan"))], "F, segment 1: `offset` is NaN; expected seconds"),
        ([span(0, float("inf"))], "F, segment 1: `duration` is Infinity; expected seconds"),
        ([span(0, 10**400)], f"F, segment 1: `duration` is 1{59 * '0'}…; expected seconds"),
        ([span(0, {"a": 1})], "F, segment 1: `duration` is an object; expected seconds"),
        ([span("x" * 5000)], f'F, segment 1: `offset` is "{59 * "x"}…; expected seconds'),
    ],
)
def test_what_is_no_segment_is_one_line_with_its_place_and_what_is_allowed(value, said):
    with pytest.raises(DatasetError) as caught:
        parse_segments(value, "F")
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_the_file_and_the_row_are_named_before_anything_is_decoded(folder):
    dataset = load_rows(folder, [row([span(0.0)]), row([span(0.0, -1.0)])])
    with pytest.raises(DatasetError) as caught:
        dataset.sample(0)
    assert str(caught.value).startswith(f"{folder / 'a.jsonl'}, row 2, segment 1: `duration` is -1.0; expected")


def test_a_column_of_that_name_means_nothing_where_rows_are_utterances(folder):
    # Transcripts of recognisers have one: start, end and text.
    dataset = load_rows(folder, [row([{"start": 0.0, "end": 1.0, "text": "yes"}])])
    assert dataset.without_segments().sample(0).segments == ()
    with pytest.raises(DatasetError, match=r"row 1, segment 1: `offset` is missing"):
        dataset.sample(0)


def test_rows_of_which_only_some_are_loaded_are_refused_where_they_have_segments(folder):
    write_rows(folder / "a.jsonl", [row([span(0.0)]), row([span(0.0)])])
    register(folder, {"a": SHAREGPT | {"file_name": "a.jsonl"}})
    (dataset,) = load(folder, "a")
    write_rows(folder / "a.jsonl", [row([span(0.0)])])  # changed since it was loaded
    with pytest.raises(DatasetError, match=r"a\.jsonl has 1 rows, some with `segments`, and LLaMA-Factory loads 2: "):
        dataset.sample(0)


@pytest.mark.parametrize("depth", [100_000])
def test_nesting_without_end_is_one_line(folder, depth):
    path = folder / "a.jsonl"
    write_rows(path, [row([span(0.0)])])
    register(folder, {"a": SHAREGPT | {"file_name": "a.jsonl"}})
    (dataset,) = load(folder, "a")
    path.write_text(f'{{"segments": {"[" * depth}\n', encoding="utf-8")
    with pytest.raises(DatasetError, match=r"a\.jsonl, line 1: not valid JSON"):
        dataset.sample(0)


def test_a_broken_line_is_named_by_its_number_in_the_file_and_its_column(folder):
    path = folder / "a.jsonl"
    write_rows(path, [row([span(0.0)])])
    register(folder, {"a": SHAREGPT | {"file_name": "a.jsonl"}})
    (dataset,) = load(folder, "a")
    path.write_text('\n{"segments": ]\n', encoding="utf-8")
    with pytest.raises(DatasetError, match=r"a\.jsonl, line 2: not valid JSON \(Expecting value at column 14\)"):
        dataset.sample(0)
