"""Transfer learning on real digits, beside training from scratch; see gpuconv.benchmarks.transfer.

python benchmarks/transfer.py --out transfer.png
"""

import sys

from gpuconv.benchmarks.transfer import main

if __name__ == "__main__":
    sys.exit(main())
