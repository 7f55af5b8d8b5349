// Windows that slide over one to three spatial dimensions; missing ones come first, with extent 1.
//
//     input position = output position * stride - lo + tap * dilation

struct Window {
    int input[3], output[3], kernel[3], stride[3], dilation[3], lo[3], hi[3];
};

struct Position {
    int64 sample;
    int at[3];
};

// A position counted row-major through samples and planes -> its coordinates.
__device__ __forceinline__ Position split(int64 position, const int (&extent)[3]) {
    const int plane = extent[0] * extent[1] * extent[2];
    const int64 sample = position / plane;
    int rest = (int)(position - sample * plane);
    Position p;
    p.sample = sample;
    p.at[2] = rest % extent[2];
    rest /= extent[2];
    p.at[1] = rest % extent[1];
    p.at[0] = rest / extent[1];
    return p;
}

// Row-major number of a position in its own plane.
__device__ __forceinline__ int in_plane(int i0, int i1, int i2, const int (&extent)[3]) {
    return (i0 * extent[1] + i1) * extent[2] + i2;
}

__device__ __forceinline__ bool inside(int i, int extent) {
    return 0 <= i && i < extent;
}

// The output that meets input i in dimension `axis` by one tap, or -1. This turns a scatter (each
// output adds to the inputs of its window) into a gather (each input asks who has met it).
__device__ __forceinline__ int output_meeting(int i, int tap, int axis, const Window& w) {
    const int distance = i + w.lo[axis] - tap * w.dilation[axis];
    if (distance < 0) return -1;
    const int q = distance / w.stride[axis];
    return q * w.stride[axis] == distance && q < w.output[axis] ? q : -1;
}
