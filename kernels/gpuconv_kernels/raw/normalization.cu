// Normalisation by given moments, and the gradient with respect to its input. The sums that both
// need are in sums.cu; the formulas are derived in array/normalization.py.
//
// `rows` counts everything but the innermost axis of x (merged, see nest.cuh); the vectors' strides
// along that axis are 0 or 1. grid (any), block (threads over the inner axis, threads over rows).

#include "common.cuh"
#include "nest.cuh"

// 1 / sqrt(variance + epsilon), by way of double. One launch over a short vector.
extern "C" __global__ void __launch_bounds__(256, 4) inverse_deviation(
    const REAL* __restrict__ variance, REAL* __restrict__ inverse, double epsilon, int64 count) {
    for (int64 i = thread(); i < count; i += threads())
        inverse[i] = (REAL)(1.0 / sqrt((double)variance[i] + epsilon));
}

template <int W>
__device__ __forceinline__ void normalize_rows(
    const REAL* x, const REAL* mean, const REAL* inverse, const REAL* scale, const REAL* offset,
    REAL* y, const Nest& nest, int64 rows, int64 inner, int64 inner_mean, int64 inner_scale) {
    const int64 step = (int64)gridDim.x * blockDim.y;
    for (int64 r = (int64)blockIdx.x * blockDim.y + threadIdx.y; r < rows; r += step) {
        const Offsets base = at(nest, r);
        for (int64 j = (int64)threadIdx.x * W; j < inner; j += (int64)blockDim.x * W) {
            Pack<W> values = load<W>(x + base.x + j);
            for (int l = 0; l < W; ++l) {
                const int64 m = base.mean + (j + l) * inner_mean;
                const int64 s = base.scale + (j + l) * inner_scale;
                REAL value = (values.at[l] - mean[m]) * inverse[m];
                if (scale) value *= scale[s];
                if (offset) value += offset[s];
                values.at[l] = value;
            }
            store<W>(y + base.x + j, values);
        }
    }
}

// y = (x - mean) * inverse * scale + offset
extern "C" __global__ void __launch_bounds__(256, 4) normalize(
    const REAL* __restrict__ x, const REAL* __restrict__ mean, const REAL* __restrict__ inverse,
    const REAL* __restrict__ scale,   // or null
    const REAL* __restrict__ offset,  // or null
    REAL* __restrict__ y, Nest nest, int64 rows, int64 inner, int64 inner_mean,
    int64 inner_scale) {
    if (inner % LANES == 0 && aligned(x) && aligned(y))
        normalize_rows<LANES>(
            x, mean, inverse, scale, offset, y, nest, rows, inner, inner_mean, inner_scale);
    else
        normalize_rows<1>(
            x, mean, inverse, scale, offset, y, nest, rows, inner, inner_mean, inner_scale);
}

template <int W>
__device__ __forceinline__ void backward_rows(
    const REAL* dy, const REAL* x, const REAL* mean, const REAL* inverse, const REAL* scale,
    const REAL* shift, const REAL* slope, REAL* dx, int scale_last, const Nest& nest, int64 rows,
    int64 inner, int64 inner_mean, int64 inner_scale) {
    const int64 step = (int64)gridDim.x * blockDim.y;
    for (int64 r = (int64)blockIdx.x * blockDim.y + threadIdx.y; r < rows; r += step) {
        const Offsets base = at(nest, r);
        for (int64 j = (int64)threadIdx.x * W; j < inner; j += (int64)blockDim.x * W) {
            Pack<W> gradient = load<W>(dy + base.x + j);
            Pack<W> values = {};
            if (shift) values = load<W>(x + base.x + j);
            for (int l = 0; l < W; ++l) {
                const int64 m = base.mean + (j + l) * inner_mean;
                const REAL by = scale ? scale[base.scale + (j + l) * inner_scale] : REAL(1);
                REAL g = gradient.at[l];
                if (!scale_last) g *= by;
                if (shift) g -= shift[m] + (values.at[l] - mean[m]) * inverse[m] * slope[m];
                if (scale_last) g *= by;
                gradient.at[l] = g * inverse[m];
            }
            store<W>(dx + base.x + j, gradient);
        }
    }
}

// dx = inverse * (scale * dy - shift - xhat * slope), xhat = (x - mean) * inverse, with the means
// over all that share a moment  shift = mean(scale * dy)  and  slope = mean(scale * dy * xhat).
// Where the scale is one number for them, the two are given without it and it is multiplied last.
// Null shift and slope: the moments are constants.
extern "C" __global__ void __launch_bounds__(256, 4) normalize_backward(
    const REAL* __restrict__ dy, const REAL* __restrict__ x, const REAL* __restrict__ mean,
    const REAL* __restrict__ inverse, const REAL* __restrict__ scale,
    const REAL* __restrict__ shift, const REAL* __restrict__ slope, REAL* __restrict__ dx,
    int scale_last, Nest nest, int64 rows, int64 inner, int64 inner_mean, int64 inner_scale) {
    if (inner % LANES == 0 && aligned(dy) && aligned(x) && aligned(dx))
        backward_rows<LANES>(dy, x, mean, inverse, scale, shift, slope, dx, scale_last, nest, rows,
                             inner, inner_mean, inner_scale);
    else
        backward_rows<1>(dy, x, mean, inverse, scale, shift, slope, dx, scale_last, nest, rows,
                         inner, inner_mean, inner_scale);
}
