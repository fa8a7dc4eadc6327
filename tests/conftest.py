"""What all tests share; `helpers` is importable because this file stands beside it."""

import os

# No test asks a hub for anything, and a name that is no path fails at once instead of after five tries.
os.environ["HF_HUB_OFFLINE"] = "1"
# The models here are tiny: a second thread gains nothing, and on a busy machine it waits for the first.
os.environ.setdefault("OMP_NUM_THREADS", "1")
