"""What every operation computes, in float64 and in the plainest way.

Loops over output positions and kernel taps, written from the definitions alone: nothing here
shares code with an engine, with ``gpuconv.geometry`` or with a layer. Arguments are arrays,
ints and tuples; sizes are worked out anew. Activations are channels-last ``(N, *spatial, C)``.
"""

from gpuconv.testing.reference.convolution import (
    conv,
    conv_backward_input,
    conv_backward_weight,
    sum_channels,
)
from gpuconv.testing.reference.dense import (
    dense,
    dense_backward,
    log_softmax,
    softmax,
    softmax_backward,
)
from gpuconv.testing.reference.extents import (
    conv_extent,
    conv_transpose_extent,
    pool_extent,
    resolve_pads,
)
from gpuconv.testing.reference.losses import (
    binary_crossentropy,
    categorical_crossentropy,
    huber,
    mean_absolute_error,
    mean_squared_error,
    one_hot,
    reduce_loss,
    sparse_categorical_crossentropy,
)
from gpuconv.testing.reference.normalization import (
    batch_norm,
    batch_norm_inference,
    group_norm,
    layer_norm,
)
from gpuconv.testing.reference.padding import pad, pad_backward
from gpuconv.testing.reference.pointwise import (
    DERIVATIVES,
    FUNCTIONS,
    activation,
    activation_backward,
)
from gpuconv.testing.reference.pooling import (
    adaptive_avg_pool,
    adaptive_max_pool,
    avg_pool,
    avg_pool_backward,
    max_pool,
    max_pool_backward,
)
from gpuconv.testing.reference.transposed import (
    conv_transpose,
    conv_transpose_backward_input,
    conv_transpose_backward_weight,
)
from gpuconv.testing.reference.upsampling import upsample_bilinear, upsample_nearest

__all__ = [
    "DERIVATIVES",
    "FUNCTIONS",
    "activation",
    "activation_backward",
    "adaptive_avg_pool",
    "adaptive_max_pool",
    "avg_pool",
    "avg_pool_backward",
    "batch_norm",
    "batch_norm_inference",
    "binary_crossentropy",
    "categorical_crossentropy",
    "conv",
    "conv_backward_input",
    "conv_backward_weight",
    "conv_extent",
    "conv_transpose",
    "conv_transpose_backward_input",
    "conv_transpose_backward_weight",
    "conv_transpose_extent",
    "dense",
    "dense_backward",
    "group_norm",
    "huber",
    "layer_norm",
    "log_softmax",
    "max_pool",
    "max_pool_backward",
    "mean_absolute_error",
    "mean_squared_error",
    "one_hot",
    "pad",
    "pad_backward",
    "pool_extent",
    "reduce_loss",
    "resolve_pads",
    "softmax",
    "softmax_backward",
    "sparse_categorical_crossentropy",
    "sum_channels",
    "upsample_bilinear",
    "upsample_nearest",
]
