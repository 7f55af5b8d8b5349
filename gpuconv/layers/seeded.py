"""What layers that draw random numbers share: a seed, and the stream that it begins."""

from __future__ import annotations

from typing import Any

from gpuconv.layers.base import Layer
from gpuconv.random import SeedStream, check_seed


class Seeded(Layer):
    """A layer with a random stream, which is saved and restored with the model.

    Args:
        seed: makes the numbers reproducible; None takes a seed from ``gpuconv.random``.
    """

    def __init__(self, *, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seed = None if seed is None else check_seed(seed)
        self._stream: SeedStream | None = None

    @property
    def seed_stream(self) -> SeedStream:
        """Where the numbers come from; begins at ``seed``, or at a global one on first use."""
        if self._stream is None:
            self._stream = SeedStream(self.seed)
        return self._stream

    def random_streams(self) -> dict[str, SeedStream]:
        return {"seed_stream": self.seed_stream}
