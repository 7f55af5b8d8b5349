// Softmax over rows, alone and with cross-entropy. blockDim.x threads share a row, and a block has
// blockDim.y rows; both are powers of two, together at most 256. Sums and maxima of a row are
// formed in a tree in shared memory, which needs all threads of the block at its barriers: those
// without a row take part with nothing to add.

#include "common.cuh"

struct Largest {
    __device__ __forceinline__ static REAL of(REAL a, REAL b) { return a < b ? b : a; }
};

struct Sum {
    __device__ __forceinline__ static REAL of(REAL a, REAL b) { return a + b; }
};

// Combine the values of the threads of a row; each of them gets the result.
template <class Combine>
__device__ __forceinline__ REAL over_row(REAL value, REAL* buffer) {
    REAL* mine = buffer + threadIdx.y * blockDim.x;
    const int lane = threadIdx.x;
    mine[lane] = value;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (lane < half) mine[lane] = Combine::of(mine[lane], mine[lane + half]);
        __syncthreads();
    }
    const REAL result = mine[0];
    __syncthreads();  // the buffer is free again
    return result;
}

// exp(x - max(x)) cannot overflow.
extern "C" __global__ void __launch_bounds__(256, 4) softmax(
    const REAL* __restrict__ x,  // (rows, K)
    REAL* __restrict__ y,        // (rows, K)
    int64 rows, int64 classes) {
    __shared__ REAL buffer[256];
    const int64 row = (int64)blockIdx.x * blockDim.y + threadIdx.y;
    const int64 begin = row * classes, end = row < rows ? begin + classes : begin;
    REAL largest = -INFINITE;
    for (int64 i = begin + threadIdx.x; i < end; i += blockDim.x)
        largest = Largest::of(largest, x[i]);
    largest = over_row<Largest>(largest, buffer);
    REAL total = 0;
    for (int64 i = begin + threadIdx.x; i < end; i += blockDim.x) total += exp(x[i] - largest);
    total = over_row<Sum>(total, buffer);
    for (int64 i = begin + threadIdx.x; i < end; i += blockDim.x)
        y[i] = exp(x[i] - largest) / total;
}

// dx = y * (dy - sum(dy * y))
extern "C" __global__ void __launch_bounds__(256, 4) softmax_backward(
    const REAL* __restrict__ dy, const REAL* __restrict__ y,  // (rows, K)
    REAL* __restrict__ dx,                                    // (rows, K)
    int64 rows, int64 classes) {
    __shared__ REAL buffer[256];
    const int64 row = (int64)blockIdx.x * blockDim.y + threadIdx.y;
    const int64 begin = row * classes, end = row < rows ? begin + classes : begin;
    REAL total = 0;
    for (int64 i = begin + threadIdx.x; i < end; i += blockDim.x) total += dy[i] * y[i];
    total = over_row<Sum>(total, buffer);
    for (int64 i = begin + threadIdx.x; i < end; i += blockDim.x) dx[i] = (dy[i] - total) * y[i];
}

// One of `numbers` and `targets` is null. A class number that is none gives the loss NaN.
extern "C" __global__ void __launch_bounds__(256, 4) softmax_cross_entropy(
    const REAL* __restrict__ logits,    // (rows, K)
    const int64* __restrict__ numbers,  // (rows,) class numbers
    const REAL* __restrict__ targets,   // (rows, K) probabilities
    REAL* __restrict__ losses,          // (rows,)
    REAL* __restrict__ probabilities,   // (rows, K)
    int64 rows, int64 classes) {
    __shared__ REAL buffer[256];
    const int64 row = (int64)blockIdx.x * blockDim.y + threadIdx.y;
    const int64 begin = row * classes, end = row < rows ? begin + classes : begin;
    REAL largest = -INFINITE;
    for (int64 i = begin + threadIdx.x; i < end; i += blockDim.x)
        largest = Largest::of(largest, logits[i]);
    largest = over_row<Largest>(largest, buffer);
    REAL total = 0;
    for (int64 i = begin + threadIdx.x; i < end; i += blockDim.x)
        total += exp(logits[i] - largest);
    total = over_row<Sum>(total, buffer);
    const REAL log_total = log(total);
    REAL against = 0;  // sum of targets * log probabilities
    for (int64 i = begin + threadIdx.x; i < end; i += blockDim.x) {
        const REAL shifted = logits[i] - largest;
        probabilities[i] = exp(shifted) / total;
        if (targets) against += (shifted - log_total) * targets[i];
    }
    if (targets) against = over_row<Sum>(against, buffer);
    if (threadIdx.x == 0 && row < rows) {
        if (targets) {
            losses[row] = -against;
        } else {
            const int64 number = numbers[row];
            losses[row] = 0 <= number && number < classes
                              ? log_total - (logits[begin + number] - largest)
                              : NOT_A_NUMBER;
        }
    }
}

// dx = scale * (probabilities * sum(targets) - targets); a class number stands for a one-hot row.
extern "C" __global__ void __launch_bounds__(256, 4) softmax_cross_entropy_backward(
    const REAL* __restrict__ probabilities,  // (rows, K)
    const int64* __restrict__ numbers,       // (rows,) or null
    const REAL* __restrict__ targets,        // (rows, K) or null
    const REAL* __restrict__ scale,          // (rows,)
    REAL* __restrict__ dx,                   // (rows, K)
    int64 rows, int64 classes) {
    __shared__ REAL buffer[256];
    const int64 row = (int64)blockIdx.x * blockDim.y + threadIdx.y;
    const int64 begin = row * classes, end = row < rows ? begin + classes : begin;
    REAL mass = 1;
    if (targets) {
        mass = 0;
        for (int64 i = begin + threadIdx.x; i < end; i += blockDim.x) mass += targets[i];
        mass = over_row<Sum>(mass, buffer);
    }
    for (int64 i = begin + threadIdx.x; i < end; i += blockDim.x) {
        const REAL target = targets ? targets[i] : REAL(i - begin == numbers[row]);
        dx[i] = (probabilities[i] * mass - target) * scale[row];
    }
}
