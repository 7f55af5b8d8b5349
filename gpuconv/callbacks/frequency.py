"""How often a callback saves."""

from __future__ import annotations

from gpuconv.errors import InvalidArgumentError
from gpuconv.geometry import as_int


class SaveFrequency:
    """``save_freq`` of a callback, and the batches since it saved last.

    Args:
        save_freq: ``"epoch"``, or a number of batches of at least 1.

    Raises:
        InvalidArgumentError: neither.
    """

    def __init__(self, save_freq: str | int) -> None:
        if isinstance(save_freq, str) and save_freq != "epoch":
            raise InvalidArgumentError(
                f"save_freq must be 'epoch' or a number of batches. Received: {save_freq!r}"
            )
        self.every_epoch = save_freq == "epoch"
        self.batches = 0
        self._wanted = 0 if self.every_epoch else as_int(save_freq, "save_freq", 1)

    def due_after_batch(self) -> bool:
        """Count a batch; True when it is time to save."""
        if self.every_epoch:
            return False
        self.batches += 1
        if self.batches < self._wanted:
            return False
        self.batches = 0
        return True
