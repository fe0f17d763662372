/* Activations rounded to 8 or 16 bits in blocks of 32, laid out for the products of quantized_linear.c. */
#ifndef CALLBOARD_ACTIVATIONS_H
#define CALLBOARD_ACTIVATIONS_H

#include "../vector.h"

#define BLOCK 32
#define QUAD_ROWS 4

/* One block of up to four rows. A value is about scale * integer; a scale is 1, 1.25, 1.5 or 1.75 (its level) times 2^e.
 *
 * A sum of integer products that begins at `starts`, read as the bits of a float, is 2^e * (1.5 * 2^23 + the sum of
 * (quant - zero point) * integer); taking away `ends`, 2^e * 1.5 * 2^23, leaves 2^e * that sum, exactly while it is below 2^22.
 * So a subtraction does what a conversion and a product would, and multipliers are what the products wait for. What is left of
 * the scale, the level, is multiplied into the weights' scales once for many rows.
 *
 * With 16 bits a block takes two quads: the high bytes, whose e is 8 more, then the low bytes, signed too. */
struct quad {
    int8_t integers[QUAD_ROWS][BLOCK];
    int32_t starts[QUAD_ROWS];
    float ends[QUAD_ROWS];
    float levels[QUAD_ROWS];
    uint32_t totals[QUAD_ROWS]; /* sums of the values: with 16 bits a float, with 8 the bfloats of the block before and this one */
};

#define STRIP LANES /* blocks of a row that are rounded together: what is done once a block is done for all in one register */
#define LOWEST_SCALE 0x0d800000u  /* 2^-100: what is far below it is zero */
#define HIGHEST_SCALE 0x73000000u /* 2^103: what is above it, or not a number, becomes NaN */

typedef int8_t i8x16 __attribute__((vector_size(16)));

/* The nearest integers; |x| < 2^22. */
INLINE i32x16 nearest(f32x16 x) {
#if defined(__AVX512F__)
    return (i32x16)_mm512_cvtps_epi32((__m512)x);
#else
    const f32x16 shift = broadcast(12582912.0f); /* 1.5 * 2^23 */
    return (i32x16)(x + shift) - (i32x16)shift;
#endif
}

INLINE i8x16 bytes_of(i32x16 integers) {
#if defined(__AVX512F__)
    return (i8x16)_mm512_cvtepi32_epi8((__m512i)integers);
#else
    return __builtin_convertvector(integers, i8x16);
#endif
}

INLINE int32_t sum_of_bytes(i8x16 a, i8x16 b) {
#if defined(__AVX2__)
    const __m128i sign = _mm_set1_epi8((char)0x80), zero = _mm_setzero_si128(); /* the sign bit flipped adds 128 to each */
    __m128i sums = _mm_sad_epu8(_mm_xor_si128((__m128i)a, sign), zero);
    sums = _mm_add_epi32(sums, _mm_sad_epu8(_mm_xor_si128((__m128i)b, sign), zero));
    return _mm_cvtsi128_si32(_mm_add_epi32(sums, _mm_unpackhi_epi64(sums, sums))) - 128 * BLOCK;
#else
    int32_t sum = 0;
    for (int i = 0; i < BLOCK / 2; i++) sum += a[i] + b[i];
    return sum;
#endif
}

/* The largest of the magnitudes, as the bits of a float; a NaN is larger than all. */
INLINE uint32_t peak_of(f32x16 low, f32x16 high) {
    u32x16 a = (u32x16)low & 0x7fffffff, b = (u32x16)high & 0x7fffffff;
#if defined(__AVX512F__)
    return _mm512_reduce_max_epu32(_mm512_max_epu32((__m512i)a, (__m512i)b));
#else
    uint32_t found = 0;
    for (int i = 0; i < LANES; i++) {
        uint32_t lane = a[i] > b[i] ? a[i] : b[i];
        found = lane > found ? lane : found;
    }
    return found;
#endif
}

/* Of the blocks of a strip. */
struct rounding {
    f32x16 scales, inverses;
    i32x16 sums[2]; /* of the low bytes, of the high bytes */
};

/* The least scale that takes each peak to no more than the largest integer. */
INLINE void choose_scales(struct rounding *rounding, u32x16 peaks, int wide) {
    const uint32_t between = 0x001fffff;          /* levels are a quarter apart: two bits of the fraction */
    const float limit = wide ? 32512.0f : 127.0f; /* 127 * 256: the high byte of the largest is 127 */
    u32x16 bits = ((u32x16)((f32x16)peaks / limit) + between) & ~between;
    u32x16 low = (u32x16)(bits < LOWEST_SCALE);
    rounding->scales = (f32x16)((bits & ~low) | (low & LOWEST_SCALE));
    rounding->inverses = 1.0f / rounding->scales;
}

INLINE int32_t put_bytes(int8_t *to, i32x16 first, i32x16 second) {
    i8x16 low = bytes_of(first), high = bytes_of(second);
    memcpy(to, &low, sizeof low);
    memcpy(to + LANES, &high, sizeof high);
    return sum_of_bytes(low, high);
}

/* The integers of one block of a row. sums: as in struct rounding, the block's own. */
INLINE void put_integers(struct quad *quad, int row, f32x16 low, f32x16 high, float inverse, int32_t *sums, int wide) {
    i32x16 first = nearest(low * inverse), second = nearest(high * inverse);
    if (wide) {
        i32x16 first_high = (first + 128) >> 8, second_high = (second + 128) >> 8;
        sums[LANES] = put_bytes(quad->integers[row], first_high, second_high);
        first -= first_high << 8, second -= second_high << 8;
        quad++;
    }
    sums[0] = put_bytes(quad->integers[row], first, second);
}

/* What the products of a row begin and end with. part: 0 for the low bytes, 1 for the high ones. */
INLINE void put_ends(struct quad *quads, int64_t stride, int row, int64_t num_blocks, const struct rounding *rounding, int part,
                     int64_t zero_point) {
    u32x16 scales = (u32x16)rounding->scales, exponents = scales & 0x7f800000;
    u32x16 bits = exponents + (part ? 0x0fc00000 : 0x0bc00000); /* 2^e times 1.5 * 2^23, or times 1.5 * 2^31 */
    u32x16 ends = bits | (u32x16)(exponents >= HIGHEST_SCALE);  /* all bits: a NaN */
    u32x16 levels = (scales & 0x007fffff) | 0x3f800000;
    i32x16 starts = (i32x16)bits - rounding->sums[part] * (int32_t)zero_point;
    for (int64_t block = 0; block < num_blocks; block++) {
        struct quad *quad = quads + block * stride;
        memcpy(quad->starts + row, (const int32_t *)&starts + block, sizeof(int32_t));
        memcpy(quad->ends + row, (const uint32_t *)&ends + block, sizeof(float));
        memcpy(quad->levels + row, (const uint32_t *)&levels + block, sizeof(float));
    }
}

/* A strip begins at a block with an even number, so that pairs lie in one strip. */
INLINE void put_totals(struct quad *quads, int64_t stride, int row, int64_t num_blocks, const struct rounding *rounding, int wide) {
    i32x16 sums = wide ? rounding->sums[0] + (rounding->sums[1] << 8) : rounding->sums[0];
    f32x16 values = rounding->scales * __builtin_convertvector(sums, f32x16);
    uint32_t totals[STRIP];
    u32x16 bits = wide ? (u32x16)values : widen(bfloats_of_floats(values));
    memcpy(totals, &bits, sizeof totals);
    for (int64_t block = 0; block < num_blocks; block++)
        quads[block * stride].totals[row] = !wide && block % 2 ? totals[block - 1] | totals[block] << 16 : totals[block];
}

/* Rounds up to 16 blocks of a row. quads: where the first goes; the next is `stride` further. */
INLINE void round_strip(const void *x, int64_t num_blocks, struct quad *quads, int64_t stride, int row, int64_t zero_point,
                        int bf16, int wide) {
    u32x16 peaks = {0};
    struct rounding rounding = {.sums = {{0}, {0}}};
    for (int64_t block = 0; block < num_blocks; block++)
        peaks[block] = peak_of(load(x, block * BLOCK, bf16), load(x, block * BLOCK + LANES, bf16));
    choose_scales(&rounding, peaks, wide);
    for (int64_t block = 0; block < num_blocks; block++)
        put_integers(quads + block * stride, row, load(x, block * BLOCK, bf16), load(x, block * BLOCK + LANES, bf16),
                     rounding.inverses[block], (int32_t *)rounding.sums + block, wide);
    if (wide) put_ends(quads, stride, row, num_blocks, &rounding, 1, zero_point);
    put_ends(quads + wide, stride, row, num_blocks, &rounding, 0, zero_point);
    put_totals(quads + wide, stride, row, num_blocks, &rounding, wide);
}

/* Rounds a row. quads: where its first block goes, two quads with 16 bits; the next block is `stride` quads further. */
INLINE void round_row(const char *x, int64_t num_blocks, struct quad *quads, int64_t stride, int row, int64_t zero_point, int bf16,
                      int wide) {
    for (int64_t block = 0; block < num_blocks; block += STRIP)
        round_strip(x + block * BLOCK * (bf16 ? 2 : 4), least(STRIP, num_blocks - block), quads + block * stride, stride, row,
                    zero_point, bf16, wide);
}

#endif
