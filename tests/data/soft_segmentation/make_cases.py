"""Write cases.json: alignments computed by OmniSTEval 0.1.10, where it is installed.

pip install omnisteval==0.1.10 && python tests/data/soft_segmentation/make_cases.py
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from omnisteval.alignment import Word, _process_single_recording

ALPHABETS = ("ab", "abc.,", "abcdefgh.-ー")


def random_case(seed: int) -> dict:
    """Draw references of some segments, and a translation that repeats part of them."""
    rng = random.Random(seed)
    characters, alphabet = seed % 3 == 0, rng.choice(ALPHABETS)

    def token() -> str:
        length = 1 if characters or rng.random() < 0.5 else rng.randint(1, 5)
        return "".join(rng.choice(alphabet) for _ in range(length))

    references = [[token() for _ in range(rng.randint(0, 6))] for _ in range(rng.randint(1, 5))] + [[token()]]
    flat = [each for tokens in references for each in tokens]
    hypothesis = [token() if rng.random() < 0.5 else rng.choice(flat) for _ in range(rng.randint(0, 20))]
    return {"characters": characters, "references": references, "hypothesis": hypothesis}


def assign(case: dict) -> list[int | None]:
    """Return OmniSTEval's segment of each token of the translation."""
    words = [Word(token) for token in case["hypothesis"]]
    reference = [Word(token, seq_id=index) for index, tokens in enumerate(case["references"]) for token in tokens]
    _process_single_recording((0, reference, words, case["characters"]))
    return [word.seq_id for word in words]


if __name__ == "__main__":
    cases = [case | {"segments": assign(case)} for case in map(random_case, range(150))]
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    Path(__file__).with_name("cases.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
