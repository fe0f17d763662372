/* Products with weights that are plain numbers, bfloat16 or float32. See reference.py for the definition, packing.py for the layout.
 *
 * A sum runs over the inputs in their order, in one float32 accumulator for each row and output, however many rows are computed at
 * a time: a row's result does not depend on the others. What is unrolled are rows and outputs.
 */
#include <stdlib.h>

#include "../best.h"
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
    int64_t *ids;        /* [rows] the index of each row's largest output, or -1; out is then not used. Or NULL */
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

struct work {
    const struct float_linear *linear;
    struct best *bests; /* [tasks][rows], if ids are asked for */
    int64_t num_panels, panels_per_task;
};

/* best: where the outputs are offered instead of being stored, or NULL. */
INLINE void store_outputs(const struct float_linear *p, int64_t row, int64_t output, f32x16 sum, struct best_lanes *best) {
    int64_t count = least(LANES, p->num_outputs - output);
    if (count <= 0) return;
    if (p->bias) sum += count == LANES ? load(p->bias, output, 0) : load_some(p->bias, output, count, 0);
    if (p->bf16) sum = floats_of_bfloats(bfloats_of_floats(sum));
    if (best) return offer(best, sum, output, count);
    char *out = p->out + row * p->num_outputs * (p->out_bf16 ? 2 : 4);
    if (count == LANES)
        store(out, output, sum, (int)p->out_bf16);
    else
        store_some(out, output, count, sum, (int)p->out_bf16);
}

INLINE void multiply_bf16(const struct float_linear *p, int64_t panel, int64_t row, int num_rows, struct best_lanes *bests) {
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
        for (int half = 0; half < 2; half++) store_outputs(p, row + r, panel * PANEL + half * LANES, sums[r][half], bests ? bests + r : NULL);
}

INLINE void multiply_fp32(const struct float_linear *p, int64_t panel, int64_t row, int num_rows, struct best_lanes *bests) {
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
        for (int half = 0; half < 2; half++) store_outputs(p, row + r, panel * PANEL + half * LANES, sums[r][half], bests ? bests + r : NULL);
}

/* Up to MOST_ROWS rows against a panel. */
INLINE void multiply(const struct float_linear *p, int64_t panel, int64_t row, int num_rows, struct best_lanes *bests) {
    p->bf16 ? multiply_bf16(p, panel, row, num_rows, bests) : multiply_fp32(p, panel, row, num_rows, bests);
}

/* All rows from `row` to `end`, at most MOST_ROWS if there are bests. */
INLINE void multiply_rows(const struct float_linear *p, int64_t panel, int64_t row, int64_t end, struct best_lanes *bests) {
    for (; row + 8 <= end; row += 8) multiply(p, panel, row, 8, bests);
    if (end - row >= 4) multiply(p, panel, row, 4, bests), row += 4, bests += bests ? 4 : 0;
    if (end - row >= 2) multiply(p, panel, row, 2, bests), row += 2, bests += bests ? 2 : 0;
    if (end - row >= 1) multiply(p, panel, row, 1, bests);
}

static void run(const void *context, int64_t begin, int64_t end) {
    const struct float_linear *p = ((const struct work *)context)->linear;
    for (int64_t panel = begin; panel < end; panel++) multiply_rows(p, panel, 0, p->num_rows, NULL);
}

/* Rows outside, panels inside: a row's best stays in registers or near them. */
static void run_task_for_best(const struct work *work, int64_t task) {
    const struct float_linear *p = work->linear;
    int64_t begin = task * work->panels_per_task, end = least(begin + work->panels_per_task, work->num_panels);
    for (int64_t row = 0; row < p->num_rows; row += MOST_ROWS) {
        int64_t last = least(row + MOST_ROWS, p->num_rows);
        struct best_lanes lanes[MOST_ROWS];
        for (int r = 0; r < MOST_ROWS; r++) lanes[r] = nothing_yet();
        for (int64_t panel = begin; panel < end; panel++) multiply_rows(p, panel, row, last, lanes);
        for (int64_t r = row; r < last; r++) work->bests[task * p->num_rows + r] = best_of_lanes(lanes + r - row);
    }
}

static void run_for_best(const void *context, int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; task++) run_task_for_best(context, task);
}

static int64_t find_best(struct work *work) {
    const struct float_linear *p = work->linear;
    int64_t num_tasks = (work->num_panels + work->panels_per_task - 1) / work->panels_per_task;
    work->bests = malloc((size_t)most(1, num_tasks * p->num_rows) * sizeof(struct best));
    if (!work->bests) return 1;
    parallel(run_for_best, work, num_tasks, 1);
    for (int64_t row = 0; row < p->num_rows; row++) p->ids[row] = best_of_tasks(work->bests + row, num_tasks, p->num_rows);
    free(work->bests);
    return 0;
}

/* Returns 0, or 1 when there is no memory to work in. */
EXPORT int64_t callboard_float_linear(const struct float_linear *p) {
    int64_t panel_bytes = most(1, p->num_inputs * PANEL * (p->bf16 ? 2 : 4));
    struct work work = {p, NULL, (p->num_outputs + PANEL - 1) / PANEL, most(1, WEIGHT_BYTES_PER_TASK / panel_bytes)};
    if (p->ids) return find_best(&work);
    parallel(run, &work, work.num_panels, work.panels_per_task);
    return 0;
}
