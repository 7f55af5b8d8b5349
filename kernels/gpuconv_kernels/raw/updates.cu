// Optimizer updates in place: each element is read once, changed in registers and written once.
// Flags place the constants as Keras 3.15 or PyTorch 2.13 does; see array/updates.py.

#include "common.cuh"

// Keras: v = mu v - lr g, then w += v or, Nesterov, w += mu v - lr g.
// PyTorch: v = mu v + g (v = g at the first step), then w -= lr v or, Nesterov, w -= lr (g + mu v).
extern "C" __global__ void __launch_bounds__(256, 4) sgd_update(
    REAL* __restrict__ value, const REAL* __restrict__ gradient,
    REAL* __restrict__ velocity,  // or null
    REAL learning_rate, REAL momentum, int nesterov, int torch_form, int first, int64 count) {
    for (int64 i = thread(); i < count; i += threads()) {
        const REAL g = gradient[i];
        REAL change = -learning_rate * g;
        if (velocity) {
            REAL v = velocity[i];
            if (torch_form) {
                v = first ? g : momentum * v + g;
                change = -learning_rate * (nesterov ? momentum * v + g : v);
            } else {
                v = momentum * v - learning_rate * g;
                change = nesterov ? momentum * v - learning_rate * g : v;
            }
            velocity[i] = v;
        }
        value[i] += change;
    }
}

// w -= alpha m / (sqrt(v) + added), with the bias corrections in alpha and added.
extern "C" __global__ void __launch_bounds__(256, 4) adam_update(
    REAL* __restrict__ value, const REAL* __restrict__ gradient,
    REAL* __restrict__ first_moment, REAL* __restrict__ second_moment,
    REAL alpha, REAL beta_1, REAL rest_1, REAL beta_2, REAL rest_2, REAL added, int64 count) {
    for (int64 i = thread(); i < count; i += threads()) {
        const REAL g = gradient[i];
        const REAL m = beta_1 * first_moment[i] + rest_1 * g;  // rest = 1 - beta, from the host
        const REAL v = beta_2 * second_moment[i] + rest_2 * (g * g);
        first_moment[i] = m;
        second_moment[i] = v;
        value[i] -= alpha * (m / (sqrt(v) + added));
    }
}

// s: running mean of g^2, less the square of that of g if centered. Keras (epsilon_inside_root):
// d = lr g / sqrt(s + eps); PyTorch: d = g / (sqrt(s) + eps), and lr multiplies what is applied.
extern "C" __global__ void __launch_bounds__(256, 4) rmsprop_update(
    REAL* __restrict__ value, const REAL* __restrict__ gradient, REAL* __restrict__ mean_square,
    REAL* __restrict__ mean_gradient,  // or null
    REAL* __restrict__ velocity,       // or null
    REAL learning_rate, REAL rho, REAL rest, REAL momentum, REAL epsilon,
    int epsilon_inside_root, int64 count) {
    for (int64 i = thread(); i < count; i += threads()) {
        const REAL g = gradient[i];
        REAL s = rho * mean_square[i] + rest * (g * g);
        mean_square[i] = s;
        if (mean_gradient) {
            const REAL c = rho * mean_gradient[i] + rest * g;
            mean_gradient[i] = c;
            s -= c * c;
            if (s < 0) s = 0;  // rounding, where the gradient is constant
        }
        REAL change = epsilon_inside_root ? learning_rate * g / sqrt(s + epsilon)
                                          : g / (sqrt(s) + epsilon);
        if (velocity) {
            change += momentum * velocity[i];
            velocity[i] = change;
        }
        value[i] -= epsilon_inside_root ? change : learning_rate * change;
    }
}

extern "C" __global__ void __launch_bounds__(256, 4) adagrad_update(
    REAL* __restrict__ value, const REAL* __restrict__ gradient, REAL* __restrict__ accumulator,
    REAL learning_rate, REAL epsilon, int epsilon_inside_root, int64 count) {
    for (int64 i = thread(); i < count; i += threads()) {
        const REAL g = gradient[i];
        const REAL s = accumulator[i] + g * g;
        accumulator[i] = s;
        const REAL root = epsilon_inside_root ? sqrt(s + epsilon) : sqrt(s) + epsilon;
        value[i] -= learning_rate * g / root;
    }
}
