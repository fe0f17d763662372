/* Products with weights that are plain numbers, bfloat16 or float32. See reference.py for the definition, packing.py for the layout.
 *
 * A sum runs over the inputs in their order, in one float32 accumulator for each row and output, however many rows are computed at
 * a time: a row's result does not depend on the others. What is unrolled are rows and outputs.
 */
#include "../parallel.h"

#define PANEL 32      /* outputs that lie side by side in memory: two vectors */
#define MOST_ROWS 8   /* 16 accumulators, two weights and a broadcast stay in registers */
#define WEIGHT_BYTES_PER_TASK 65536

/* As SLOTS in __init__.py lays it out. Strides in bytes. */
struct float_linear {
    char *out;           /* [rows, outputs] */
    const char *x;       /* [rows, inputs] */
    const char *weight;  /* packed */
    const float *bias;   /* [outputs] or NULL */
    int64_t num_rows, num_inputs, num_outputs, x_stride, bf16;
    int64_t out_bf16;    /* what is rounded to bfloat16 may be stored as float32 all the same */
};

/* Two bfloat16 in one word: the first in the low half. */
INLINE uint32_t load_pair(const char *row, int64_t pair, int64_t num_inputs) {
    uint32_t both = 0;
    memcpy(&both, row + 4 * pair, (size_t)(2 * pair + 1 < num_inputs ? 4 : 2));
    return both;
}

/* sum + first * first + second * second, for sixteen outputs. */
INLINE f32x16 add_pair(f32x16 sum, u32x16 weights, uint32_t x) {
#if defined(__AVX512BF16__)
    return (f32x16)_mm512_dpbf16_ps((__m512)sum, (__m512bh)weights, (__m512bh)_mm512_set1_epi32((int)x));
#else
    f32x16 first = (f32x16)(weights << 16), second = (f32x16)(weights & 0xffff0000u);
    sum = multiply_add(first, broadcast(float_of_bfloat((uint16_t)x)), sum);
    return multiply_add(second, broadcast(float_of_bfloat((uint16_t)(x >> 16))), sum);
#endif
}

INLINE void store_outputs(const struct float_linear *p, int64_t row, int64_t output, f32x16 sum) {
    int64_t count = least(LANES, p->num_outputs - output);
    if (count <= 0) return;
    char *out = p->out + row * p->num_outputs * (p->out_bf16 ? 2 : 4);
    if (p->bias) sum += count == LANES ? load(p->bias, output, 0) : load_some(p->bias, output, count, 0);
    if (p->bf16) sum = floats_of_bfloats(bfloats_of_floats(sum));
    if (count == LANES)
        store(out, output, sum, (int)p->out_bf16);
    else
        store_some(out, output, count, sum, (int)p->out_bf16);
}

INLINE void multiply_bf16(const struct float_linear *p, int64_t panel, int64_t row, int num_rows) {
    int64_t num_pairs = (p->num_inputs + 1) / 2, whole = p->num_inputs / 2;
    const char *weight = p->weight + panel * num_pairs * PANEL * 4, *x = p->x + row * p->x_stride;
    f32x16 sums[MOST_ROWS][2] = {{{0}}};
    for (int64_t pair = 0; pair < num_pairs; pair++, weight += PANEL * 4) {
        u32x16 low, high;
        memcpy(&low, weight, sizeof low);
        memcpy(&high, weight + sizeof low, sizeof high);
#pragma GCC unroll 8
        for (int r = 0; r < num_rows; r++) {
            uint32_t both;
            if (pair < whole)
                memcpy(&both, x + r * p->x_stride + 4 * pair, sizeof both);
            else
                both = load_pair(x + r * p->x_stride, pair, p->num_inputs);
            sums[r][0] = add_pair(sums[r][0], low, both);
            sums[r][1] = add_pair(sums[r][1], high, both);
        }
    }
    for (int r = 0; r < num_rows; r++)
        for (int half = 0; half < 2; half++) store_outputs(p, row + r, panel * PANEL + half * LANES, sums[r][half]);
}

INLINE void multiply_fp32(const struct float_linear *p, int64_t panel, int64_t row, int num_rows) {
    const char *weight = p->weight + panel * p->num_inputs * PANEL * 4, *x = p->x + row * p->x_stride;
    f32x16 sums[MOST_ROWS][2] = {{{0}}};
    for (int64_t input = 0; input < p->num_inputs; input++, weight += PANEL * 4) {
        f32x16 low = load(weight, 0, 0), high = load(weight, LANES, 0);
#pragma GCC unroll 8
        for (int r = 0; r < num_rows; r++) {
            float value;
            memcpy(&value, x + r * p->x_stride + 4 * input, sizeof value);
            sums[r][0] = multiply_add(low, broadcast(value), sums[r][0]);
            sums[r][1] = multiply_add(high, broadcast(value), sums[r][1]);
        }
    }
    for (int r = 0; r < num_rows; r++)
        for (int half = 0; half < 2; half++) store_outputs(p, row + r, panel * PANEL + half * LANES, sums[r][half]);
}

#define MULTIPLY(rows)                                                                                                              \
    (p->bf16 ? multiply_bf16(p, panel, row, rows) : multiply_fp32(p, panel, row, rows))

static void run(const void *context, int64_t begin, int64_t end) {
    const struct float_linear *p = context;
    for (int64_t panel = begin; panel < end; panel++) {
        int64_t row = 0;
        for (; row + 8 <= p->num_rows; row += 8) MULTIPLY(8);
        if (p->num_rows - row >= 4) MULTIPLY(4), row += 4;
        if (p->num_rows - row >= 2) MULTIPLY(2), row += 2;
        if (p->num_rows - row >= 1) MULTIPLY(1);
    }
}

EXPORT int64_t callboard_float_linear(const struct float_linear *p) {
    int64_t panel_bytes = most(1, p->num_inputs * PANEL * (p->bf16 ? 2 : 4));
    int64_t num_panels = (p->num_outputs + PANEL - 1) / PANEL;
    int64_t panels = most(1, WEIGHT_BYTES_PER_TASK / panel_bytes);
    parallel(run, p, num_panels, panels);
    return 0;
}
