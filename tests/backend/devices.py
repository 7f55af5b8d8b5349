"""Profiles of real devices, from their data sheets, and short names for geometries."""

from __future__ import annotations

from gpuconv.backends.device_profile import DeviceProfile
from gpuconv.geometry import ConvGeometry

H200 = DeviceProfile("NVIDIA H200", (9, 0), 132, 66.9e12, 33.5e12, 4.8e12, 50 * 2**20, 141 * 10**9)
T4 = DeviceProfile("Tesla T4", (7, 5), 40, 8.1e12, 0.254e12, 320e9, 4 * 2**20, 16 * 10**9)
RTX_4090 = DeviceProfile(
    "NVIDIA GeForce RTX 4090", (8, 9), 128, 82.6e12, 1.29e12, 1008e9, 72 * 2**20, 24 * 10**9
)


def square(batch, channels, filters, extent, kernel, stride=1, pad=None, dilation=1, groups=1):
    """A 2-D convolution with the same numbers in both dimensions, padded by half the kernel."""
    pad = kernel // 2 if pad is None else pad
    return ConvGeometry(
        batch,
        channels,
        filters,
        (extent, extent),
        (kernel, kernel),
        (stride, stride),
        (dilation, dilation),
        ((pad, pad), (pad, pad)),
        groups,
    )
