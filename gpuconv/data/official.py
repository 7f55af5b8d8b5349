"""Where the classic data sets lie, with the checksums that their publishers give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from gpuconv.data.download import fetch_file
from gpuconv.settings import cache_folder


class Source(NamedTuple):
    """One data set: the addresses of its files, each with its checksum."""

    base: str
    files: dict[str, str]


SOURCES: Final[dict[str, Source]] = {
    # Y. LeCun, C. Cortes, C. Burges: "The MNIST database of handwritten digits", 1998; his own
    # server no longer gives the files, PyTorch's mirror does.
    "mnist": Source(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        {
            "train-images-idx3-ubyte.gz": "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "md5:d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "md5:9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "md5:ec29112dd5afa0611ce80d1b7f02629c",
        },
    ),
    # H. Xiao, K. Rasul, R. Vollgraf: "Fashion-MNIST", 2017; MIT licence. No HTTPS there.
    "fashion-mnist": Source(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        {
            "train-images-idx3-ubyte.gz": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "md5:25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "md5:bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "md5:bb300cfdad3c16e7a12a480ee83cd310",
        },
    ),
    # A. Krizhevsky: "Learning Multiple Layers of Features from Tiny Images", 2009.
    "cifar-10": Source(
        "https://www.cs.toronto.edu/~kriz/",
        {"cifar-10-binary.tar.gz": "md5:c32a1d4ab5d03f1284b67883e8d87530"},
    ),
    "cifar-100": Source(
        "https://www.cs.toronto.edu/~kriz/",
        {"cifar-100-binary.tar.gz": "md5:03b5dce01913d631647c71ecec9e9cb8"},
    ),
}
"""Every address and checksum, by the name of the folder in the cache."""


def fetch(
    name: str, progress: Callable[[int, int | None], None] | bool | None = None
) -> tuple[Path, ...]:
    """Return the paths of a data set's files in the cache; those that are missing are fetched.

    Raises:
        DownloadError, FileFormatError: as :func:`~gpuconv.data.fetch_file` does.
    """
    source = SOURCES[name]
    folder = cache_folder() / "data" / name
    return tuple(
        fetch_file(source.base + file, folder, file, checksum, progress)
        for file, checksum in source.files.items()
    )
