// Sums over any axes, in two stages and without atomics.
//
// Stage 1 cuts the axes to sum over into segments; each block adds up one segment in REAL, each
// thread a few elements and then the threads in a tree, and writes a double. Stage 2
// (`finish_sums`) adds the segments in double. The order never changes.
//
// What is summed (TERM), from x and the mean, inverse deviation and scale that meet it:

#include "common.cuh"
#include "nest.cuh"

enum Term {
    VALUES,     // x
    SQUARES,    // (x - mean)^2
    GRADIENTS,  // g = dy * scale and, as a second sum, g * (x - mean) * inverse
};

struct Sums {
    REAL first, second;
};

__device__ __forceinline__ void add_term(
    Sums& sums, int term, const REAL* x, const REAL* dy, const REAL* mean, const REAL* inverse,
    const REAL* scale, const Offsets& at) {
    if (term == VALUES) {
        sums.first += x[at.x];
    } else if (term == SQUARES) {
        const REAL deviation = x[at.x] - mean[at.mean];
        sums.first += deviation * deviation;
    } else {
        const REAL g = scale ? dy[at.x] * scale[at.scale] : dy[at.x];
        sums.first += g;
        sums.second += g * ((x[at.x] - mean[at.mean]) * inverse[at.mean]);
    }
}

// Stage 1 where the innermost axis is kept: neighbouring threads have neighbouring sums.
//
//     x:  kept | reduced | .. | inner (kept)        thread (X, Y): column X, rows Y, Y + 8, ...
//
// grid (tiles of the inner axis * outer kept elements, segments), block (X, Y) with X*Y <= 256 and
// Y a power of two.
extern "C" __global__ void __launch_bounds__(256, 4) sum_columns(
    const REAL* __restrict__ x, const REAL* __restrict__ dy, const REAL* __restrict__ mean,
    const REAL* __restrict__ inverse, const REAL* __restrict__ scale,
    double* __restrict__ first,   // (segments, kept elements)
    double* __restrict__ second,  // the same, or null
    Nest kept, Nest reduced, int64 inner, int64 inner_mean, int64 inner_scale, int term,
    int64 kept_count, int64 reduced_count, int64 per_segment) {
    __shared__ REAL first_sums[256], second_sums[256];
    const int64 tiles = (inner + blockDim.x - 1) / blockDim.x;
    const int64 outer = blockIdx.x / tiles;
    const int64 j = (blockIdx.x - outer * tiles) * blockDim.x + threadIdx.x;
    const Offsets base = at(kept, outer);
    const int64 begin = blockIdx.y * per_segment;
    const int64 end = begin + per_segment < reduced_count ? begin + per_segment : reduced_count;
    Sums sums = {0, 0};
    if (j < inner)
        for (int64 r = begin + threadIdx.y; r < end; r += blockDim.y) {
            Offsets where = at(reduced, r);
            where.x += base.x + j;
            where.mean += base.mean + j * inner_mean;
            where.scale += base.scale + j * inner_scale;
            add_term(sums, term, x, dy, mean, inverse, scale, where);
        }
    const int me = threadIdx.y * blockDim.x + threadIdx.x;
    first_sums[me] = sums.first;
    second_sums[me] = sums.second;
    __syncthreads();
    for (int half = blockDim.y / 2; half > 0; half /= 2) {
        if ((int)threadIdx.y < half) {
            first_sums[me] += first_sums[me + half * blockDim.x];
            second_sums[me] += second_sums[me + half * blockDim.x];
        }
        __syncthreads();
    }
    if (threadIdx.y == 0 && j < inner) {
        const int64 to = blockIdx.y * kept_count + outer * inner + j;
        first[to] = first_sums[me];
        if (second) second[to] = second_sums[me];
    }
}

// Stage 1 where the innermost axis is summed over: X threads share a sum, a block has Y sums. Both
// are powers of two, together at most 256. grid (ceil(kept elements / Y), segments).
extern "C" __global__ void __launch_bounds__(256, 4) sum_runs(
    const REAL* __restrict__ x, const REAL* __restrict__ dy, const REAL* __restrict__ mean,
    const REAL* __restrict__ inverse, const REAL* __restrict__ scale,
    double* __restrict__ first,   // (segments, kept elements)
    double* __restrict__ second,  // the same, or null
    Nest kept, Nest reduced, int64 inner, int64 inner_mean, int64 inner_scale, int term,
    int64 kept_count, int64 reduced_count, int64 per_segment) {
    __shared__ REAL first_sums[256], second_sums[256];
    const int64 k = (int64)blockIdx.x * blockDim.y + threadIdx.y;
    const Offsets base = at(kept, k);
    const int64 begin = blockIdx.y * per_segment;  // counts elements, the inner axis included
    const int64 end = begin + per_segment < reduced_count ? begin + per_segment : reduced_count;
    Sums sums = {0, 0};
    if (k < kept_count)
        for (int64 i = begin + threadIdx.x; i < end; i += blockDim.x) {
            const int64 outer = reduced.count > 0 ? i / inner : 0;
            const int64 j = i - outer * inner;
            Offsets where = at(reduced, outer);
            where.x += base.x + j;
            where.mean += base.mean + j * inner_mean;
            where.scale += base.scale + j * inner_scale;
            add_term(sums, term, x, dy, mean, inverse, scale, where);
        }
    const int me = threadIdx.y * blockDim.x + threadIdx.x;
    first_sums[me] = sums.first;
    second_sums[me] = sums.second;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if ((int)threadIdx.x < half) {
            first_sums[me] += first_sums[me + half];
            second_sums[me] += second_sums[me + half];
        }
        __syncthreads();
    }
    if (threadIdx.x == 0 && k < kept_count) {
        first[blockIdx.y * kept_count + k] = first_sums[me];
        if (second) second[blockIdx.y * kept_count + k] = second_sums[me];
    }
}

// Stage 2: out[k] = factor * sum over the segments of partial[segment, k]. grid (ceil(kept / 32)),
// block (32, 8).
extern "C" __global__ void __launch_bounds__(256, 4) finish_sums(
    const double* __restrict__ partial,  // (segments, kept)
    REAL* __restrict__ out,              // (kept,)
    int64 kept, int64 segments, double factor) {
    __shared__ double sums[8][32];
    const int64 k = (int64)blockIdx.x * 32 + threadIdx.x;
    double total = 0;
    if (k < kept)
        for (int64 s = threadIdx.y; s < segments; s += 8) total += partial[s * kept + k];
    sums[threadIdx.y][threadIdx.x] = total;
    __syncthreads();
    for (int half = 4; half > 0; half /= 2) {
        if ((int)threadIdx.y < half)
            sums[threadIdx.y][threadIdx.x] += sums[threadIdx.y + half][threadIdx.x];
        __syncthreads();
    }
    if (threadIdx.y == 0 && k < kept) out[k] = (REAL)(factor * sums[0][threadIdx.x]);
}
