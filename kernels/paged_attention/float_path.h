/* float32 arithmetic on bfloat16 (bf16 = 1) or float32 keys and values, for any CPU. */
#ifndef CALLBOARD_FLOAT_PATH_H
#define CALLBOARD_FLOAT_PATH_H

#include "attention.h"

/* Dimensions [at, at + 16) of a row, zero past head_dim. */
INLINE f32x16 load_part(const char *row, int64_t at, int64_t head_dim, int bf16) {
    int64_t left = head_dim - at;
    return left >= LANES ? load(row, at, bf16) : load_some(row, at, left, bf16);
}

INLINE void float_load_queries(const struct attention *a, const struct block *block, struct scratch *scratch, int bf16) {
    for (int64_t v = 0; v < block->count; v++)
        for (int64_t at = 0; at < a->head_dim; at += LANES)
            store(scratch->queries[v], at, load_part(vector_at(a, block, v), at, a->head_dim, bf16), 0);
}

INLINE void float_score_keys(const struct attention *a, const struct piece *piece, struct scratch *scratch, int bf16) {
    for (int64_t first = 0; first < piece->block.count; first += GROUP)
        for (int64_t key = 0; key < piece->num_keys; key++) {
            int64_t count = least(GROUP, piece->block.count - first);
            f32x16 sums[GROUP] = {{0}};
            for (int64_t at = 0; at < a->head_dim; at += LANES) {
                f32x16 part = load_part(a->key_pages + piece->rows[key], at, a->head_dim, bf16);
                for (int64_t v = 0; v < count; v++)
                    sums[v] = multiply_add(load(scratch->queries[first + v], at, 0), part, sums[v]);
            }
            for (int64_t v = 0; v < count; v++) scratch->scores[first + v][key] = sum_of_lanes(sums[v]);
        }
}

INLINE float float_weigh_keys(int64_t vector, int64_t num_keys, float peak, struct scratch *scratch) {
    f32x16 sum = {0};
    for (int64_t key = 0; key < num_keys; key += LANES) {
        f32x16 score = load(scratch->scores[vector], key, 0);
        f32x16 weight = choose(score == -INFINITY, broadcast(0.0f), exponential(score - peak));
        store(scratch->scores[vector], key, weight, 0);
        sum += weight;
    }
    return sum_of_lanes(sum);
}

INLINE void float_sum_group(const struct attention *a, const struct piece *piece, int count, int64_t vector,
                            struct scratch *scratch, struct partial *partial, int bf16) {
    for (int64_t at = 0; at < a->head_dim; at += LANES) {
        f32x16 sums[GROUP] = {{0}};
        for (int64_t key = 0; key < piece->num_keys; key++) {
            f32x16 part = load_part(a->value_pages + piece->rows[key], at, a->head_dim, bf16);
            for (int v = 0; v < count; v++)
                sums[v] = multiply_add(broadcast(scratch->scores[vector + v][key]), part, sums[v]);
        }
        for (int v = 0; v < count; v++) store(partial->values, (vector + v) * width_of(a) + at, sums[v], 0);
    }
}

INLINE void float_sum_values(const struct attention *a, const struct piece *piece, struct scratch *scratch,
                             struct partial *partial, int bf16) {
    for (int64_t v = 0; v < piece->block.count; v += GROUP)
        switch (piece->block.count - v) {
        case 1: float_sum_group(a, piece, 1, v, scratch, partial, bf16); break;
        case 2: float_sum_group(a, piece, 2, v, scratch, partial, bf16); break;
        case 3: float_sum_group(a, piece, 3, v, scratch, partial, bf16); break;
        default: float_sum_group(a, piece, 4, v, scratch, partial, bf16); break;
        }
}

INLINE void float_store_values(const struct attention *a, const float *values, float scale, char *out, int bf16) {
    int64_t at = 0;
    for (; at + LANES <= a->head_dim; at += LANES) store(out, at, load(values, at, 0) * scale, bf16);
    if (at < a->head_dim) store_some(out, at, a->head_dim - at, load(values, at, 0) * scale, bf16);
}

#endif
