"""Which element of the source each result meets under each tap, one dimension at a time.

Worked out once a geometry, so that kernels need no division (a processor takes as long for
one as for sixty additions of vectors)::

    extent 4, kernel 3, pads (1, 1), stride 1        result 0   -1  0  1      runs   0
                                                            1    0  1  2             2
                                                            2    1  2  3             1
                                                            3    2  3 -1             0
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

Array = Any


@functools.lru_cache(maxsize=1024)
def sources(
    input: int, output: int, kernel: int, step: int, before: int, dilation: int, split: int = 1
) -> tuple[Array, Array]:
    """Return where results gather from, and how many that follow each other have all their taps.

    Result ``q`` meets under tap ``t`` the element ``(q*step - before + t*dilation) / split``, if
    that is an integer inside of the source. Forward operations have ``split`` 1; gradients of
    the input, with the taps in reverse order, have ``step`` 1 and split by the stride.

    Returns:
        elements (output, kernel), -1 where there is none, and runs (output,): the number of results
        ``q, q + split, ...`` all of whose taps lie inside; 0 if those of ``q`` do not.
    """
    q, t = np.arange(output)[:, None], np.arange(kernel)
    position = q * step - before + t * dilation
    exists = position % split == 0
    element = position // split
    inside = exists & (element >= 0) & (element < input)
    whole = (inside == exists).all(axis=1)
    runs = np.zeros(output + split, np.int64)
    for p in range(output - 1, -1, -1):
        if whole[p]:
            runs[p] = runs[p + split] + 1
    return np.where(inside, element, -1), runs[:output].copy()
