/* The index of the largest logit of each row; of equal ones, the first. */
#include "../parallel.h"

#define ELEMENTS_PER_TASK 32768

/* As SLOTS in __init__.py lays it out. stride in elements. */
struct argmax {
    int64_t *out;
    const float *logits;
    int64_t num_rows, num_columns, stride;
};

INLINE int64_t first_largest(const float *row, int64_t count) {
    f32x16 peaks[4];
    for (int j = 0; j < 4; j++) peaks[j] = broadcast(-INFINITY);
    int64_t i = 0;
    for (; i + 4 * LANES <= count; i += 4 * LANES)
        for (int j = 0; j < 4; j++) peaks[j] = larger(load(row, i + j * LANES, 0), peaks[j]); /* in this order a NaN loses */
    float peak = largest_lane(larger(larger(peaks[0], peaks[1]), larger(peaks[2], peaks[3])));
    for (; i < count; i++) peak = row[i] > peak ? row[i] : peak;
    for (i = 0; i < count; i++)
        if (row[i] == peak) return i;
    return 0; /* every logit is NaN */
}

static void run(const void *context, int64_t begin, int64_t end) {
    const struct argmax *rows = context;
    for (int64_t r = begin; r < end; r++) rows->out[r] = first_largest(rows->logits + r * rows->stride, rows->num_columns);
}

EXPORT int64_t callboard_argmax(const struct argmax *rows) {
    parallel(run, rows, rows->num_rows, ELEMENTS_PER_TASK / most(rows->num_columns, 1));
    return 0;
}
