"""What every script needs and no lesson is about. Nothing in here is needed to understand a lesson.

    command_line    how a script begins and ends: flags, seeds, signals, a user's mistake in one sentence
    files           reading a text, writing safely, downloads
    checkpoints     a model or a training run on disk
    settings        what a training run is told: flags and settings
    training_run    what a training run saves and reports
    older_checkpoints   the older published format
    pictures        tables, figures, the live view in the terminal, animations
    devices         which device, which dtype, several processes
    toy_world       a language of 256 texts, and its perfect model

Importing this package sets two things for PyTorch. It is imported before torch everywhere, since one of them must be.
"""

import os

# PyTorch's threads (OpenMP) look 300,000 times for new work before they sleep. Where another program wants the
# processor as well, both slow down many times. 5,000 looks keep a busy machine usable. Alone they cost some 2% in
# writing and 3% in training (docs/tuning.md). Linux only. This must stand before the first import of torch.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")

import torch

# Numbers below 1e-38 ("denormal") are taken for 0. A head that looks firmly at one place gives the others such weights,
# and some processors are many times slower with them (docs/tuning.md). This must stand before anything is computed.
torch.set_flush_denormal(True)
