"""What every policy shows and commits, worked out on paper with a model that says one byte per 100 ms heard."""

import numpy as np
import pytest
from helpers.fakes import ASK, ClockModel

from simulsa_plugin.errors import UsageError
from simulsa_plugin.model.values import Continuation
from simulsa_plugin.streaming.catalogue import PolicyOptions, make_policies
from simulsa_plugin.streaming.engine import DecodingSetting, choose_alignment_heads, decode_batched
from simulsa_plugin.streaming.policies import (
    AgreementOrConfidence,
    Attention,
    Confidence,
    HoldN,
    LocalAgreement,
    Offline,
    Retranslation,
    Rollback,
    WaitK,
)
from simulsa_plugin.streaming.steps import BatchLimits, StreamSource


def run(policy, milliseconds=2000, chunk=500, model=None):
    """(shown, committed) after every step, as text."""
    source = StreamSource(ASK, np.zeros(milliseconds * 16, dtype=np.float32))
    ((session,),) = decode_batched(
        model or ClockModel(), [source], [DecodingSetting(policy, chunk)], BatchLimits(99, 4)
    )
    return [
        (bytes(step.token_ids).decode(errors="replace"), bytes(step.token_ids[: step.committed_tokens]).decode())
        for step in session.steps
    ]


def test_confidence_stops_before_the_first_unsure_token_and_says_the_rest_at_the_end():
    # The model gives `l` and `?` 0.5: «guten Tag » is sure, and «liebe Welt» comes with the end.
    assert run(Confidence(0.9)) == [("guten", "guten"), ("guten Tag ", "guten Tag "), ("guten Tag ", "guten Tag "),
                                    ("guten Tag liebe Welt",) * 2]  # fmt: skip
    assert run(Confidence(0.4))[2] == ("guten Tag liebe",) * 2


def test_a_window_withholds_what_comes_just_before_the_unsure_token():
    # As above, less two bytes: what is committed is followed by two more that are sure.
    assert run(Confidence(0.9, 3)) == [("gut", "gut"), ("guten Ta",) * 2, ("guten Ta",) * 2,
                                       ("guten Tag liebe Welt",) * 2]  # fmt: skip
    assert run(Confidence(0.9, 1)) == run(Confidence(0.9))


def test_hold_n_commits_as_rollback_does_and_shows_no_more():
    held, rolled = run(HoldN(3)), run(Rollback(3))
    assert [committed for _, committed in held] == [committed for _, committed in rolled]
    assert held[:2] == [("gu", "gu"), ("guten T", "guten T")]
    assert rolled[0] == ("guten", "gu")


def test_local_agreement_commits_what_two_outputs_begin_with_alike():
    # «gute?», «guten Tag?», «guten Tag lieb?»: alike are «gute», «guten Tag», and the end says all.
    assert run(LocalAgreement(2), model=ClockModel(regret=True)) == [
        ("", ""), ("gute", "gute"), ("guten Tag", "guten Tag"), ("guten Tag liebe Welt",) * 2]  # fmt: skip
    assert run(LocalAgreement(3), model=ClockModel(regret=True))[:3] == [("", ""), ("", ""), ("gute", "gute")]
    assert run(LocalAgreement(1)) == run(Rollback(0))


def test_agreement_or_confidence_commits_what_either_of_them_would():
    # «gute?», «guten Tag?», «guten Tag lieb?»: sure of all but `?` and `l`, which two outputs must agree on.
    model = ClockModel(regret=True, text="guten Tag liebe Welt, liebes Kind")
    assert run(AgreementOrConfidence(2, 0.9), 3300, model=model) == [
        ("gute", "gute"), ("guten Tag",) * 2, ("guten Tag ",) * 2, ("guten Tag liebe We",) * 2,
        ("guten Tag liebe Welt, ",) * 2, ("guten Tag liebe Welt, liebes ",) * 2,
        ("guten Tag liebe Welt, liebes Kind",) * 2]  # fmt: skip
    assert run(AgreementOrConfidence(2, 1.1)) == run(LocalAgreement(2))
    assert run(AgreementOrConfidence(3, 0.4)) == run(LocalAgreement(1))


def test_agreement_does_not_take_back_what_was_sure():
    class Changing(ClockModel):
        """Says something else at every step after what it must begin with, and is sure of it at the second alone."""

        def generate(self, prompts, requests):
            answers = super().generate(prompts, requests)
            number = len(self.batches)
            return [Continuation((b"xyz"[number % 3],) * 3, False, (1.0 if number == 2 else 0.1,) * 3) for _ in answers]

    assert [committed for _, committed in run(AgreementOrConfidence(2, 0.9), 2500, model=Changing())] == [
        "", "zzz", "zzz", "zzz", "zzzzzz"]  # fmt: skip


def test_a_policy_is_told_with_what_probability_each_token_was_said():
    class Noting(Rollback):
        def committed(self, session, output):
            seen.append((output.text(), output.probabilities))
            return super().committed(session, output)

    seen = []
    run(Noting(3), 1500, model=ClockModel(regret=True))
    # The second output begins with «gu», which was said at the first step.
    assert seen == [("gute?", (1, 1, 1, 1, 0.5)), ("guten Tag?", (1,) * 9 + (0.5,))]


def test_attention_stops_before_what_is_said_about_the_end_of_the_audio():
    # The byte of the last 100 ms is said about the end: after 500 ms it lies 0 ms behind, the one before 100 ms.
    assert run(Attention(1)) == [("gute",) * 2, ("guten Tag",) * 2, ("guten Tag lieb",) * 2,
                                 ("guten Tag liebe Welt",) * 2]  # fmt: skip
    assert run(Attention(250))[:2] == [("gu", "gu"), ("guten T", "guten T")]
    assert run(Attention(5000))[2:] == [("", ""), ("guten Tag liebe Welt",) * 2]


def test_heads_are_those_of_the_policy_or_found_once():
    model, found = ClockModel(), ((0, 1000), (0, 2000))
    sources = [StreamSource(ASK, np.zeros(16 * ms, dtype=np.float32)) for _, ms in found]
    cells = [DecodingSetting(Attention(ms), chunk) for ms in (160, 320) for chunk in (500, 700)]
    assert choose_alignment_heads(model, cells, lambda: sources) == found
    named = [DecodingSetting(Attention(160, ((7, 1),)), 500), DecodingSetting(Rollback(3), 500)]
    assert choose_alignment_heads(model, named, lambda: pytest.fail("nothing is to be found")) == ((7, 1),)
    assert choose_alignment_heads(model, named[1:], lambda: pytest.fail("nothing is to be found")) == ()
    assert model.watched == [found, ((7, 1),)]
    with pytest.raises(UsageError, match="give all policies of one evaluation the same"):
        choose_alignment_heads(model, [*cells, *named], lambda: sources)


def test_wait_k_writes_a_word_a_chunk_after_k_chunks():
    # After 1000 ms (two chunks) one word; the space after it is part of it, the next word is not begun.
    assert run(WaitK(2)) == [("", ""), ("guten ", "guten "), ("guten Tag ",) * 2, ("guten Tag liebe Welt",) * 2]


def test_wait_k_counts_characters_where_the_unit_is_a_character():
    model = ClockModel(text="你好吗啊")  # 12 bytes: 5, 10 and 12 of them after 500, 1000 and 1200 ms
    assert run(WaitK(1, "char"), 1200, model=model) == [("你", "你"), ("你好", "你好"), ("你好吗啊",) * 2]


def test_retranslation_keeps_nothing_and_commits_at_the_end():
    model = ClockModel(regret=True)
    assert run(Retranslation(), model=model) == [
        ("gute?", ""), ("guten Tag?", ""), ("guten Tag lieb?", ""), ("guten Tag liebe Welt",) * 2]  # fmt: skip
    assert [prefix for _, _, prefix in model.asked] == [()] * 4
    assert [bytes(draft).decode() for draft in model.drafts] == ["", "gute?", "guten Tag?", "guten Tag lieb?"]


def test_what_was_taken_back_is_the_next_draft():
    model = ClockModel(regret=True)
    run(Rollback(3), model=model)
    # y = «gute?», c = 2: the next step must begin with «gu», and tries «te?».
    assert [bytes(draft).decode() for draft in model.drafts][:2] == ["", "te?"]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_an_utterance_is_read_once_at_each_time(batch_size):
    model = ClockModel()
    cells = [DecodingSetting(Rollback(b), k) for k in (500, 1000, 1500) for b in (0, 3)] + [
        DecodingSetting(Retranslation(), 500)
    ]
    sources = [StreamSource(ASK, np.zeros(ms * 16, dtype=np.float32)) for ms in (1700, 2600)]
    decode_batched(model, sources, cells, BatchLimits(99, batch_size))
    times = {500, 1000, 1500, 1700}, {500, 1000, 1500, 2000, 2500, 2600}
    assert sorted(model.read_samples) == sorted(16 * time for found in times for time in found)


def test_the_budget_bounds_the_tokens_of_a_batch():
    model = ClockModel(bytes_per_token=10)
    sources = [StreamSource(ASK, np.zeros(16_000, dtype=np.float32))] * 6
    # At 500 ms a prompt has 500 tokens, with 9 new ones 509: two sessions fit into 12,000 bytes, three do not.
    decode_batched(model, sources, [DecodingSetting(Rollback(0), 500)], BatchLimits(9, 64, memory_bytes=12_000))
    assert max(model.batches) == 2


def test_logits_count_in_the_budget():
    model = ClockModel(bytes_per_token=10, bytes_per_session=1000)
    sources = [StreamSource(ASK, np.zeros(16_000, dtype=np.float32))] * 6
    decode_batched(model, sources, [DecodingSetting(Rollback(0), 500)], BatchLimits(9, 64, memory_bytes=12_179))
    assert max(model.batches) == 1  # two take 12,180
    decode_batched(model, sources, [DecodingSetting(Rollback(0), 500)], BatchLimits(9, 64, memory_bytes=12_180))
    assert max(model.batches) == 2


def test_the_budget_bounds_the_audio_that_is_read_at_once():
    class Reading(ClockModel):
        def encode_prompts(self, prompts, waveforms):
            self.widths = [*getattr(self, "widths", []), len(waveforms)]
            return super().encode_prompts(prompts, waveforms)

    sources = [StreamSource(ASK, np.zeros(16_000, dtype=np.float32))] * 7
    found = {}
    for memory in (48_000, 10_000, 1e9):
        model = Reading(bytes_per_sample=2.0)
        found[memory] = [
            [session.outputs for session in cell]
            for cell in decode_batched(
                model, sources, [DecodingSetting(Offline(), None)], BatchLimits(9, 64, memory_bytes=memory)
            )
        ]
        # A second is 16,000 samples of 2 bytes: one fits into 48,000 bytes; in 10,000 one is allowed all the same.
        assert model.widths == ([7] if memory == 1e9 else [1] * 7)
    model = Reading(bytes_per_sample=2.0)
    decode_batched(model, sources, [DecodingSetting(Offline(), None)], BatchLimits(9, 64, memory_bytes=96_000))
    assert model.widths == [3, 3, 1]
    assert found[48_000] == found[10_000] == found[1e9]


def test_a_policy_of_ones_own_comes_by_its_dotted_name(tmp_path, monkeypatch):
    lines = [
        "from simulsa_plugin.streaming.policies import Policy",
        "",
        "class Half(Policy):",
        "    name = 'half'",
        "",
        "    def committed(self, session, output):",
        "        return max(session.committed, len(output) // 2)",
    ]
    (tmp_path / "own_policy.py").write_text("\n".join(lines) + "\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (half,) = make_policies("own_policy.Half", PolicyOptions())
    assert [committed for _, committed in run(half)] == ["gu", "guten", "guten T", "guten Tag liebe Welt"]
    with pytest.raises(UsageError, match=r"own_policy\.Third"):
        make_policies("own_policy.Third", PolicyOptions())
    with pytest.raises(UsageError, match="no_such_module"):
        make_policies("no_such_module.Thing", PolicyOptions())


@pytest.mark.parametrize("count", ["x", None, 1.5, float("nan"), -1, 10**9])
def test_a_policy_that_commits_what_is_not_a_number_of_tokens_is_one_line(count):
    class Odd(Rollback):
        def committed(self, session, output):
            return count

    with pytest.raises(UsageError, match=r"The policy rollback commits .* and shows .* of .* tokens; allowed"):
        run(Odd(0))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sys.exit", "sys.exit, a builtin_function_or_method; expected a subclass of"),
        ("os.abort", "os.abort, a builtin_function_or_method; expected a subclass of"),
        ("builtins.list", "builtins.list, the class list; expected a subclass of"),
        ("threading.Thread", "the class Thread; expected a subclass of simulsa_plugin.streaming.policies.Policy"),
        ("sys.path", "sys.path, a list; expected a subclass of"),
        ("random.random", "random.random, a builtin_function_or_method; expected a subclass of"),
        ("gc.callbacks", "gc.callbacks, a list; expected a subclass of"),
        ("exiting.policy", r"exiting.policy, which fails when called without arguments \(SystemExit: 0\)"),
        ("exiting.polcy", r"exiting.polcy, which exiting does not have. Correct the name. Did you mean policy\?"),
        ("no_such_module.policy", r"\(ModuleNotFoundError: .*\). Start from the folder that holds the module"),
        ("exits.policy", r"exits.policy, which cannot be imported \(SystemExit: 0\). Fix that module"),
    ],
)
def test_what_is_not_there_to_make_policies_is_refused_and_not_called_where_it_can_be_known(
    tmp_path, monkeypatch, name, said
):
    (tmp_path / "exiting.py").write_text("import sys\ndef policy():\n    sys.exit(0)\n", encoding="utf-8")
    (tmp_path / "exits.py").write_text("import sys\nsys.exit(0)\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=said):
        make_policies(name, PolicyOptions())


def test_several_values_make_several_policies():
    options = PolicyOptions(confidence_thresholds=(0.5, 0.9), rollbacks=(0, 3, 5))
    assert make_policies("confidence", options) == [Confidence(0.5), Confidence(0.9)]
    windows = PolicyOptions(confidence_thresholds=(0.5,), confidence_windows=(1, 3), agreement_n=(2, 3))
    assert make_policies("confidence", windows) == [Confidence(0.5), Confidence(0.5, 3)]
    attention = PolicyOptions(attention_ms=(160, 320), attention_heads=((3, 0),))
    assert make_policies("attention", attention) == [Attention(160, ((3, 0),)), Attention(320, ((3, 0),))]
    assert make_policies("agreement_or_confidence", windows) == [
        AgreementOrConfidence(2, 0.5), AgreementOrConfidence(3, 0.5)]  # fmt: skip
    assert make_policies("rollback", options) == [Rollback(0), Rollback(3), Rollback(5)]
