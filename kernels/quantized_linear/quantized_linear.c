/* Linear layers with 4-bit or 8-bit weights: activations are rounded to 8 or 16 bits in blocks of 32, products are exact integers.
 *
 * Weights lie in tiles of 16 outputs, a block of 32 inputs at a time, in the order the dot-product instruction wants them (see
 * packing.py). A tile's block is unpacked into registers once and meets a panel of up to MOST_ROWS rows there. A row's sum
 * runs over the blocks in order, whatever rows are beside it and whoever computes it: the result has the same bits in every batch.
 */
#include <stdlib.h>

#include "../parallel.h"

#define BLOCK 32
#define GROUPS (BLOCK / 4) /* inputs go by in fours */
#if defined(__AVX512F__)
#define MOST_ROWS 8 /* their sums, the weights and what is between fill 32 registers */
#else
#define MOST_ROWS 4
#endif
#define ROWS_ABREAST 4
#define ROWS_PER_TASK 64
#define AHEAD_BYTES 2048 /* how far to ask for weights before their use */
#define OPERATIONS_PER_TASK 200000 /* about 2 us */

/* As SLOTS in __init__.py lays it out. Strides in bytes. */
struct linear {
    char *out;
    const char *x;
    const uint8_t *quants;  /* [tiles, blocks, 256 or 512] */
    const uint16_t *scales; /* [tiles, blocks, 16] float16 */
    const uint16_t *minima; /* the same, or NULL */
    const float *bias;      /* [outputs] or NULL */
    int64_t num_rows, num_inputs, num_outputs, x_stride;
    int64_t bits, zero_point; /* a weight is scale * (quant - zero_point) + minimum */
    int64_t x_bf16, out_bf16;
    int64_t x_bits; /* 8, or 16: two bytes that are multiplied one after the other */
};

/* Rounded activations lie in panels of up to MOST_ROWS rows that are multiplied together. For each block of inputs a panel has
 * the int8 of its rows (with 16 bits the high bytes of all rows, then their low bytes, signed too: 256 * high + low), then for
 * each row a scale (x is about scale * integer), a total (scale * the sum of the integers) and an offset (-zero_point * that sum).
 */
INLINE int64_t row_block_bytes(int wide) { return (wide ? 2 : 1) * BLOCK + 12; }

struct activations {
    const struct linear *linear;
    char *panels;
    int64_t num_blocks, num_tiles, tiles_per_task, rows_per_task, num_row_tasks;
};

/* One row's place in its panel at one block, and what stands there. */
struct place {
    int8_t *quants, *low_quants; /* the second only with 16 bits */
    float *scale, *total;
    int32_t *offset;
};

INLINE struct place place_of(char *panel, int64_t block, int64_t row, int64_t num_rows, int wide) {
    char *at = panel + block * num_rows * row_block_bytes(wide);
    float *values = (float *)(at + (wide ? 2 : 1) * num_rows * BLOCK);
    int8_t *quants = (int8_t *)at + row * BLOCK;
    return (struct place){quants, quants + num_rows * BLOCK, values + row, values + num_rows + row,
                          (int32_t *)(values + 2 * num_rows) + row};
}

/* Rows of the panel that starts with `num_left` rows to go. Only these sizes are compiled. */
INLINE int64_t panel_rows(int64_t num_left) {
    return num_left >= MOST_ROWS ? MOST_ROWS : least(num_left, 4);
}

INLINE char *panel_at(const struct activations *x, int64_t row, int wide) {
    return x->panels + row * x->num_blocks * row_block_bytes(wide);
}

INLINE f32x16 floats_of_halves(const uint16_t *halves) {
#if defined(__AVX512F__)
    return (f32x16)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)halves));
#else
    u16x16 bits;
    memcpy(&bits, halves, sizeof bits);
    u32x16 wide = __builtin_convertvector(bits, u32x16);
    u32x16 magnitude = (wide & 0x7fff) << 13, sign = (wide & 0x8000) << 16;
    f32x16 value = (f32x16)magnitude * 5.192296858534828e33f; /* 2^112 moves the exponent, and makes subnormals normal */
    return (f32x16)((u32x16)value | sign);
#endif
}

/* The nearest integers; |x| < 2^22. */
INLINE i32x16 nearest(f32x16 x) {
#if defined(__AVX512F__)
    return (i32x16)_mm512_cvtps_epi32((__m512)x);
#else
    const f32x16 shift = broadcast(12582912.0f); /* 1.5 * 2^23 */
    return (i32x16)(x + shift) - (i32x16)shift;
#endif
}

INLINE void store_bytes(int8_t *to, i32x16 integers) {
#if defined(__AVX512F__)
    _mm_storeu_si128((__m128i *)to, _mm512_cvtepi32_epi8((__m512i)integers));
#else
    for (int i = 0; i < LANES; i++) to[i] = (int8_t)integers[i];
#endif
}

INLINE int32_t sum_of_integers(i32x16 integers) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_epi32((__m512i)integers);
#else
    int32_t sum = 0;
    for (int i = 0; i < LANES; i++) sum += integers[i];
    return sum;
#endif
}

/* Rounds 16 floats to integers of 8 or 16 bits and stores their bytes from `offset` on; returns the integers. */
INLINE i32x16 round_half(f32x16 x, struct place place, int64_t offset, int wide) {
    i32x16 integers = nearest(x);
    if (wide) {
        i32x16 high = (integers + 128) >> 8;
        store_bytes(place.quants + offset, high);
        store_bytes(place.low_quants + offset, integers - (high << 8));
    } else {
        store_bytes(place.quants + offset, integers);
    }
    return integers;
}

INLINE void quantize_row(const struct activations *to, int64_t row, char *panel, int64_t panel_row, int64_t num_rows, int bf16,
                         int wide) {
    const float limit = wide ? 32512.0f : 127.0f; /* 127 * 256: the high byte of the largest is 127 */
    const char *x = to->linear->x + row * to->linear->x_stride;
    for (int64_t block = 0; block < to->num_blocks; block++) {
        struct place place = place_of(panel, block, panel_row, num_rows, wide);
        f32x16 low = load(x, block * BLOCK, bf16), high = load(x, block * BLOCK + LANES, bf16);
        float peak = largest_lane(larger(larger(low, -low), larger(high, -high)));
        float inverse = peak > 0.0f ? limit / peak : 0.0f;
        i32x16 integers = round_half(low * inverse, place, 0, wide);
        int32_t sum = sum_of_integers(integers + round_half(high * inverse, place, LANES, wide));
        *place.scale = peak / limit;
        *place.total = *place.scale * (float)sum;
        *place.offset = (int32_t)-to->linear->zero_point * sum;
    }
}

/* Items are spans of MOST_ROWS rows: a whole number of panels. */
INLINE void quantize_rows(const struct activations *to, int64_t begin, int64_t end, int bf16, int wide) {
    int64_t row = begin * MOST_ROWS, end_row = least(end * MOST_ROWS, to->linear->num_rows);
    while (row < end_row) {
        int64_t num_rows = panel_rows(end_row - row);
        char *panel = panel_at(to, row, wide);
        for (int64_t r = 0; r < num_rows; r++) quantize_row(to, row + r, panel, r, num_rows, bf16, wide);
        row += num_rows;
    }
}

static void quantize_spans(const void *context, int64_t begin, int64_t end) {
    const struct activations *to = context;
    int bf16 = (int)to->linear->x_bf16;
    if (to->linear->x_bits == 16)
        bf16 ? quantize_rows(to, begin, end, 1, 1) : quantize_rows(to, begin, end, 0, 1);
    else
        bf16 ? quantize_rows(to, begin, end, 1, 0) : quantize_rows(to, begin, end, 0, 0);
}

/* A block of one tile, four bytes of each of 16 outputs to a register. */
struct weights {
    i32x16 groups[GROUPS];
};

INLINE struct weights unpack(const uint8_t *quants, int64_t bits) {
    struct weights weights;
    if (bits == 8) {
        memcpy(&weights, quants, sizeof weights);
        return weights;
    }
    for (int g = 0; g < GROUPS / 2; g++) { /* low nibbles hold groups 0 to 3, high ones groups 4 to 7 */
        u32x16 both;
        memcpy(&both, quants + 64 * g, sizeof both);
        weights.groups[g] = (i32x16)(both & 0x0f0f0f0f);
        weights.groups[g + GROUPS / 2] = (i32x16)((both >> 4) & 0x0f0f0f0f);
    }
    return weights;
}

/* sum[i] += the four unsigned bytes of w[i] times the four signed bytes at x. */
INLINE i32x16 dot_four(i32x16 sum, i32x16 w, const int8_t *x, int64_t bits) {
    int32_t four;
    memcpy(&four, x, sizeof four);
#if defined(__AVX512VNNI__)
    (void)bits;
    return (i32x16)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, _mm512_set1_epi32(four));
#elif defined(__AVX2__)
    const __m256i ones = _mm256_set1_epi16(1), all = _mm256_set1_epi32(four);
    __m256i halves[2], sums[2];
    memcpy(halves, &w, sizeof halves);
    memcpy(sums, &sum, sizeof sums);
    for (int i = 0; i < 2; i++) { /* pairs are summed in 16 bits: bytes over 127 go in two parts, or they would saturate */
        __m256i low = bits == 8 ? _mm256_and_si256(halves[i], _mm256_set1_epi8(0x7f)) : halves[i];
        sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(_mm256_maddubs_epi16(low, all), ones));
        if (bits == 8) {
            __m256i high = _mm256_and_si256(halves[i], _mm256_set1_epi8((char)0x80));
            sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(_mm256_maddubs_epi16(high, all), ones));
        }
    }
    memcpy(&sum, sums, sizeof sum);
    return sum;
#else
    (void)bits, (void)four;
    const i32x16 byte = (i32x16){0} + 0xff;
    return sum + (w & byte) * (int32_t)x[0] + ((w >> 8) & byte) * (int32_t)x[1] + ((w >> 16) & byte) * (int32_t)x[2] +
           (i32x16)((u32x16)w >> 24) * (int32_t)x[3];
#endif
}

INLINE void store_outputs(const struct linear *linear, int64_t row, int64_t column, f32x16 sum) {
    int64_t count = least(LANES, linear->num_outputs - column);
    char *out = linear->out + row * linear->num_outputs * (linear->out_bf16 ? 2 : 4);
    if (linear->bias) sum += count == LANES ? load(linear->bias, column, 0) : load_some(linear->bias, column, count, 0);
    if (count == LANES)
        store(out, column, sum, (int)linear->out_bf16);
    else
        store_some(out, column, count, sum, (int)linear->out_bf16);
}

/* One block of a tile against rows `first` to `first + count` of a panel, side by side as each sum waits for itself. */
INLINE void multiply_block(const struct weights *weights, f32x16 scale, f32x16 low, char *panel, int64_t block, int first,
                           int count, int num_rows, f32x16 *sums, int64_t bits, int minima, int wide) {
    i32x16 dots[ROWS_ABREAST], lows[ROWS_ABREAST];
    for (int r = 0; r < count; r++) {
        i32x16 offset = (i32x16){0} + *place_of(panel, block, first + r, num_rows, wide).offset;
        dots[r] = wide ? (i32x16){0} : offset;
        lows[r] = offset;
    }
    for (int g = 0; g < GROUPS; g++)
        for (int r = 0; r < count; r++) {
            struct place place = place_of(panel, block, first + r, num_rows, wide);
            dots[r] = dot_four(dots[r], weights->groups[g], place.quants + 4 * g, bits);
            if (wide) lows[r] = dot_four(lows[r], weights->groups[g], place.low_quants + 4 * g, bits);
        }
    for (int r = 0; r < count; r++) {
        struct place place = place_of(panel, block, first + r, num_rows, wide);
        if (wide) dots[r] = (dots[r] << 8) + lows[r]; /* below 2^29 */
        f32x16 *sum = sums + first + r;
        *sum = multiply_add(__builtin_convertvector(dots[r], f32x16) * *place.scale, scale, *sum);
        if (minima) *sum = multiply_add(broadcast(*place.total), low, *sum);
    }
}

/* A panel of `num_rows` rows (a constant), the first of them `row`, against one tile. */
INLINE void multiply_panel(const struct activations *x, int64_t tile, int64_t row, int num_rows, int64_t bits, int minima,
                           int wide) {
    const struct linear *linear = x->linear;
    int64_t num_blocks = x->num_blocks, block_bytes = bits * BLOCK * LANES / 8;
    const uint8_t *quants = linear->quants + tile * num_blocks * block_bytes;
    const uint16_t *scales = linear->scales + tile * num_blocks * LANES, *lows = linear->minima + tile * num_blocks * LANES;
    char *panel = panel_at(x, row, wide);
    f32x16 sums[MOST_ROWS];
    for (int r = 0; r < num_rows; r++) sums[r] = broadcast(0.0f);
    for (int64_t block = 0; block < num_blocks; block++) {
        for (int64_t i = 0; i < block_bytes; i += 64) __builtin_prefetch(quants + block * block_bytes + AHEAD_BYTES + i);
        struct weights weights = unpack(quants + block * block_bytes, bits);
        f32x16 scale = floats_of_halves(scales + block * LANES);
        f32x16 low = minima ? floats_of_halves(lows + block * LANES) : scale;
        for (int r = 0; r < num_rows; r += ROWS_ABREAST)
            multiply_block(&weights, scale, low, panel, block, r, num_rows - r < ROWS_ABREAST ? num_rows - r : ROWS_ABREAST,
                           num_rows, sums, bits, minima, wide);
    }
    for (int r = 0; r < num_rows; r++) store_outputs(linear, row + r, tile * LANES, sums[r]);
}

INLINE void multiply_rows(const struct activations *x, int64_t tile, int64_t row, int64_t end_row, int64_t bits, int minima,
                          int wide) {
    for (; row + MOST_ROWS <= end_row; row += MOST_ROWS) multiply_panel(x, tile, row, MOST_ROWS, bits, minima, wide);
    while (row < end_row) {
        int64_t num_rows = panel_rows(end_row - row);
        switch (num_rows) {
        case 4: multiply_panel(x, tile, row, 4, bits, minima, wide); break;
        case 3: multiply_panel(x, tile, row, 3, bits, minima, wide); break;
        case 2: multiply_panel(x, tile, row, 2, bits, minima, wide); break;
        case 1: multiply_panel(x, tile, row, 1, bits, minima, wide); break;
        }
        row += num_rows;
    }
}

INLINE void multiply_tiles(const struct activations *x, int64_t begin, int64_t end, int wide) {
    for (int64_t item = begin; item < end; item++) {
        int64_t first = item / x->num_row_tasks * x->tiles_per_task, last = least(first + x->tiles_per_task, x->num_tiles);
        int64_t row = item % x->num_row_tasks * x->rows_per_task, end_row = least(row + x->rows_per_task, x->linear->num_rows);
        for (int64_t tile = first; tile < last; tile++)
            if (x->linear->bits == 8)
                multiply_rows(x, tile, row, end_row, 8, 0, wide);
            else if (x->linear->minima)
                multiply_rows(x, tile, row, end_row, 4, 1, wide);
            else
                multiply_rows(x, tile, row, end_row, 4, 0, wide);
    }
}

static void multiply(const void *context, int64_t begin, int64_t end) {
    const struct activations *x = context;
    x->linear->x_bits == 16 ? multiply_tiles(x, begin, end, 1) : multiply_tiles(x, begin, end, 0);
}

/* Returns 0, or 1 when there is no memory for the rounded activations. */
EXPORT int64_t callboard_quantized_linear(const struct linear *linear) {
    int64_t num_rows = linear->num_rows, num_blocks = linear->num_inputs / BLOCK;
    struct activations x = {.linear = linear, .num_blocks = num_blocks, .num_tiles = (linear->num_outputs + LANES - 1) / LANES};
    x.panels = malloc((size_t)(num_rows * num_blocks * row_block_bytes(linear->x_bits == 16)) + 1);
    if (!x.panels) return 1;
    int64_t num_spans = (num_rows + MOST_ROWS - 1) / MOST_ROWS;
    parallel(quantize_spans, &x, num_spans, most(1, 16384 / (MOST_ROWS * most(linear->num_inputs, 1))));
    x.rows_per_task = least(num_rows, ROWS_PER_TASK);
    x.num_row_tasks = (num_rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK;
    x.tiles_per_task = most(1, OPERATIONS_PER_TASK / most(1, x.rows_per_task * linear->num_inputs * LANES));
    parallel(multiply, &x, (x.num_tiles + x.tiles_per_task - 1) / x.tiles_per_task * x.num_row_tasks, 1);
    free(x.panels);
    return 0;
}
