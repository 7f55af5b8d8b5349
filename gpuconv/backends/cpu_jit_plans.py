"""How ``cpu:jit`` computes a convolution: which kernel, its workspace, and why."""

from __future__ import annotations

from gpuconv.backends.base import Plan
from gpuconv.geometry import ConvGeometry
from gpuconv_kernels.host import depthwise_weights, direct, few_channels, weight_gradient


def plan_convolution(op: str, g: ConvGeometry, dtype: str, workspace_limit: int) -> Plan:
    """Choose the kernel for ``op``, a method of the engine contract."""
    if g.is_depthwise:
        needed = 0
        if op == "conv_backward_weight":
            needed = depthwise_weights.workspace_bytes(g, dtype)
        return Plan("depthwise", needed, "one input channel a group: vectors of channels, no sums")
    if op == "conv_backward_weight":
        needed, what = weight_gradient.workspace_bytes(g, dtype), "channels"
    elif op == "conv_backward_input":
        needed, what = direct.backward_input_workspace_bytes(g, dtype), "pixels"
    else:
        needed, what = direct.workspace_bytes(g, dtype), "pixels"
    reason = f"tiles of {what} x filters in registers, read where they lie: no columns"
    if op != "conv_backward_input" and few_channels.pays(g):
        reason += "; taps of a line count as channels, since there are few of these"
    return Plan("direct", needed, reason)
