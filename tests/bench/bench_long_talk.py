"""One long talk: quality and delay of every ten minutes, time and memory of decoding it.

    python tests/bench/bench_long_talk.py --minutes 60 --model saves/simulsa

Neither should drift: the last ten minutes are as good and as fast as the first. Memory is that of a short talk.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

from simulsa_plugin.api import evaluate_recipe
from simulsa_plugin.demo.talks import write_demo_talks
from simulsa_plugin.logs.omnisteval import RESEGMENTED
from simulsa_plugin.logs.reader import Log
from simulsa_plugin.logs.segment_files import REFERENCES, SEGMENTS, read_segments
from simulsa_plugin.metrics.corpus_scores import score_records

TALK = "demo_hour"


def main():
    """Speak the talk, decode it, and print the scores of its parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--part", type=float, default=10, help="minutes that are scored together")
    parser.add_argument("--model", default="simulsa-demo")
    parser.add_argument("--form", choices=("window", "vad"), default="window")
    parser.add_argument("--threshold", type=float, default=0.995, help="of the policy confidence")
    parser.add_argument("--folder", type=Path, help="keep the talk and the result here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        write_demo_talks(folder / "talk", TALK, minutes=(options.minutes,))
        out, start = folder / "result", time.process_time()
        evaluate_recipe.evaluate_recipe(None, _keys(options, folder / "talk"), out)
        seconds = time.process_time() - start
        (cell,) = (cell for cell in json.loads((out / "scores.json").read_text())["cells"] if cell["chunk_ms"])
        segments = [one.segment for one in read_segments(out / SEGMENTS, out / REFERENCES)]
        records = list(Log(out / cell["folder"] / RESEGMENTED).records())
    for part in range(int(-(-options.minutes // options.part))):
        chosen = [
            record
            for record, segment in zip(records, segments, strict=True)
            if part <= segment.offset_seconds / (60 * options.part) < part + 1
        ]
        scores = score_records(chosen).corpus
        print(
            f"{part * options.part:4.0f}–{(part + 1) * options.part:.0f} min: {len(chosen):4} segments, "
            f"BLEU {scores['BLEU']:6.2f}, LongLAAL {scores['LongLAAL']:5.0f} ms, LongYAAL {scores['LongYAAL']:5.0f} ms"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"whole talk: BLEU {cell['BLEU']:.2f}, LongYAAL {cell['LongYAAL']:.0f} ms")
    print(f"{seconds:.0f} s of processor time, of which speech detection and decoding in 2 cells; peak {peak:.0f} MiB")


def _keys(options, folder):
    return {
        "model_name_or_path": options.model,
        "dataset_dir": str(folder),
        "eval_dataset": TALK,
        "simulsa_longform": options.form,
        "simulsa_policies": ["confidence"],
        "simulsa_confidence_threshold": [options.threshold],
        "simulsa_chunks": [500],
    }


if __name__ == "__main__":
    main()
