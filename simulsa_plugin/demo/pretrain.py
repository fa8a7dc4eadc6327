"""Make the packaged checkpoint again: `python -m simulsa_plugin.demo.pretrain --out FOLDER`.

A Qwen2-Audio of two million parameters, trained from random weights on whole utterances only. It is the offline model
that SimulSA starts from. Corpus, tokenizer and weights all come from this one command.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from simulsa_plugin.demo.corpus import SPLITS, WINDOW_SECONDS, DemoUtterance, iterate_utterances
from simulsa_plugin.demo.grammar import PROMPT

MEL_BINS, HOP = 64, 320
FRAMES = int(WINDOW_SECONDS * 16_000 / HOP)
SYSTEM = "You are a helpful assistant."  # LLaMA-Factory's default for this template
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|audio_bos|>", "<|AUDIO|>", "<|audio_eos|>")
VOCABULARY = 768
POSITION_SCALE = 0.2


@dataclass(frozen=True)
class PretrainingSettings:
    """Hyper-parameters of the run."""

    utterances: int = 20_000
    steps: int = 2600
    batch_size: int = 32
    learning_rate: float = 1.5e-3
    warmup_steps: int = 100
    weight_decay: float = 0.05
    ctc_weight: float = 1.0
    seed: int = 20250923


def main() -> None:
    """Train, measure on 500 held-out utterances, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the new checkpoint")
    parser.add_argument(
        "--steps", type=int, default=PretrainingSettings.steps, help="training steps (default: %(default)s)"
    )
    parser.add_argument(
        "--utterances",
        type=int,
        default=PretrainingSettings.utterances,
        help="synthesised utterances to train on (default: %(default)s)",
    )
    parser.add_argument(
        "--learning-rate",
        type=float,
        default=PretrainingSettings.learning_rate,
        help="the highest one (default: %(default)s)",
    )
    parser.add_argument(
        "--ctc-weight",
        type=float,
        default=PretrainingSettings.ctc_weight,
        help="weight of the CTC loss of the encoder at the first step (default: %(default)s)",
    )
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch (default: %(default)s)")
    arguments = parser.parse_args()
    plan = PretrainingSettings(
        arguments.utterances, arguments.steps, learning_rate=arguments.learning_rate, ctc_weight=arguments.ctc_weight
    )
    started = time.monotonic()
    utterances = list(tqdm(iterate_utterances("pretrain", plan.utterances), total=plan.utterances, desc="synthesise"))
    held_out = list(iterate_utterances("heldout", 500))
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(plan.seed)
    processor = build_processor([utterance.sentence.target_text for utterance in utterances])
    data = Batches(processor, utterances)
    model = build_model(processor, data.features[:1000].float())
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, splits {SPLITS}")
    train(model, data, plan)
    save(model, processor, arguments.out)
    print(f"offline BLEU on {len(held_out)} held-out utterances: {offline_bleu(model, processor, held_out):.2f}")
    print(f"total {time.monotonic() - started:.0f} s")


def build_processor(texts: list[str]) -> Any:
    """Train a byte-level BPE on the German side and the prompt, and put a 6-second log-mel extractor beside it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2AudioProcessor, WhisperFeatureExtractor

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    prompt = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n"
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator([*texts, *[prompt] * 200], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIALS[1:]),
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
    extractor = WhisperFeatureExtractor(
        feature_size=MEL_BINS, hop_length=HOP, chunk_length=int(WINDOW_SECONDS), n_fft=400, sampling_rate=16_000
    )
    return Qwen2AudioProcessor(feature_extractor=extractor, tokenizer=tokenizer, chat_template=None)


def build_model(processor: Any, features: torch.Tensor) -> Any:
    """Build a model with random weights; the encoder's positions are Whisper's sinusoids, as transformers freezes them.

    Args:
        processor: its tokenizer sizes the vocabulary.
        features: log-mels (utterances, MEL_BINS, FRAMES) whose mean and spread the first convolution starts from.
    """
    from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration

    tokenizer = processor.tokenizer
    config = Qwen2AudioConfig(
        audio_config={
            "model_type": "qwen2_audio_encoder",
            "num_mel_bins": MEL_BINS,
            "d_model": 128,
            "encoder_layers": 3,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 512,
            "max_source_positions": FRAMES // 2,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(tokenizer),
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 1024,
            "bos_token_id": None,
            "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"),
            "pad_token_id": tokenizer.pad_token_id,
        },
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
        audio_token_id=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    model = Qwen2AudioForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    _initialise(model, features)
    return model


@torch.no_grad()
def _initialise(model: Any, features: torch.Tensor) -> None:
    """Initialise weights by fan-in, input standardised, positions quiet.

    As transformers starts, the sound drowns in the position table. Encoder and CTC head alone reached a CTC loss of
    1.6 after 400 steps this way, and of 2.9 without.
    """
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv1d)):
            fan_in = module.weight[0].numel()
            module.weight.normal_(std=math.sqrt((2 if isinstance(module, nn.Conv1d) else 1) / fan_in))
    first, table = model.audio_tower.conv1, model.audio_tower.embed_positions
    mean, spread = features.mean((0, 2)), features.std((0, 2))
    first.weight /= spread[None, :, None]
    first.bias -= (first.weight * mean[None, :, None]).sum((1, 2))
    table.weight.copy_(POSITION_SCALE * _sinusoids(*table.weight.shape))


def _sinusoids(length: int, channels: int) -> torch.Tensor:
    """Compute Whisper's fixed positions (Radford et al. 2022), shape (length, channels)."""
    rates = torch.exp(-math.log(10_000) / (channels // 2 - 1) * torch.arange(channels // 2))
    angles = torch.arange(length)[:, None] * rates[None, :]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class Batches:
    """Features and token ids of all utterances in memory, and batches of them."""

    def __init__(self, processor: Any, utterances: list[DemoUtterance]) -> None:
        self.tokenizer = processor.tokenizer
        self.features, self.frames = extract(processor, utterances)
        self.prompt_ids = [self._prompt(int(frames)) for frames in self.frames]
        self.target_ids = [self.tokenizer(u.sentence.target_text + "<|im_end|>\n").input_ids for u in utterances]
        vocabulary = sorted({word for u in utterances for word in u.sentence.source})
        self.source_words = {word: number + 1 for number, word in enumerate(vocabulary)}  # 0 is CTC's blank
        self.source_ids = [[self.source_words[word] for word in u.sentence.source] for u in utterances]

    def _prompt(self, frames: int) -> list[int]:
        audio_tokens = ((frames - 1) // 2 + 1 - 2) // 2 + 1
        audio = "<|audio_bos|>" + "<|AUDIO|>" * audio_tokens + "<|audio_eos|>"
        user = PROMPT.replace("<audio>", audio)
        head = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
        return list(self.tokenizer(head).input_ids)

    def make(self, indices: np.ndarray[Any, Any]) -> dict[str, torch.Tensor]:
        """Build right-padded model inputs for some utterances."""
        features = self.features[indices].float()
        rows = [(self.prompt_ids[i], self.target_ids[i]) for i in indices]
        width = max(len(prompt) + len(target) for prompt, target in rows)
        input_ids = torch.full((len(rows), width), self.tokenizer.pad_token_id)
        labels = torch.full((len(rows), width), -100)
        attention = torch.zeros((len(rows), width), dtype=torch.long)
        for row, (prompt, target) in enumerate(rows):
            end = len(prompt) + len(target)
            input_ids[row, :end] = torch.tensor(prompt + target)
            labels[row, len(prompt) : end] = torch.tensor(target)
            attention[row, :end] = 1
        mask = torch.arange(FRAMES)[None, :] < torch.from_numpy(self.frames[indices])[:, None]
        return {
            "input_ids": input_ids,
            "labels": labels,
            "attention_mask": attention,
            "input_features": features,
            "feature_attention_mask": mask.long(),
        }


def extract(processor: Any, utterances: list[DemoUtterance]) -> tuple[torch.Tensor, np.ndarray[Any, Any]]:
    """Extract log-mel features (utterances, MEL_BINS, FRAMES) in fp16, and the valid frames of each."""
    features = torch.empty((len(utterances), MEL_BINS, FRAMES), dtype=torch.float16)
    frames = np.empty(len(utterances), dtype=np.int64)
    for start in tqdm(range(0, len(utterances), 64), desc="features"):
        part = utterances[start : start + 64]
        out = processor.feature_extractor(
            [u.waveform for u in part],
            sampling_rate=16_000,
            return_attention_mask=True,
            padding="max_length",
            return_tensors="pt",
        )
        features[start : start + len(part)] = out["input_features"].half()
        frames[start : start + len(part)] = out["attention_mask"].sum(-1).numpy()
    return features, frames


def train(model: Any, data: Batches, plan: PretrainingSettings) -> None:
    """Train on the references, with a CTC head on the English words that is dropped afterwards."""
    heard: dict[str, torch.Tensor] = {}
    hook = model.audio_tower.register_forward_hook(lambda _m, _i, out: heard.update(states=out.last_hidden_state))
    positions = model.audio_tower.embed_positions.weight.data
    ctc_head = nn.Linear(128, len(data.source_words) + 1)
    parameters = [p for p in [*model.parameters(), *ctc_head.parameters()] if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=plan.learning_rate, betas=(0.9, 0.98), weight_decay=plan.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _cosine(step, plan))
    rng = np.random.default_rng(plan.seed)
    model.train()
    progress = tqdm(_batch_indices(rng, data.frames, plan), total=plan.steps, desc="train")
    for step, indices in enumerate(progress):
        inputs = data.make(indices)
        _shorten_window(model.audio_tower, inputs, positions)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(**inputs, use_cache=False).loss
        ctc = _ctc_loss(
            ctc_head(heard["states"].float()),
            [data.source_ids[i] for i in indices],
            inputs["feature_attention_mask"].sum(-1),
        )
        (loss + plan.ctc_weight * (1 - step / plan.steps) * ctc).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 50 == 0:
            progress.set_postfix(loss=f"{loss.item():.3f}", ctc=f"{ctc.item():.3f}")
    hook.remove()
    _set_window(model.audio_tower, positions)


def _shorten_window(encoder: Any, inputs: dict[str, torch.Tensor], positions: torch.Tensor) -> None:
    """Let the encoder run no longer than the longest utterance of the batch: its padding is masked anyway."""
    frames = -(-int(inputs["feature_attention_mask"].sum(-1).max()) // 4) * 4
    inputs["input_features"] = inputs["input_features"][:, :, :frames]
    inputs["feature_attention_mask"] = inputs["feature_attention_mask"][:, :frames]
    _set_window(encoder, positions[: frames // 2])


def _set_window(encoder: Any, positions: torch.Tensor) -> None:
    encoder.embed_positions.weight.data = positions
    encoder.config.max_source_positions = len(positions)


def _cosine(step: int, plan: PretrainingSettings) -> float:
    if step < plan.warmup_steps:
        return (step + 1) / plan.warmup_steps
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - plan.warmup_steps) / (plan.steps - plan.warmup_steps)))


def _batch_indices(
    rng: np.random.Generator, frames: np.ndarray[Any, Any], plan: PretrainingSettings
) -> Iterator[np.ndarray[Any, Any]]:
    """Yield batches of similar length in random order: 32 are drawn, sorted by length, and dealt out shuffled."""
    order: np.ndarray[Any, Any] = np.empty(0, dtype=np.int64)
    pending: list[np.ndarray[Any, Any]] = []
    for _ in range(plan.steps):
        if not pending:
            while len(order) < 32 * plan.batch_size:
                order = np.concatenate([order, rng.permutation(len(frames))])
            drawn, order = order[: 32 * plan.batch_size], order[32 * plan.batch_size :]
            drawn = drawn[np.argsort(frames[drawn], kind="stable")]
            pending = [drawn[i : i + plan.batch_size] for i in range(0, len(drawn), plan.batch_size)]
            rng.shuffle(pending)
        yield pending.pop()


def _ctc_loss(logits: torch.Tensor, targets: list[list[int]], frames: torch.Tensor) -> torch.Tensor:
    lengths = ((frames - 1) // 2 + 1 - 2) // 2 + 1
    return nn.functional.ctc_loss(
        logits.log_softmax(-1).transpose(0, 1),
        torch.tensor([t for target in targets for t in target]),
        lengths,
        torch.tensor([len(target) for target in targets]),
        zero_infinity=True,
    )


@torch.inference_mode()
def offline_bleu(model: Any, processor: Any, utterances: list[DemoUtterance]) -> float:
    """Measure BLEU of greedy decoding on whole utterances."""
    import sacrebleu

    model.eval()
    data, hypotheses = Batches(processor, utterances), []
    order = np.argsort(data.frames, kind="stable")
    for start in range(0, len(order), 50):
        indices = order[start : start + 50]
        prompts = [data.prompt_ids[i] for i in indices]
        width = max(map(len, prompts))
        pad = data.tokenizer.pad_token_id
        mask = torch.arange(FRAMES)[None, :] < torch.from_numpy(data.frames[indices])[:, None]
        out = model.generate(
            input_ids=torch.tensor([[pad] * (width - len(p)) + p for p in prompts]),
            attention_mask=torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts]),
            input_features=data.features[indices].float(),
            feature_attention_mask=mask.long(),
            do_sample=False,
            max_new_tokens=96,
        )
        hypotheses += [text.strip() for text in data.tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)]
    references = [utterances[i].sentence.target_text for i in order]
    return float(sacrebleu.corpus_bleu(hypotheses, [references]).score)


def save(model: Any, processor: Any, folder: Path) -> None:
    """Save fp16 safetensors, with tokenizer and processor; the config asks for fp32, so that it is loaded as that."""
    model.config.dtype = torch.float32
    model.save_pretrained(folder, state_dict={name: tensor.half() for name, tensor in model.state_dict().items()})
    processor.save_pretrained(folder)


if __name__ == "__main__":
    main()
