// Nested axes of an array x, and of vectors that are broadcast to it.
//
// The axes of x that behave alike next to each other have been merged by the caller, so that at
// most three are left beside the innermost. A vector's stride is 0 along an axis that it lacks.

struct Nest {
    int64 count;  // axes used; the first is the innermost of them
    int64 extent[3], x[3], mean[3], scale[3];
};

// Where an element of x, and what meets it of `mean` and of `scale`, stand.
struct Offsets {
    int64 x, mean, scale;
};

__device__ __forceinline__ Offsets at(const Nest& nest, int64 index) {
    Offsets offsets = {0, 0, 0};
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) {
        if (axis >= nest.count) break;
        const bool outermost = axis + 1 == nest.count;  // saves a division
        const int64 outer = outermost ? 0 : index / nest.extent[axis];
        const int64 digit = index - outer * nest.extent[axis];
        offsets.x += digit * nest.x[axis];
        offsets.mean += digit * nest.mean[axis];
        offsets.scale += digit * nest.scale[axis];
        index = outer;
    }
    return offsets;
}
