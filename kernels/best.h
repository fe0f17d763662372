/* The largest output of each row of a product, kept while the product runs, so that nobody stores outputs only to search them.
 *
 * Each of 16 lanes keeps the best of the outputs that passed it; a task hands on one best per row, and the caller takes the best
 * of the tasks'. Of equal outputs the first wins, whoever computed it. A NaN counts as infinite: either spoils its row. */
#ifndef CALLBOARD_BEST_H
#define CALLBOARD_BEST_H

#include "vector.h"

struct best {
    float value;
    int32_t output;
};

struct best_lanes {
    f32x16 values;
    i32x16 outputs;
};

INLINE struct best_lanes nothing_yet(void) { return (struct best_lanes){broadcast(-INFINITY), (i32x16){0}}; }

/* The first `count` of `values` are those of outputs `first` and on, which are larger than any offered before. */
INLINE void offer(struct best_lanes *best, f32x16 values, int64_t first, int64_t count) {
    const i32x16 lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#if defined(__AVX512F__)
    __m512 v = (__m512)values, held = (__m512)best->values;
    v = _mm512_mask_mov_ps(v, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), _mm512_set1_ps(INFINITY));
    __mmask16 better = _mm512_mask_cmp_ps_mask((__mmask16)((1u << count) - 1), v, held, _CMP_GT_OQ);
    __m512i outputs = _mm512_add_epi32((__m512i)lanes, _mm512_set1_epi32((int32_t)first));
    best->values = (f32x16)_mm512_mask_mov_ps(held, better, v);
    best->outputs = (i32x16)_mm512_mask_mov_epi32((__m512i)best->outputs, better, outputs);
#else
    values = choose(values != values, broadcast(INFINITY), values);
    i32x16 better = (values > best->values) & (lanes < (int32_t)count);
    best->values = choose(better, values, best->values);
    best->outputs = (better & (lanes + (int32_t)first)) | (~better & best->outputs);
#endif
}

INLINE struct best best_of_lanes(const struct best_lanes *lanes) {
    struct best best = {largest_lane(lanes->values), INT32_MAX};
    for (int i = 0; i < LANES; i++)
        if (lanes->values[i] == best.value && lanes->outputs[i] < best.output) best.output = lanes->outputs[i];
    return best;
}

/* The output of the best of `count` tasks in the order of their outputs, `stride` apart; -1 if it is not a finite number. */
INLINE int64_t best_of_tasks(const struct best *bests, int64_t count, int64_t stride) {
    struct best best = bests[0];
    for (int64_t i = 1; i < count; i++)
        if (bests[i * stride].value > best.value) best = bests[i * stride];
    return isfinite(best.value) ? best.output : -1;
}

#endif
