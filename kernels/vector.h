/* Sixteen float lanes on any CPU, written with the vector extensions of GCC and Clang.
 *
 * The compiler maps a 64-byte vector to one AVX512 register, two of AVX2 or four of NEON. Intrinsics appear only where the
 * extensions have no word for an instruction. Sums are folded in a fixed order and products are fused by name, never by the
 * optimiser (-ffp-contract=off): two code paths that do the same arithmetic give the same bits.
 */
#ifndef CALLBOARD_VECTOR_H
#define CALLBOARD_VECTOR_H

#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline, unused))
#define EXPORT __attribute__((visibility("default")))
#define LANES 16

typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

INLINE f32x16 broadcast(float x) { return x - (f32x16){0}; }

/* a * b + c, rounded once where the CPU can. */
INLINE f32x16 multiply_add(f32x16 a, f32x16 b, f32x16 c) {
#if defined(__AVX512F__)
    return (f32x16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    f32x16 sum;
    for (int i = 0; i < LANES; i++) sum[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return sum;
#else
    return a * b + c;
#endif
}

INLINE f32x16 choose(i32x16 mask, f32x16 yes, f32x16 no) { return (f32x16)(((i32x16)yes & mask) | ((i32x16)no & ~mask)); }

INLINE f32x16 larger(f32x16 a, f32x16 b) {
#if defined(__AVX512F__)
    return (f32x16)_mm512_max_ps((__m512)a, (__m512)b);
#else
    return choose(a > b, a, b);
#endif
}

INLINE f32x16 smaller(f32x16 a, f32x16 b) {
#if defined(__AVX512F__)
    return (f32x16)_mm512_min_ps((__m512)a, (__m512)b);
#else
    return choose(a < b, a, b);
#endif
}

INLINE float sum_of_lanes(f32x16 v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)v);
#else
    float part[8];
    for (int i = 0; i < 8; i++) part[i] = v[i] + v[i + 8];
    for (int i = 0; i < 4; i++) part[i] += part[i + 4];
    return (part[0] + part[2]) + (part[1] + part[3]);
#endif
}

INLINE float largest_lane(f32x16 v) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)v);
#else
    float found = v[0];
    for (int i = 1; i < LANES; i++) found = v[i] > found ? v[i] : found;
    return found;
#endif
}

INLINE float float_of_bfloat(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

INLINE uint16_t bfloat_of_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return value != value ? 0x7fc0 : (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

INLINE u32x16 widen(u16x16 bits) {
#if defined(__AVX512F__)
    return (u32x16)_mm512_cvtepu16_epi32((__m256i)bits); /* GCC 12 makes five instructions of the other */
#else
    return __builtin_convertvector(bits, u32x16);
#endif
}

INLINE f32x16 floats_of_bfloats(u16x16 bits) { return (f32x16)(widen(bits) << 16); }

/* Rounds to nearest even; a NaN stays one. */
INLINE u16x16 bfloats_of_floats(f32x16 v) {
#if defined(__AVX512BF16__)
    return (u16x16)_mm512_cvtneps_pbh((__m512)v);
#else
    u32x16 bits = (u32x16)v;
    u32x16 rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    u32x16 is_nan = (u32x16)(v != v);
    return __builtin_convertvector((rounded & ~is_nan) | (is_nan & 0x7fc0), u16x16);
#endif
}

/* Elements i to i + 15 of a row of bfloat16 (bf16 = 1) or float32 (bf16 = 0). */
INLINE f32x16 load(const void *row, int64_t i, int bf16) {
    if (bf16) {
        u16x16 bits;
        memcpy(&bits, (const uint16_t *)row + i, sizeof bits);
        return floats_of_bfloats(bits);
    }
    f32x16 v;
    memcpy(&v, (const float *)row + i, sizeof v);
    return v;
}

INLINE void store(void *row, int64_t i, f32x16 v, int bf16) {
    if (bf16) {
        u16x16 bits = bfloats_of_floats(v);
        memcpy((uint16_t *)row + i, &bits, sizeof bits);
    } else {
        memcpy((float *)row + i, &v, sizeof v);
    }
}

/* As load, of `count` < 16 elements; the other lanes are zero. */
INLINE f32x16 load_some(const void *row, int64_t i, int64_t count, int bf16) {
    if (bf16) {
        u16x16 bits = {0};
        memcpy(&bits, (const uint16_t *)row + i, (size_t)count * 2);
        return floats_of_bfloats(bits);
    }
    f32x16 v = {0};
    memcpy(&v, (const float *)row + i, (size_t)count * 4);
    return v;
}

INLINE void store_some(void *row, int64_t i, int64_t count, f32x16 v, int bf16) {
    if (bf16) {
        u16x16 bits = bfloats_of_floats(v);
        memcpy((uint16_t *)row + i, &bits, (size_t)count * 2);
    } else {
        memcpy((float *)row + i, &v, (size_t)count * 4);
    }
}

/* exp(x) to 2 ulp on [-87, 88]; below it stays at exp(-87), about 1e-38, above at exp(88). Cephes' polynomial. */
INLINE f32x16 exponential(f32x16 x) {
    const f32x16 shift = broadcast(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer in the low bits */
    x = larger(smaller(x, broadcast(88.0f)), broadcast(-87.0f));
    f32x16 shifted = multiply_add(x, broadcast(1.44269504f), shift);
    f32x16 n = shifted - shift;
    f32x16 r = multiply_add(n, broadcast(-0.693359375f), x);
    r = multiply_add(n, broadcast(2.12194440e-4f), r);
    f32x16 p = broadcast(1.9875691500e-4f);
    p = multiply_add(p, r, broadcast(1.3981999507e-3f));
    p = multiply_add(p, r, broadcast(8.3334519073e-3f));
    p = multiply_add(p, r, broadcast(4.1665795894e-2f));
    p = multiply_add(p, r, broadcast(1.6666665459e-1f));
    p = multiply_add(p, r, broadcast(5.0000001201e-1f));
    p = multiply_add(p, r * r, r + 1.0f);
    return (f32x16)((i32x16)p + (((i32x16)shifted - (i32x16)shift) << 23));
}

/* tanh(x) to 1e-7. */
INLINE f32x16 hyperbolic_tangent(f32x16 x) {
    x = larger(smaller(x, broadcast(15.0f)), broadcast(-15.0f));
    return 1.0f - 2.0f / (exponential(x + x) + 1.0f);
}

#endif
