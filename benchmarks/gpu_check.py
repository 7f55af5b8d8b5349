"""All that can be asked of a GPU in ten minutes; see gpuconv.benchmarks.gpu_check.

python benchmarks/gpu_check.py                     # all parts, results in benchmarks/results
python benchmarks/gpu_check.py --list              # which parts there are
python benchmarks/gpu_check.py --only curve        # one of them; repeatable
python benchmarks/gpu_check.py --budget 1200       # more time for all together
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "kernels"))

from gpuconv.benchmarks.gpu_check import main

if __name__ == "__main__":
    sys.exit(main())
