"""Whole networks on the CPU beside PyTorch: training, transfer, inference, memory, start-up.

python benchmarks/networks.py                              # all rows, in less than six minutes
python benchmarks/networks.py --row "inference*"           # or "*ResNet-18*"; repeatable
python benchmarks/networks.py --size 64 --budget 60        # a quick look, of no goal
python benchmarks/networks.py --out benchmarks/results     # keep tables, JSON and picture
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "kernels"))

from gpuconv.benchmarks.networks import main

if __name__ == "__main__":
    sys.exit(main())
