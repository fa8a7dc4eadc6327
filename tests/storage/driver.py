"""A run of `augment_dataset` below an address, as a program that tests kill: driver.py ADDRESS OFFLINE SECONDS."""

import sys
import time
from pathlib import Path

from helpers.fakes import ByteModel, make_dataset

from simulsa_plugin.augmentation.augment_settings import AugmentSettings
from simulsa_plugin.augmentation.pipeline import augment_dataset
from simulsa_plugin.files import lease, mirror

SETTINGS = AugmentSettings(samples=24, batch_size=2, portable=True)
ROWS = 30


class SlowModel(ByteModel):
    seconds = 0.0

    def score(self, *arguments):
        time.sleep(self.seconds)
        return super().score(*arguments)


def run(offline, out):
    augment_dataset(make_dataset(offline, count=ROWS), SlowModel(), SETTINGS, out)


if __name__ == "__main__":
    mirror.PUSH_SECONDS, mirror._SETTLED_SECONDS = 0.05, 0.0
    lease.BEAT_SECONDS, lease.SETTLE_SECONDS = 0.2, 0.1
    SlowModel.seconds = float(sys.argv[3])
    with mirror.mirrored(sys.argv[1]) as folder:
        run(Path(sys.argv[2]), folder)
