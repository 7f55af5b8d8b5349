// Dropout masks from the counter-based generator Philox4x64-10 (Salmon et al. 2011, "Parallel
// random numbers: as easy as 1, 2, 3"), the same bits as NumPy's Philox makes on the CPU.
//
// A block of the generator turns a counter into four 64-bit words. NumPy counts up before it makes
// the first block, and takes two float32 numbers in [0, 1) of each word, the low half first, 24
// bits each. A thread makes one block: eight numbers.

#include "common.cuh"

#define MULTIPLIER_0 0xD2E7470EE14C6C93ull
#define MULTIPLIER_1 0xCA5A826395121157ull
#define WEYL_0 0x9E3779B97F4A7C15ull
#define WEYL_1 0xBB67AE8584CAA73Bull

extern "C" __global__ void __launch_bounds__(256, 4) dropout_mask(
    REAL* __restrict__ mask,  // (count,): 0 or kept
    uint64 key, uint64 stream, float rate, REAL kept, int64 count) {
    for (int64 block = thread(); block * 8 < count; block += threads()) {
        uint64 c0 = 1 + (uint64)block, c1 = 0, c2 = 0, c3 = stream;
        uint64 k0 = key, k1 = 0;
        for (int round = 0; round < 10; ++round) {
            const uint64 high0 = __umul64hi(MULTIPLIER_0, c0), low0 = MULTIPLIER_0 * c0;
            const uint64 high1 = __umul64hi(MULTIPLIER_1, c2), low1 = MULTIPLIER_1 * c2;
            c0 = high1 ^ c1 ^ k0;
            c1 = low1;
            c2 = high0 ^ c3 ^ k1;
            c3 = low0;
            k0 += WEYL_0;
            k1 += WEYL_1;
        }
        const uint64 words[4] = {c0, c1, c2, c3};
#pragma unroll
        for (int l = 0; l < 8; ++l) {
            const unsigned bits = (unsigned)(words[l / 2] >> (l % 2 * 32));
            const float uniform = (float)(bits >> 8) * (1.0f / 16777216.0f);
            if (block * 8 + l < count) mask[block * 8 + l] = uniform >= rate ? kept : REAL(0);
        }
    }
}
