/* bfloat16 pairs multiplied and summed in float32 by one instruction (AVX512_BF16). Softmax weights are rounded to bfloat16. */
#ifndef CALLBOARD_BFLOAT_PATH_H
#define CALLBOARD_BFLOAT_PATH_H

#include "attention.h"

#define UNIT 32 /* dimensions in one register */

INLINE __m512 dot_pairs(__m512 sum, __m512i a, __m512i b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }

/* Dimensions [at, at + 32) of a row, zero past head_dim. */
INLINE __m512i load_unit(const char *row, int64_t at, int64_t head_dim) {
    int64_t left = head_dim - at;
    if (left >= UNIT) return _mm512_loadu_si512(row + at * 2);
    return _mm512_maskz_loadu_epi16((__mmask32)((1u << left) - 1), row + at * 2);
}

INLINE void bfloat_load_queries(const struct attention *a, const struct block *block, struct scratch *scratch) {
    for (int64_t v = 0; v < block->count; v++)
        for (int64_t at = 0; at < a->head_dim; at += UNIT)
            _mm512_store_si512(&scratch->queries[v][at / 2], load_unit(vector_at(a, block, v), at, a->head_dim));
}

/* Transposes 16 rows of 16 words: out[i] holds word i of every row. */
INLINE void transpose(__m512i *rows, uint32_t (*out)[LANES]) {
    __m512i pairs[LANES], quads[LANES], halves[LANES];
    for (int i = 0; i < LANES; i += 2) {
        pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < LANES; i += 4)
        for (int j = 0; j < 2; j++) {
            quads[i + 2 * j] = _mm512_unpacklo_epi64(pairs[i + j], pairs[i + j + 2]);
            quads[i + 2 * j + 1] = _mm512_unpackhi_epi64(pairs[i + j], pairs[i + j + 2]);
        }
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < LANES; j += 8) {
            halves[i + j] = _mm512_shuffle_i32x4(quads[i + j], quads[i + j + 4], 0x88);
            halves[i + j + 4] = _mm512_shuffle_i32x4(quads[i + j], quads[i + j + 4], 0xdd);
        }
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 2; j++) {
            _mm512_store_si512(out[i + 4 * j], _mm512_shuffle_i32x4(halves[i + 4 * j], halves[i + 4 * j + 8], 0x88));
            _mm512_store_si512(out[i + 4 * j + 8], _mm512_shuffle_i32x4(halves[i + 4 * j], halves[i + 4 * j + 8], 0xdd));
        }
}

INLINE void load_key_tile(const struct attention *a, const int64_t *keys, struct scratch *scratch) {
    for (int64_t at = 0; at < a->head_dim; at += UNIT) {
        __m512i rows[LANES];
        for (int i = 0; i < LANES; i++) rows[i] = load_unit(a->key_pages + keys[i], at, a->head_dim);
        transpose(rows, &scratch->key_tile[at / 2]);
    }
}

/* Scores of `count` vectors against the tile; four sums for each, as one would wait for itself. */
INLINE void score_tile(int64_t num_pairs, int count, int64_t vector, int64_t key, struct scratch *scratch) {
    __m512 sums[GROUP][4];
    for (int v = 0; v < count; v++)
        for (int j = 0; j < 4; j++) sums[v][j] = _mm512_setzero_ps();
    for (int64_t pair = 0; pair < num_pairs; pair += 4)
        for (int j = 0; j < 4; j++) {
            __m512i keys = _mm512_load_si512(scratch->key_tile[pair + j]);
            for (int v = 0; v < count; v++)
                sums[v][j] = dot_pairs(sums[v][j], keys, _mm512_set1_epi32((int)scratch->queries[vector + v][pair + j]));
        }
    for (int v = 0; v < count; v++) {
        __m512 sum = _mm512_add_ps(_mm512_add_ps(sums[v][0], sums[v][1]), _mm512_add_ps(sums[v][2], sums[v][3]));
        _mm512_store_ps(&scratch->scores[vector + v][key], sum);
    }
}

/* Asks for a tile's rows ahead of their use: pages lie anywhere, and the hardware does not guess across them. */
INLINE void prefetch(const struct attention *a, const char *pages, const int64_t *rows) {
    for (int i = 0; i < LANES; i++)
        for (int64_t at = 0; at < a->head_dim * 2; at += 64) __builtin_prefetch(pages + rows[i] + at, 0, 2);
}

INLINE void bfloat_score_keys(const struct attention *a, const struct piece *piece, struct scratch *scratch) {
    int64_t num_pairs = width_of(a) / 2, num_vectors = piece->block.count;
    for (int64_t key = 0; key < piece->num_keys; key += LANES) {
        prefetch(a, a->value_pages, piece->rows + key);
        load_key_tile(a, piece->rows + key, scratch);
        for (int64_t v = 0; v < num_vectors; v += GROUP)
            switch (num_vectors - v) {
            case 1: score_tile(num_pairs, 1, v, key, scratch); break;
            case 2: score_tile(num_pairs, 2, v, key, scratch); break;
            case 3: score_tile(num_pairs, 3, v, key, scratch); break;
            default: score_tile(num_pairs, 4, v, key, scratch); break;
            }
    }
}

INLINE float bfloat_weigh_keys(int64_t vector, int64_t num_keys, float peak, struct scratch *scratch) {
    f32x16 sum = {0};
    for (int64_t key = 0; key < num_keys; key += LANES) {
        f32x16 score = load(scratch->scores[vector], key, 0);
        f32x16 weight = choose(score == -INFINITY, broadcast(0.0f), exponential(score - peak));
        u16x16 rounded = bfloats_of_floats(weight);
        memcpy(&scratch->weights[vector][key], &rounded, sizeof rounded);
        /* What is divided by is what was summed. GCC widens integers in two halves when not told how. */
        sum += (f32x16)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)rounded), 16);
    }
    return sum_of_lanes(sum);
}

/* Sums of `units` × 32 dimensions for `count` vectors. Words stay in the order of the unpacks until bfloat_store_values. */
INLINE void sum_unit(const struct attention *a, const struct piece *piece, const struct piece *next, int count, int units,
                     int64_t vector, int64_t at, struct scratch *scratch, struct partial *partial) {
    __m512 sums[GROUP][4];
    for (int v = 0; v < count; v++)
        for (int j = 0; j < 2 * units; j++) sums[v][j] = _mm512_setzero_ps();
    for (int64_t key = 0; key < piece->num_keys; key += 2) {
        if (next && key % LANES == 0 && key < next->num_keys) prefetch(a, a->key_pages, next->rows + key);
        for (int u = 0; u < units; u++) {
            __m512i even = load_unit(a->value_pages + piece->rows[key], at + u * UNIT, a->head_dim);
            __m512i odd = load_unit(a->value_pages + piece->rows[key + 1], at + u * UNIT, a->head_dim);
            __m512i low = _mm512_unpacklo_epi16(even, odd), high = _mm512_unpackhi_epi16(even, odd);
            for (int v = 0; v < count; v++) {
                int pair;
                memcpy(&pair, &scratch->weights[vector + v][key], sizeof pair);
                sums[v][2 * u] = dot_pairs(sums[v][2 * u], low, _mm512_set1_epi32(pair));
                sums[v][2 * u + 1] = dot_pairs(sums[v][2 * u + 1], high, _mm512_set1_epi32(pair));
            }
        }
    }
    for (int v = 0; v < count; v++)
        for (int j = 0; j < 2 * units; j++) _mm512_store_ps(&partial->values[(vector + v) * width_of(a) + at + j * LANES], sums[v][j]);
}

INLINE void sum_group(const struct attention *a, const struct piece *piece, const struct piece *next, int count, int64_t vector,
                      struct scratch *scratch, struct partial *partial) {
    int64_t width = width_of(a), at = 0;
    for (; at + 2 * UNIT <= width; at += 2 * UNIT) sum_unit(a, piece, at == 0 && vector == 0 ? next : NULL, count, 2, vector, at, scratch, partial);
    if (at < width)
        sum_unit(a, piece, at == 0 && vector == 0 ? next : NULL, count, 1, vector, at, scratch, partial);
}

INLINE void bfloat_sum_values(const struct attention *a, const struct piece *piece, const struct piece *next,
                              struct scratch *scratch, struct partial *partial) {
    for (int64_t v = 0; v < piece->block.count; v += GROUP)
        switch (piece->block.count - v) {
        case 1: sum_group(a, piece, next, 1, v, scratch, partial); break;
        case 2: sum_group(a, piece, next, 2, v, scratch, partial); break;
        case 3: sum_group(a, piece, next, 3, v, scratch, partial); break;
        default: sum_group(a, piece, next, 4, v, scratch, partial); break;
        }
}

INLINE void bfloat_store_values(const struct attention *a, const float *values, float scale, char *out) {
    const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    const __m512i second = _mm512_setr_epi32(8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
    for (int64_t at = 0; at < a->head_dim; at += UNIT) {
        __m512 low = _mm512_load_ps(values + at), high = _mm512_load_ps(values + at + LANES);
        f32x16 halves[2] = {(f32x16)_mm512_permutex2var_ps(low, first, high), (f32x16)_mm512_permutex2var_ps(low, second, high)};
        for (int j = 0; j < 2; j++) {
            int64_t i = at + j * LANES, count = a->head_dim - i;
            if (count >= LANES)
                store(out, i, halves[j] * scale, 1);
            else if (count > 0)
                store_some(out, i, count, halves[j] * scale, 1);
        }
    }
}

#endif
