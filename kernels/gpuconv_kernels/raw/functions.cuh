// The element-wise functions and their derivatives.
//
// Definitions are those of Keras 3.15 (hard_sigmoid is relu6(x + 3)/6; PyTorch 2.13 agrees). NaN
// gives NaN. At a kink the gradient is PyTorch's: relu passes nothing at 0. Which function it is
// is the same for all threads of a launch, so the branches cost next to nothing.

enum Kind {
    LINEAR, RELU, RELU6, LEAKY_RELU, ELU, SELU, SIGMOID, HARD_SIGMOID, TANH, EXPONENTIAL,
    GELU, GELU_TANH, SILU, HARD_SILU, MISH, SOFTPLUS, SOFTSIGN
};

#define SELU_ALPHA REAL(1.6732632423543772)  // Klambauer et al. 2017
#define SELU_SCALE REAL(1.0507009873554805)
#define ROOT_2_OVER_PI REAL(0.7978845608028654)
#define INVERSE_ROOT_2_PI REAL(0.3989422804014327)
#define GELU_CUBIC REAL(0.044715)

__device__ __forceinline__ REAL clipped(REAL x, REAL low, REAL high) {
    return x < low ? low : (x > high ? high : x);
}

__device__ __forceinline__ REAL sigmoid(REAL x) {
    return REAL(1) / (REAL(1) + exp(-x));
}

// exp(-2 a) with a = sqrt(2/pi) (x + 0.044715 x^3); (1 + tanh a)/2 = 1/(1 + exp(-2 a)).
__device__ __forceinline__ REAL gelu_tanh_decay(REAL x) {
    return exp(REAL(-2) * ROOT_2_OVER_PI * (REAL(1) + GELU_CUBIC * x * x) * x);
}

__device__ __forceinline__ REAL activate(int kind, REAL alpha, REAL x) {
    switch (kind) {
        case RELU: return x <= 0 ? REAL(0) : x;
        case RELU6: return x <= 0 ? REAL(0) : (x >= 6 ? REAL(6) : x);
        case LEAKY_RELU: return x < 0 ? x * alpha : x;
        case ELU: return x < 0 ? alpha * expm1(x) : x;
        case SELU: return SELU_SCALE * (x < 0 ? SELU_ALPHA * expm1(x) : x);
        case SIGMOID: return sigmoid(x);
        case HARD_SIGMOID: return clipped(x + REAL(3), REAL(0), REAL(6)) / REAL(6);
        case TANH: return tanh(x);
        case EXPONENTIAL: return exp(x);
        case GELU: return x * normcdf(x);
        case GELU_TANH: return x / (REAL(1) + gelu_tanh_decay(x));
        case SILU: return x / (REAL(1) + exp(-x));
        case HARD_SILU: return x * (clipped(x + REAL(3), REAL(0), REAL(6)) / REAL(6));
        case MISH: {  // tanh(log(1 + e)) = w/(w + 2), which is 1 to the last bit from x = 20 on
            const REAL e = exp(x > 20 ? REAL(20) : x);
            const REAL w = e * (e + REAL(2));
            return x * (w / (w + REAL(2)));
        }
        case SOFTPLUS: return (x > 0 ? x : REAL(0)) + log1p(exp(-fabs(x)));
        case SOFTSIGN: return x / (REAL(1) + fabs(x));
        default: return x;
    }
}

// dy times the derivative. z is the output up to EXPONENTIAL and the input from GELU on.
__device__ __forceinline__ REAL activate_backward(int kind, REAL alpha, REAL dy, REAL z) {
    switch (kind) {
        case RELU: return z != 0 ? dy : REAL(0);
        case RELU6: return z > 0 && z < 6 ? dy : REAL(0);
        case LEAKY_RELU: return z > 0 ? dy : dy * alpha;
        case ELU: return z > 0 ? dy : dy * (z + alpha);
        case SELU: return z > 0 ? dy * SELU_SCALE : dy * (z + SELU_SCALE * SELU_ALPHA);
        case SIGMOID: return dy * ((REAL(1) - z) * z);
        case HARD_SIGMOID: return z > 0 && z < 1 ? dy / REAL(6) : REAL(0);
        case TANH: return dy * (REAL(1) - z * z);
        case EXPONENTIAL: return dy * z;
        case GELU: return dy * (normcdf(z) + z * (INVERSE_ROOT_2_PI * exp(REAL(-0.5) * z * z)));
        case GELU_TANH: {  // past 10 the slope is 0 or 1 to the last bit
            const REAL x = clipped(z, REAL(-10), REAL(10));
            const REAL e = gelu_tanh_decay(x);
            const REAL gate = REAL(1) / (REAL(1) + e);
            const REAL inner = REAL(2) * ROOT_2_OVER_PI * (REAL(1) + REAL(3) * GELU_CUBIC * x * x);
            return dy * (gate * (REAL(1) + x * inner * (e * gate)));
        }
        case SILU: {
            const REAL gate = sigmoid(z);
            return dy * (gate * (REAL(1) + z * (REAL(1) - gate)));
        }
        case HARD_SILU:
            if (z <= -3) return REAL(0);
            return z >= 3 ? dy : dy * (z / REAL(3) + REAL(0.5));
        case MISH: {  // x w/(w + 2) has the slope w/(w + 2) + 4 x e (e + 1)/(w + 2)^2
            const REAL x = z > 20 ? REAL(20) : z;
            const REAL e = exp(x);
            const REAL w = e * (e + REAL(2));
            const REAL inverse = REAL(1) / (w + REAL(2));
            return dy * (inverse * (w + REAL(4) * x * (e * (e + REAL(1)) * inverse)));
        }
        case SOFTPLUS: return dy * sigmoid(z);
        case SOFTSIGN: {
            const REAL size = REAL(1) + fabs(z);
            return dy / (size * size);
        }
        default: return dy;
    }
}
