/* RMS normalisation, alone or after adding into the residual. See reference.py for the definition. */
#include "../parallel.h"

#define ELEMENTS_PER_TASK 16384 /* about 5 us of work, the price of waking a thread */

/* As SLOTS in __init__.py lays it out. Strides in bytes. */
struct rms_norm {
    char *out;
    const char *x;
    char *residual; /* NULL: nothing to add */
    const void *weight;
    int64_t num_rows, hidden;
    int64_t rows_abreast; /* that lie next to each other in x, before its next stride */
    int64_t x_stride, residual_stride;
    double eps;
    int64_t bf16, weight_bf16;
};

/* Adds x to the residual, if there is one, and gives back the (rounded) row to normalise. */
INLINE f32x16 summed(const void *x, void *residual, int64_t i, int64_t count, int bf16) {
    f32x16 v = count == LANES ? load(x, i, bf16) : load_some(x, i, count, bf16);
    if (!residual) return v;
    f32x16 old = count == LANES ? load(residual, i, bf16) : load_some(residual, i, count, bf16);
    if (count == LANES)
        store(residual, i, old + v, bf16);
    else
        store_some(residual, i, count, old + v, bf16);
    return bf16 ? floats_of_bfloats(bfloats_of_floats(old + v)) : old + v;
}

INLINE float mean_square(const void *x, void *residual, int64_t hidden, int bf16) {
    f32x16 sums[4] = {{0}};
    int64_t i = 0;
    for (; i + 4 * LANES <= hidden; i += 4 * LANES)
        for (int j = 0; j < 4; j++) {
            f32x16 v = summed(x, residual, i + j * LANES, LANES, bf16);
            sums[j] = multiply_add(v, v, sums[j]);
        }
    for (; i < hidden; i += LANES) {
        f32x16 v = summed(x, residual, i, least(LANES, hidden - i), bf16);
        sums[0] = multiply_add(v, v, sums[0]);
    }
    return sum_of_lanes((sums[0] + sums[1]) + (sums[2] + sums[3])) / (float)hidden;
}

INLINE void normalise(void *out, const void *x, void *residual, const struct rms_norm *rows, int bf16, int weight_bf16) {
    int64_t hidden = rows->hidden, i = 0;
    f32x16 scale = broadcast(1.0f / sqrtf(mean_square(x, residual, hidden, bf16) + (float)rows->eps));
    const void *row = residual ? residual : x;
    for (; i + LANES <= hidden; i += LANES)
        store(out, i, load(row, i, bf16) * scale * load(rows->weight, i, weight_bf16), bf16);
    if (i < hidden) {
        int64_t count = hidden - i;
        f32x16 v = load_some(row, i, count, bf16) * scale * load_some(rows->weight, i, count, weight_bf16);
        store_some(out, i, count, v, bf16);
    }
}

static void run(const void *context, int64_t begin, int64_t end) {
    const struct rms_norm *rows = context;
    int64_t out_stride = rows->hidden * (rows->bf16 ? 2 : 4), abreast = rows->rows_abreast;
    for (int64_t r = begin; r < end; r++) {
        void *out = rows->out + r * out_stride, *residual = rows->residual ? rows->residual + r * rows->residual_stride : 0;
        const void *x = rows->x + r / abreast * rows->x_stride + r % abreast * out_stride;
        if (rows->bf16 && rows->weight_bf16)
            normalise(out, x, residual, rows, 1, 1);
        else if (rows->bf16)
            normalise(out, x, residual, rows, 1, 0);
        else if (rows->weight_bf16)
            normalise(out, x, residual, rows, 0, 1);
        else
            normalise(out, x, residual, rows, 0, 0);
    }
}

EXPORT int64_t callboard_rms_norm(const struct rms_norm *rows) {
    parallel(run, rows, rows->num_rows, ELEMENTS_PER_TASK / most(rows->hidden, 1));
    return 0;
}
