"""Convolution, pooling and training steps on the GPU, by each engine, beside PyTorch and cuDNN.

    python benchmarks/gpu.py                                   # all; keeps results/gpu-DEVICE.*
    python benchmarks/gpu.py --quick                           # some rows of each part
    python benchmarks/gpu.py --part resnet50 --operation forward --engine cuda:numba
    python benchmarks/gpu.py --resume                          # the rows that are still missing

The same as ``gpuconv bench --backend cuda``, from the checkout.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "kernels"))

from gpuconv.benchmarks.gpu import main

if __name__ == "__main__":
    sys.exit(main())
