"""A corpus in the form of CoVoST 2 on disk, spoken by the embedded generator: English speech, German translations.

    python tests/make_covost2.py DIR [ROWS [TEST_ROWS [TARGET]]]

DIR then holds what Common Voice and CoVoST 2 put there: `validated.tsv`, `clips/*.mp3` (48 kHz, mono) and
`covost_v2.en_de.tsv`; TARGET names the table after another language, and `zh-CN`, for which the recipe for Chinese
looks, writes the translations in Chinese characters, without spaces: one for every letter.
"""

import sys
from pathlib import Path

import soundfile

from simulsa_plugin.audio.resampling import resample_waveform
from simulsa_plugin.audio.samples import SAMPLE_RATE
from simulsa_plugin.demo.corpus import iterate_utterances

MP3_RATE = 48_000  # as Common Voice 4 has it
COMMON_VOICE_COLUMNS = ("client_id", "path", "sentence", "up_votes", "down_votes", "age", "gender", "accent")


def in_hanzi(text):
    """Write a text in Chinese characters that mean nothing, as long as it."""
    return "".join(chr(0x4E00 + ord(letter) % 0x100) for letter in text if letter.isalpha()) + "。"


def write_covost2(folder, rows=16, test_rows=4, target="de"):
    """Write the corpus; returns [(file name, translation, split)] in the order of the table."""
    folder = Path(folder)
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    sentences, translations = [], []
    for split, count in (("train", rows), ("test", test_rows)):
        for utterance in iterate_utterances(split, count, processes=1):
            name = f"common_voice_en_{len(translations):08d}.mp3"
            soundfile.write(
                folder / "clips" / name, resample_waveform(utterance.waveform, SAMPLE_RATE, MP3_RATE), MP3_RATE
            )
            speaker = f"speaker{len(translations) % 3}"
            sentences.append((speaker, name, utterance.sentence.source_text, 2, 0, "", "", ""))
            text = utterance.sentence.target_text
            translations.append((name, in_hanzi(text) if target == "zh-CN" else text, split))
    _write_tsv(folder / "validated.tsv", COMMON_VOICE_COLUMNS, sentences)
    _write_tsv(folder / f"covost_v2.en_{target}.tsv", ("path", "translation", "split"), translations)
    return translations


def _write_tsv(path, header, rows):
    lines = ["\t".join(map(str, row)) for row in (header, *rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_covost2(sys.argv[1], *map(int, sys.argv[2:4]), *sys.argv[4:5])
