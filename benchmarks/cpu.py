"""Convolution layers and a training step on the CPU, beside PyTorch where it is installed.

    python benchmarks/cpu.py                 # ResNet-50's layers at batch 8, the seed network
    python benchmarks/cpu.py --quick         # four layers, few rounds
    python benchmarks/cpu.py --out results   # keep table, JSON and picture

The same as ``gpuconv bench --backend cpu``, from the checkout.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "kernels"))

from gpuconv.benchmarks.cpu import main

if __name__ == "__main__":
    sys.exit(main())
