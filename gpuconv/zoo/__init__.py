"""Networks by name, untrained."""

from gpuconv.zoo.small import digits_network, seed_network

__all__ = ["digits_network", "seed_network"]
