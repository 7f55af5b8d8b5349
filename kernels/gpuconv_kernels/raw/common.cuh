// What every kernel here starts from. REAL is float or double, given to the compiler (-DREAL=...).
//
// Conventions: arrays are flat and C-contiguous; offsets of elements are 64 bits wide, since an
// array may have more than 2^31 elements; no kernel uses atomics, so results are reproducible.

typedef long long int64;
typedef unsigned long long uint64;

// Numbers in 16 bytes, the widest load or store of one thread.
#define LANES (16 / (int)sizeof(REAL))

#define INFINITE REAL(__int_as_float(0x7f800000))
#define NOT_A_NUMBER REAL(__int_as_float(0x7fc00000))

// W numbers that lie together: one load or store instruction. The address must be a multiple of
// their size, which `aligned` tells for 16 bytes.
template <int W>
struct alignas(W * sizeof(REAL)) Pack {
    REAL at[W];
};

template <int W>
__device__ __forceinline__ Pack<W> load(const REAL* from) {
    return *reinterpret_cast<const Pack<W>*>(from);
}

template <int W>
__device__ __forceinline__ void store(REAL* to, const Pack<W>& values) {
    *reinterpret_cast<Pack<W>*>(to) = values;
}

__device__ __forceinline__ bool aligned(const void* pointer) {
    return (reinterpret_cast<uint64>(pointer) & 15) == 0;
}

// Element-wise kernels: thread i takes i, i + threads(), i + 2 threads(), ...
__device__ __forceinline__ int64 thread() {
    return (int64)blockIdx.x * blockDim.x + threadIdx.x;
}

__device__ __forceinline__ int64 threads() {
    return (int64)gridDim.x * blockDim.x;
}
