/* act(gate) * up for the gated activations. See reference.py for the definitions. */
#include "../parallel.h"

#define ELEMENTS_PER_TASK 8192

enum activation { SILU, GELU_TANH, GELU_ERF };

/* As SLOTS in __init__.py lays it out. stride in bytes. */
struct gated_activation {
    char *out;
    const char *gate_up;
    int64_t num_rows, intermediate, stride, activation, bf16;
};

/* erf(x) to 1.5e-7, Abramowitz and Stegun 7.1.26. */
INLINE f32x16 error_function(f32x16 x) {
    f32x16 size = larger(x, -x);
    f32x16 t = 1.0f / multiply_add(size, broadcast(0.3275911f), broadcast(1.0f));
    f32x16 p = broadcast(1.061405429f);
    p = multiply_add(p, t, broadcast(-1.453152027f));
    p = multiply_add(p, t, broadcast(1.421413741f));
    p = multiply_add(p, t, broadcast(-0.284496736f));
    p = multiply_add(p, t, broadcast(0.254829592f));
    f32x16 positive = 1.0f - p * t * exponential(-(size * size));
    return choose(x < 0.0f, -positive, positive);
}

INLINE f32x16 activate(f32x16 x, int activation) {
    if (activation == SILU) return x / (1.0f + exponential(-x));
    if (activation == GELU_ERF) return x * 0.5f * (1.0f + error_function(x * 0.70710678f));
    f32x16 inner = x * 1.59576912f * multiply_add(x * x, broadcast(0.044715f), broadcast(1.0f)); /* 2 * sqrt(2 / pi) */
    return x / (1.0f + exponential(-inner)); /* (1 + tanh(u)) / 2 = 1 / (1 + exp(-2u)), without its cancellation */
}

INLINE void gate_row(void *out, const void *gate_up, int64_t intermediate, int activation, int bf16) {
    int64_t i = 0;
    for (; i + LANES <= intermediate; i += LANES)
        store(out, i, activate(load(gate_up, i, bf16), activation) * load(gate_up, intermediate + i, bf16), bf16);
    if (i < intermediate) {
        int64_t count = intermediate - i;
        f32x16 gate = load_some(gate_up, i, count, bf16), up = load_some(gate_up, intermediate + i, count, bf16);
        store_some(out, i, count, activate(gate, activation) * up, bf16);
    }
}

INLINE void gate_rows(const struct gated_activation *rows, int64_t begin, int64_t end, int activation, int bf16) {
    int64_t out_stride = rows->intermediate * (bf16 ? 2 : 4);
    for (int64_t r = begin; r < end; r++)
        gate_row(rows->out + r * out_stride, rows->gate_up + r * rows->stride, rows->intermediate, activation, bf16);
}

static void run(const void *context, int64_t begin, int64_t end) {
    const struct gated_activation *rows = context;
    switch (rows->activation * 2 + rows->bf16) {
    case SILU * 2: gate_rows(rows, begin, end, SILU, 0); break;
    case SILU * 2 + 1: gate_rows(rows, begin, end, SILU, 1); break;
    case GELU_TANH * 2: gate_rows(rows, begin, end, GELU_TANH, 0); break;
    case GELU_TANH * 2 + 1: gate_rows(rows, begin, end, GELU_TANH, 1); break;
    case GELU_ERF * 2: gate_rows(rows, begin, end, GELU_ERF, 0); break;
    case GELU_ERF * 2 + 1: gate_rows(rows, begin, end, GELU_ERF, 1); break;
    }
}

EXPORT int64_t callboard_gated_activation(const struct gated_activation *rows) {
    parallel(run, rows, rows->num_rows, ELEMENTS_PER_TASK / most(rows->intermediate, 1));
    return 0;
}
