// Element-wise functions, alone and behind a matrix product. Every array is read and written once,
// 16 bytes at a time where its address allows.

#include "common.cuh"
#include "functions.cuh"

template <int W>
__device__ __forceinline__ void forward(
    const REAL* x, REAL* y, int kind, REAL alpha, int64 start, int64 stop) {
    for (int64 i = start + thread() * W; i < stop; i += threads() * W) {
        Pack<W> values = load<W>(x + i);
        for (int l = 0; l < W; ++l) values.at[l] = activate(kind, alpha, values.at[l]);
        store<W>(y + i, values);
    }
}

extern "C" __global__ void __launch_bounds__(256, 4) activation(
    const REAL* __restrict__ x, REAL* __restrict__ y, int kind, REAL alpha, int64 count) {
    const int64 whole = aligned(x) && aligned(y) ? count / LANES * LANES : 0;
    forward<LANES>(x, y, kind, alpha, 0, whole);
    forward<1>(x, y, kind, alpha, whole, count);
}

template <int W>
__device__ __forceinline__ void backward(
    const REAL* dy, const REAL* z, REAL* dx, int kind, REAL alpha, int64 start, int64 stop) {
    for (int64 i = start + thread() * W; i < stop; i += threads() * W) {
        Pack<W> gradient = load<W>(dy + i);
        const Pack<W> values = load<W>(z + i);
        for (int l = 0; l < W; ++l)
            gradient.at[l] = activate_backward(kind, alpha, gradient.at[l], values.at[l]);
        store<W>(dx + i, gradient);
    }
}

extern "C" __global__ void __launch_bounds__(256, 4) activation_backward(
    const REAL* __restrict__ dy,
    const REAL* __restrict__ z,  // the function's output or, where it must be, its input
    REAL* __restrict__ dx, int kind, REAL alpha, int64 count) {
    const bool wide = aligned(dy) && aligned(z) && aligned(dx);
    const int64 whole = wide ? count / LANES * LANES : 0;
    backward<LANES>(dy, z, dx, kind, alpha, 0, whole);
    backward<1>(dy, z, dx, kind, alpha, whole, count);
}

template <int W>
__device__ __forceinline__ void add_and_activate(
    REAL* y, const REAL* bias, int kind, REAL alpha, int64 rows, int filters) {
    const int64 step = (int64)gridDim.x * blockDim.y;
    for (int64 r = (int64)blockIdx.x * blockDim.y + threadIdx.y; r < rows; r += step)
        for (int f = threadIdx.x * W; f < filters; f += blockDim.x * W) {
            Pack<W> values = load<W>(y + r * filters + f);
            for (int l = 0; l < W; ++l) {
                const REAL sum = bias ? values.at[l] + bias[f + l] : values.at[l];
                values.at[l] = activate(kind, alpha, sum);
            }
            store<W>(y + r * filters + f, values);
        }
}

// grid (any), block (threads over filters, threads over rows); y in place.
extern "C" __global__ void __launch_bounds__(256, 4) bias_activation(
    REAL* __restrict__ y,           // (rows, F)
    const REAL* __restrict__ bias,  // (F,) or null
    int kind, REAL alpha, int64 rows, int filters) {
    if (filters % LANES == 0 && aligned(y))
        add_and_activate<LANES>(y, bias, kind, alpha, rows, filters);
    else
        add_and_activate<1>(y, bias, kind, alpha, rows, filters);
}
