/* Tiles of packed weights, unpacked one block at a time. For the layout see packing.py. */
#ifndef CALLBOARD_WEIGHTS_H
#define CALLBOARD_WEIGHTS_H

#include "activations.h"

#define GROUPS (BLOCK / 4) /* inputs go by in fours */
#define MIDDLE 8           /* taken from 4-bit quants that have minima, which leaves the minima small */
#define AHEAD_BLOCKS 14    /* how far to ask for weights before their use: some 4 KiB of 4-bit ones */

/* Sixteen outputs. */
struct tile {
    const uint8_t *quants;  /* [blocks, 256 or 512] */
    const uint16_t *scales; /* [blocks, 16] float16 */
    const uint16_t *minima; /* the same, or NULL */
};

/* A block of one tile. Filled and read by constant indices only, or it would live in memory and not in registers. */
struct weights {
    i32x16 groups[GROUPS]; /* four bytes of each of 16 outputs */
    f32x16 scale;
    u32x16 minima; /* floats, or the bfloats of the block before and this one */
};

INLINE f32x16 floats_of_halves(const uint16_t *halves) {
#if defined(__AVX512F__)
    return (f32x16)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)halves));
#else
    u16x16 bits;
    memcpy(&bits, halves, sizeof bits);
    u32x16 wide = widen(bits);
    u32x16 magnitude = (wide & 0x7fff) << 13, sign = (wide & 0x8000) << 16;
    f32x16 value = (f32x16)magnitude * 5.192296858534828e33f; /* 2^112 moves the exponent, and makes subnormals normal */
    return (f32x16)((u32x16)value | sign);
#endif
}

INLINE void prefetch_block(const struct tile *tile, int64_t block, int bits) {
    int64_t num_bytes = BLOCK * LANES * bits / 8;
    for (int64_t i = 0; i < num_bytes; i += 64) __builtin_prefetch(tile->quants + block * num_bytes + i);
    __builtin_prefetch(tile->scales + block * LANES);
    if (tile->minima) __builtin_prefetch(tile->minima + block * LANES);
}

/* With 4 bits, low nibbles hold groups 0 to 3, high ones groups 4 to 7. */
INLINE void unpack_group(struct weights *weights, const uint8_t *quants, int group, int bits) {
    u32x16 bytes;
    memcpy(&bytes, quants + 64 * group, sizeof bytes);
    weights->groups[group] = (i32x16)(bits == 8 ? bytes : bytes & 0x0f0f0f0f);
    if (bits == 4) weights->groups[group + GROUPS / 2] = (i32x16)((bytes >> 4) & 0x0f0f0f0f);
}

INLINE void unpack_quants(struct weights *weights, const uint8_t *quants, int bits) {
    unpack_group(weights, quants, 0, bits);
    unpack_group(weights, quants, 1, bits);
    unpack_group(weights, quants, 2, bits);
    unpack_group(weights, quants, 3, bits);
    if (bits == 4) return;
    unpack_group(weights, quants, 4, bits);
    unpack_group(weights, quants, 5, bits);
    unpack_group(weights, quants, 6, bits);
    unpack_group(weights, quants, 7, bits);
}

/* half: which of its pair the block is; the minima of both gather in one register. */
INLINE void unpack_minima(struct weights *weights, const uint16_t *halves, int half, int wide) {
    f32x16 minima = multiply_add(weights->scale, broadcast(MIDDLE), floats_of_halves(halves));
    u32x16 bits = widen(bfloats_of_floats(minima));
    if (wide)
        weights->minima = (u32x16)minima;
    else
        weights->minima = half ? weights->minima | bits << 16 : bits;
}

INLINE void unpack(struct weights *weights, const struct tile *tile, int64_t block, int half, int bits, int minima, int wide) {
    prefetch_block(tile, block + AHEAD_BLOCKS, bits);
    unpack_quants(weights, tile->quants + block * BLOCK * LANES * bits / 8, bits);
    weights->scale = floats_of_halves(tile->scales + block * LANES);
    if (minima) unpack_minima(weights, tile->minima + block * LANES, half, wide);
}

#endif
