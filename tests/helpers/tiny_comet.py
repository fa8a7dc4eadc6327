"""Tiny random COMET checkpoints, and comet's own scores for them; run by an interpreter that has unbabel-comet.

    PYTHON tiny_comet.py build FOLDER                 # FOLDER/regression, FOLDER/referenceless, FOLDER/xcomet
    PYTHON tiny_comet.py predict CHECKPOINT INPUT     # prints a JSON list, one score for each line of INPUT

The files are written by comet's, Lightning's and transformers' own classes; the encoder stands inside each checkpoint.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

SEED = 20250923
HIDDEN, HEADS, LAYERS = 32, 2, 2
ENCODER = "encoder"
TEXTS = (
    "Der Mann hat das Auto gekauft. Die Frau liest ein Buch, und das Kind spielt im Garten für die Ärztin.",
    "The man has bought the car. The woman is reading a book, and the child plays in the garden for the doctor.",
)


def build(folder: Path) -> None:
    """Write one checkpoint of each kind."""
    from comet.models import ReferencelessRegression, RegressionMetric, XCOMETMetric

    # What the released checkpoints have: comet knows no "sparsemax_patch" and takes softmax for it.
    by_layer = {"layer_transformation": "sparsemax_patch", "layer_norm": False}
    regression = {"encoder_model": "XLM-RoBERTa", "hidden_sizes": [24, 12], **by_layer}
    xcomet = {**regression, "word_layer": LAYERS}
    _write(RegressionMetric, regression, folder / "regression")
    _write(ReferencelessRegression, regression, folder / "referenceless")
    _write(XCOMETMetric, xcomet, folder / "xcomet")


def predict(checkpoint: Path, lines: list[dict[str, str]]) -> list[float]:
    """Scores by comet's `predict`, each segment by itself, so that nothing is sorted or padded."""
    from comet import load_from_checkpoint

    os.chdir(checkpoint)
    model = load_from_checkpoint("checkpoints/model.ckpt", local_files_only=True)
    return [model.predict([line], batch_size=1, gpus=0, progress_bar=False).scores[0] for line in lines]


def _write(kind: Any, arguments: dict[str, Any], folder: Path) -> None:
    import pytorch_lightning
    import torch
    from pytorch_lightning.core.saving import save_hparams_to_yaml

    torch.manual_seed(SEED)
    _write_encoder(folder / ENCODER)
    os.chdir(folder)
    model = kind(pretrained_model=ENCODER, load_pretrained_weights=False, **arguments)
    _spread(model)
    trainer = pytorch_lightning.Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(folder / "checkpoints" / "model.ckpt", weights_only=True)
    save_hparams_to_yaml(folder / "hparams.yaml", model.hparams)


def _write_encoder(folder: Path) -> None:
    from transformers import XLMRobertaConfig

    tokenizer = _tokenizer()
    tokenizer.save_pretrained(folder)
    XLMRobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=2 * HIDDEN,
        max_position_embeddings=130,
        type_vocab_size=1,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    ).save_pretrained(folder)


def _tokenizer() -> Any:
    """A unigram tokenizer with XLM-R's special tokens, numbers and pattern <s> A </s></s> B </s>."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import XLMRobertaTokenizerFast

    # Listed, not trained: tokenizers' trainer gives another vocabulary each time.
    special = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    words = sorted({"\u2581" + word.strip(".,") for text in TEXTS for word in text.split()})
    letters = sorted({"\u2581", *"".join(TEXTS)} - {" "})
    # Every other word is left to its letters, so that there are words of several tokens.
    pieces = [*((word, -5.0) for word in words[::2]), *((letter, -8.0) for letter in letters)]
    unigram = Tokenizer(models.Unigram([*special, *pieces, ("<mask>", 0.0)], unk_id=3))
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return XLMRobertaTokenizerFast(tokenizer_object=unigram, model_max_length=128)


def _spread(model: Any) -> None:
    """Weights so large that a wrong order or a wrong segment moves the scores far beyond rounding."""
    import torch

    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.normal_(std=1.0 if "embeddings" in name else weight.shape[-1] ** -0.5)
            elif "scalar_parameters" in name:
                weight.normal_()
        # Scores within 0…1, as trained ones: XCOMET cuts off what is above 1.
        last = model.estimator.ff[-1]
        last.weight.mul_(0.3)
        last.bias.fill_(0.5)


def main(arguments: list[str]) -> None:
    """Do what the module says."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    if arguments[0] == "build":
        build(Path(arguments[1]).absolute())
    else:
        lines = [json.loads(line) for line in Path(arguments[2]).read_text(encoding="utf-8").splitlines()]
        print(json.dumps(predict(Path(arguments[1]).absolute(), lines)))


if __name__ == "__main__":
    main(sys.argv[1:])
