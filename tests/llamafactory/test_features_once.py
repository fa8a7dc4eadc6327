"""How often a run extracts features: as often as a clip is scored, and once for each text of a prompt."""

import pytest
from helpers.fakes import make_dataset

from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.pipeline import augment_dataset
from simulsa_plugin.llamafactory.model.arguments import inference_arguments
from simulsa_plugin.llamafactory.model.backbone_loading import load_backbone


@pytest.mark.parametrize(("extra_scores", "passes"), [((), 1), (("full", "lookback"), 3)])
def test_features_are_extracted_once_for_each_scored_waveform(tmp_path, monkeypatch, extra_scores, passes):
    backbone = load_backbone(inference_arguments({"model_name_or_path": "simulsa-demo", "template": "qwen2_audio"}))
    extracted, kind = [], type(backbone.processor.feature_extractor)
    extract = kind.__call__

    def counting(self, waveforms, *arguments, **options):
        extracted.extend(waveforms)
        return extract(self, waveforms, *arguments, **options)

    monkeypatch.setattr(kind, "__call__", counting)
    settings = AugmentSettings(ratio=1.0, max_seconds=3.0, batch_size=4, extra_scores=extra_scores)
    outcome = augment_dataset(make_dataset(tmp_path, count=10), backbone, settings, tmp_path / "out")
    prompts = 1  # rendered with audio once, to see where the audio's tokens stand
    scored = outcome.manifest["counts"]["scored"]
    assert scored == (10 if passes == 1 else 8)  # two are longer than the model's window: no p(full) is there
    assert len(extracted) == passes * scored + prompts
