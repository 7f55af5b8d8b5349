"""Every CPU engine beside PyTorch: convolutions, pooling, BatchNorm, Adam, training, ``fit``.

    python benchmarks/cpu.py                              # what fits into six minutes, goals first
    python benchmarks/cpu.py --quick                      # a few rows of each part
    python benchmarks/cpu.py --part vgg16 --batch 8       # or --layer "3x3*", --operation forward
    python benchmarks/cpu.py --out results                # keep table, JSON and picture
    python benchmarks/cpu.py --out results --resume       # go on where the time was up

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
