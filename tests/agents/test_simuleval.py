"""SimulEval itself decodes with our agent: its log has the text and the delays of our evaluation."""

import json

import pytest
from helpers.files import read_json, read_json_lines
from helpers.other_tools import run_tool, unpack

from simulsa_plugin.commands.evaluate import main

pytestmark = [pytest.mark.other_tools, pytest.mark.filterwarnings("ignore")]
UTTERANCES, CHUNK = 60, "simulsa_chunks=500"
CELLS = {
    "rollback_k500_b3": ["simulsa_policies=rollback", "simulsa_rollbacks=3"],
    "confidence_k500_b0_confidence_threshold0.999": [
        "simulsa_policies=confidence",
        "simulsa_confidence_threshold=0.999",
    ],
    "local_agreement_k500_agreement_n2": ["simulsa_policies=local_agreement"],
}
ALL_CELLS = (
    "simulsa_policies=rollback,confidence,local_agreement",
    "simulsa_rollbacks=3",
    "simulsa_confidence_threshold=0.999",
)


@pytest.fixture(scope="module")
def tool(tmp_path_factory):
    return unpack("simuleval", tmp_path_factory.mktemp("simuleval"))


@pytest.fixture(scope="module")
def evaluate(tmp_path_factory):
    """Decodes the first utterances of the embedded test set with keys: the result folder."""
    done = {}

    def evaluate(*keys):
        if keys not in done:
            done[keys] = tmp_path_factory.mktemp("result") / "out"
            words = [CHUNK, f"simulsa_eval_samples={UTTERANCES}", *keys]
            assert main([*words, "--out", str(done[keys])]) == 0
        return done[keys]

    return evaluate


def simuleval(tool, cell, work, *words, segment="500"):
    """Rows of the log that SimulEval writes when it decodes the utterances of a cell, and its table."""
    assert main(["convert", str(cell), "--to", "lists", "--out", str(work)]) == 0
    lists = ["--source", str(work / "source.txt"), "--target", str(work / "target.txt")]
    agent = ["simuleval.cli", "--agent-class", "simulsa_plugin.agents.SimulEvalAgent", "--no-progress-bar"]
    printed = run_tool(tool, *agent, *lists, "--source-segment-size", segment, "--output", str(work / "out"), *words)
    return read_json_lines(work / "out" / "instances.log"), printed


def columns(rows, *names):
    return [tuple(row[name] for name in names) for row in rows]


@pytest.mark.parametrize("cell", CELLS)
def test_text_and_delays_are_those_of_evaluation(tool, evaluate, cell, tmp_path):
    result = evaluate(*ALL_CELLS)
    theirs, printed = simuleval(tool, result / cell, tmp_path, "--keys", CHUNK, *CELLS[cell])
    ours = read_json_lines(result / cell / "instances.log")
    names = ("prediction", "delays", "source_length", "reference")
    assert len(ours) == UTTERANCES
    assert columns(theirs, *names) == columns(ours, *names)
    cells = read_json(result / "scores.json")["cells"]
    (scores,) = [one for one in cells if cell.startswith(f"{one['policy']}_k500")]
    table = dict(zip(*(line.split() for line in printed.strip().splitlines()[-2:]), strict=True))
    for name in ("BLEU", "LAAL", "AL", "DAL"):
        assert float(table[name]) == pytest.approx(scores[name], abs=6e-4), name


def test_characters_are_those_of_evaluation_except_spaces(tool, evaluate, tmp_path):
    """SimulEval 1.1.4 leaves spaces out where it counts characters."""
    keys = ["simulsa_unit=char", "simulsa_policies=local_agreement"]
    cell = evaluate(*keys) / "local_agreement_k500_agreement_n2"
    theirs, _ = simuleval(tool, cell, tmp_path, "--eval-latency-unit", "char", "--keys", CHUNK, *keys)
    ours = read_json_lines(cell / "instances.log")
    assert [row["prediction"] for row in theirs] == [row["prediction"].replace(" ", "") for row in ours]
    assert [row["delays"] for row in theirs] == [
        [delay for char, delay in zip(row["prediction"], row["delays"], strict=True) if char != " "] for row in ours
    ]


IN_TURNS = """
import json, sys
from argparse import Namespace
import soundfile
from simuleval.data.segments import EmptySegment, SpeechSegment, segment_from_json_string
from simulsa_plugin.agents import SimulEvalAgent

agent = SimulEvalAgent(Namespace(recipe=None, keys=sys.argv[2:]))
audios = [soundfile.read(path, dtype="float32")[0].tolist() for path in open(sys.argv[1]).read().splitlines()[:4]]
states, words = [agent.build_states() for _ in audios], [[] for _ in audios]
for start in range(0, max(map(len, audios)), 8000):
    for audio, state, said in zip(audios, states, words):
        if start >= len(audio):
            continue
        part, last = audio[start:start + 8000], start + 8000 >= len(audio)
        segment = SpeechSegment(0, part, last, sample_rate=16000, tgt_lang=None)
        answer = agent.pushpop(segment_from_json_string(segment.json()), state)
        said.append(segment_from_json_string(answer.json()).content or "")
empty = agent.build_states()
end = agent.pushpop(EmptySegment(finished=True), empty)
print(json.dumps([[" ".join(said).split() for said in words], end.content, end.finished]))
"""


def test_states_of_several_speakers_are_decoded_in_turns_as_a_service_gets_them(tool, evaluate, tmp_path):
    keys = CELLS["local_agreement_k500_agreement_n2"]
    cell = evaluate(*ALL_CELLS) / "local_agreement_k500_agreement_n2"
    assert main(["convert", str(cell), "--to", "lists", "--out", str(tmp_path)]) == 0
    (tool / "decode_in_turns.py").write_text(IN_TURNS)
    printed = run_tool(tool, "decode_in_turns", str(tmp_path / "source.txt"), CHUNK, *keys)
    said, content, finished = json.loads(printed.splitlines()[-1])
    ours = read_json_lines(cell / "instances.log")
    assert said == [row["prediction"].split() for row in ours[: len(said)]]
    assert (content, finished) == ("", True)  # an utterance without audio


def test_a_mistake_is_one_line(tool):
    words = ["simuleval.cli", "--agent-class", "simulsa_plugin.agents.SimulEvalAgent"]
    with pytest.raises(AssertionError) as failure:
        run_tool(tool, *words, "--keys", "simulsa_chunks=500", "simulsa_rollbacks=0,3", "simulsa_policies=rollback")
    assert "Traceback" not in str(failure.value)
    assert "simulsa_plugin: error: One cell is decoded, and the recipe has 2:" in str(failure.value)
