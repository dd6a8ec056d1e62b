"""Short trainings."""

from __future__ import annotations

from boxwright.quantize.finetune.training import Rates, Settings
from boxwright.quantize.rules import Rules

RULES = Rules(min_channels=1, first=True, heads=True)
# So few steps must be larger ones. On the GPU, where PyTorch sees one.
SHORT = Settings(steps=12, batch=2, rates=Rates(1e-3, 5e-3, 2e-2))
