"""Import of PyTorch detectors: checkpoints without running them, and modules by export.

A checkpoint is a pickle, which can run anything when it is loaded; here it is only read
(:mod:`.pickles`), and the network is rebuilt from what it says about itself. So neither
torch nor the program that trained it is needed. :func:`import_torch` is for modules that
are in memory already.
"""

from __future__ import annotations

from boxwright.importers.pytorch.export import import_torch
from boxwright.importers.pytorch.importer import IMPORTER

__all__ = ["IMPORTER", "import_torch"]
