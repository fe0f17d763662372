/* Rotary embedding of queries and keys, and the write of keys and values to their pages. See reference.py. */
#include "../parallel.h"

#define ELEMENTS_PER_TASK 16384
#define AHEAD_TOKENS 4

/* As SLOTS in __init__.py lays it out. Strides in bytes, per token and per head. */
struct rope {
    char *q;
    const char *k, *v;
    const float *cos_sin; /* [max_positions, rotary_dim] */
    const int32_t *positions, *write_slots;
    char *key_pages, *value_pages; /* [pages, kv_heads, page_size, head_dim] */
    int64_t num_tokens, num_heads, num_kv_heads, head_dim, rotary_dim, page_size;
    int64_t q_strides[2], k_strides[2], v_strides[2];
    int64_t interleaved, bf16;
};

INLINE float load_one(const void *row, int64_t i, int bf16) {
    return bf16 ? float_of_bfloat(((const uint16_t *)row)[i]) : ((const float *)row)[i];
}

INLINE void store_one(void *row, int64_t i, float value, int bf16) {
    if (bf16)
        ((uint16_t *)row)[i] = bfloat_of_float(value);
    else
        ((float *)row)[i] = value;
}

INLINE void rotate_pair(void *out, const void *x, int64_t a, int64_t b, float cos, float sin, int bf16) {
    float first = load_one(x, a, bf16), second = load_one(x, b, bf16);
    store_one(out, a, first * cos - second * sin, bf16);
    store_one(out, b, second * cos + first * sin, bf16);
}

INLINE void rotate_halves(void *out, const void *x, const float *cos, const float *sin, int64_t half, int bf16) {
    int64_t i = 0;
    for (; i + LANES <= half; i += LANES) {
        f32x16 first = load(x, i, bf16), second = load(x, half + i, bf16);
        f32x16 c = load(cos, i, 0), s = load(sin, i, 0);
        store(out, i, first * c - second * s, bf16);
        store(out, half + i, second * c + first * s, bf16);
    }
    for (; i < half; i++) rotate_pair(out, x, i, half + i, cos[i], sin[i], bf16);
}

/* Writes one rotated head to `out`, which may be `x` itself. */
INLINE void rotate(const struct rope *rope, void *out, const void *x, const float *cos, int bf16) {
    int64_t half = rope->rotary_dim / 2, size = bf16 ? 2 : 4;
    const float *sin = cos + half;
    if (rope->interleaved)
        for (int64_t i = 0; i < half; i++) rotate_pair(out, x, 2 * i, 2 * i + 1, cos[i], sin[i], bf16);
    else
        rotate_halves(out, x, cos, sin, half, bf16);
    int64_t turned = rope->rotary_dim * size;
    if (out != x) memcpy((char *)out + turned, (const char *)x + turned, (size_t)(rope->head_dim * size - turned));
}

/* Where the first head of a slot lies in the pages; the others follow a page's tokens apart. */
INLINE int64_t place_of(const struct rope *rope, int64_t slot, int64_t head_bytes) {
    int64_t page = slot / rope->page_size, offset = slot % rope->page_size;
    return (page * rope->num_kv_heads * rope->page_size + offset) * head_bytes;
}

/* Asks for the lines that a token will be written to: no step has touched them lately. */
INLINE void prefetch_slot(const struct rope *rope, int64_t token, int64_t head_bytes) {
    int64_t slot = rope->write_slots[token];
    if (slot < 0) return;
    int64_t place = place_of(rope, slot, head_bytes);
    for (int64_t h = 0; h < rope->num_kv_heads; h++, place += rope->page_size * head_bytes)
        for (int64_t at = 0; at < head_bytes; at += 64) {
            __builtin_prefetch(rope->key_pages + place + at, 1);
            __builtin_prefetch(rope->value_pages + place + at, 1);
        }
}

INLINE void write_token(const struct rope *rope, int64_t token, const float *cos, int bf16) {
    int64_t slot = rope->write_slots[token], head_bytes = rope->head_dim * (bf16 ? 2 : 4);
    if (slot < 0) return;
    int64_t place = place_of(rope, slot, head_bytes);
    for (int64_t h = 0; h < rope->num_kv_heads; h++, place += rope->page_size * head_bytes) {
        rotate(rope, rope->key_pages + place, rope->k + token * rope->k_strides[0] + h * rope->k_strides[1], cos, bf16);
        memcpy(rope->value_pages + place, rope->v + token * rope->v_strides[0] + h * rope->v_strides[1], (size_t)head_bytes);
    }
}

INLINE void place_tokens(const struct rope *rope, int64_t begin, int64_t end, int bf16) {
    int64_t head_bytes = rope->head_dim * (bf16 ? 2 : 4);
    for (int64_t token = begin; token < least(begin + AHEAD_TOKENS, end); token++) prefetch_slot(rope, token, head_bytes);
    for (int64_t token = begin; token < end; token++) {
        if (token + AHEAD_TOKENS < end) prefetch_slot(rope, token + AHEAD_TOKENS, head_bytes);
        const float *cos = rope->cos_sin + rope->positions[token] * rope->rotary_dim;
        for (int64_t h = 0; h < rope->num_heads; h++) {
            char *head = rope->q + token * rope->q_strides[0] + h * rope->q_strides[1];
            rotate(rope, head, head, cos, bf16);
        }
        write_token(rope, token, cos, bf16);
    }
}

static void run(const void *context, int64_t begin, int64_t end) {
    const struct rope *rope = context;
    if (rope->bf16)
        place_tokens(rope, begin, end, 1);
    else
        place_tokens(rope, begin, end, 0);
}

EXPORT int64_t callboard_rope_and_write(const struct rope *rope) {
    parallel(run, rope, rope->num_tokens, ELEMENTS_PER_TASK / ((rope->num_heads + 2 * rope->num_kv_heads) * rope->head_dim));
    return 0;
}
