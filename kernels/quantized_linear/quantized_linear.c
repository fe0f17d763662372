/* Linear layers with 4-bit or 8-bit weights: activations are rounded to int8 in blocks of 32, products are exact integers.
 *
 * Weights lie in tiles of 16 outputs, a block of 32 inputs at a time, in the order the dot-product instruction wants them (see
 * packing.py). A tile's block is unpacked into registers once and meets up to MOST_ROWS rows of activations there. A row's sum
 * runs over the blocks in order, whatever rows are beside it and whoever computes it: the result has the same bits in every batch.
 */
#include <stdlib.h>

#include "../parallel.h"

#define BLOCK 32
#define GROUPS (BLOCK / 4) /* inputs go by in fours */
#define MOST_ROWS 12
#define ROWS_PER_TASK (4 * MOST_ROWS)
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
};

/* The rounded activations: x is about scale * quant, and offset = -zero_point * sum of quants, total = scale * that sum. */
struct activations {
    const struct linear *linear;
    int8_t *quants;  /* [rows, inputs] */
    float *scales;   /* [rows, blocks] */
    float *totals;   /* [rows, blocks] */
    int32_t *offsets; /* [rows, blocks] */
    int64_t num_blocks, num_tiles, tiles_per_task, rows_per_task, num_row_tasks;
};

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

/* The nearest integers to 32 floats, as int8; returns their sum. |x| <= 127. */
INLINE int32_t round_block(f32x16 low, f32x16 high, int8_t *quants) {
#if defined(__AVX512F__)
    __m512i a = _mm512_cvtps_epi32((__m512)low), b = _mm512_cvtps_epi32((__m512)high);
    _mm_storeu_si128((__m128i *)quants, _mm512_cvtepi32_epi8(a));
    _mm_storeu_si128((__m128i *)(quants + LANES), _mm512_cvtepi32_epi8(b));
    return _mm512_reduce_add_epi32(_mm512_add_epi32(a, b));
#else
    const f32x16 shift = broadcast(12582912.0f); /* 1.5 * 2^23 */
    i32x16 a = (i32x16)(low + shift) - (i32x16)shift, b = (i32x16)(high + shift) - (i32x16)shift;
    int32_t sum = 0;
    for (int i = 0; i < LANES; i++) {
        quants[i] = (int8_t)a[i];
        quants[i + LANES] = (int8_t)b[i];
        sum += a[i] + b[i];
    }
    return sum;
#endif
}

INLINE void quantize_row(const struct activations *to, int64_t row, int bf16) {
    const struct linear *linear = to->linear;
    const char *x = linear->x + row * linear->x_stride;
    int8_t *quants = to->quants + row * linear->num_inputs;
    for (int64_t block = 0; block < to->num_blocks; block++) {
        f32x16 low = load(x, block * BLOCK, bf16), high = load(x, block * BLOCK + LANES, bf16);
        float peak = largest_lane(larger(larger(low, -low), larger(high, -high)));
        float inverse = peak > 0.0f ? 127.0f / peak : 0.0f, scale = peak / 127.0f;
        int32_t sum = round_block(low * inverse, high * inverse, quants + block * BLOCK);
        int64_t at = row * to->num_blocks + block;
        to->scales[at] = scale;
        to->totals[at] = scale * (float)sum;
        to->offsets[at] = (int32_t)-linear->zero_point * sum;
    }
}

static void quantize_rows(const void *context, int64_t begin, int64_t end) {
    const struct activations *to = context;
    for (int64_t row = begin; row < end; row++)
        if (to->linear->x_bf16)
            quantize_row(to, row, 1);
        else
            quantize_row(to, row, 0);
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

/* `num_rows` rows (a constant) against one tile. */
INLINE void multiply_tile(const struct activations *x, int64_t tile, int64_t row, int num_rows, int64_t bits, int minima) {
    const struct linear *linear = x->linear;
    int64_t num_blocks = x->num_blocks, block_bytes = bits * BLOCK * LANES / 8;
    const uint8_t *quants = linear->quants + tile * num_blocks * block_bytes;
    const uint16_t *scales = linear->scales + tile * num_blocks * LANES, *lows = linear->minima + tile * num_blocks * LANES;
    f32x16 sums[MOST_ROWS];
    for (int r = 0; r < num_rows; r++) sums[r] = broadcast(0.0f);
    for (int64_t block = 0; block < num_blocks; block++) {
        struct weights weights = unpack(quants + block * block_bytes, bits);
        f32x16 scale = floats_of_halves(scales + block * LANES);
        f32x16 low = minima ? floats_of_halves(lows + block * LANES) : scale;
        for (int r = 0; r < num_rows; r++) {
            int64_t at = (row + r) * num_blocks + block;
            const int8_t *inputs = x->quants + (row + r) * linear->num_inputs + block * BLOCK;
            i32x16 dot = (i32x16){0} + x->offsets[at];
            for (int g = 0; g < GROUPS; g++) dot = dot_four(dot, weights.groups[g], inputs + 4 * g, bits);
            sums[r] = multiply_add(__builtin_convertvector(dot, f32x16) * x->scales[at], scale, sums[r]);
            if (minima) sums[r] = multiply_add(broadcast(x->totals[at]), low, sums[r]);
        }
    }
    for (int r = 0; r < num_rows; r++) store_outputs(linear, row + r, tile * LANES, sums[r]);
}

INLINE void multiply_rows(const struct activations *x, int64_t tile, int64_t row, int64_t end_row, int64_t bits, int minima) {
    for (; row + MOST_ROWS <= end_row; row += MOST_ROWS) multiply_tile(x, tile, row, MOST_ROWS, bits, minima);
    for (; row + 4 <= end_row; row += 4) multiply_tile(x, tile, row, 4, bits, minima);
    switch (end_row - row) {
    case 3: return multiply_tile(x, tile, row, 3, bits, minima);
    case 2: return multiply_tile(x, tile, row, 2, bits, minima);
    case 1: return multiply_tile(x, tile, row, 1, bits, minima);
    }
}

static void multiply(const void *context, int64_t begin, int64_t end) {
    const struct activations *x = context;
    for (int64_t item = begin; item < end; item++) {
        int64_t first = item / x->num_row_tasks * x->tiles_per_task, last = least(first + x->tiles_per_task, x->num_tiles);
        int64_t row = item % x->num_row_tasks * x->rows_per_task, end_row = least(row + x->rows_per_task, x->linear->num_rows);
        for (int64_t tile = first; tile < last; tile++)
            if (x->linear->bits == 8)
                multiply_rows(x, tile, row, end_row, 8, 0);
            else if (x->linear->minima)
                multiply_rows(x, tile, row, end_row, 4, 1);
            else
                multiply_rows(x, tile, row, end_row, 4, 0);
    }
}

/* Returns 0, or 1 when there is no memory for the rounded activations. */
EXPORT int64_t callboard_quantized_linear(const struct linear *linear) {
    int64_t num_rows = linear->num_rows, num_blocks = linear->num_inputs / BLOCK;
    struct activations x = {.linear = linear, .num_blocks = num_blocks, .num_tiles = (linear->num_outputs + LANES - 1) / LANES};
    char *memory = malloc((size_t)(num_rows * (linear->num_inputs + num_blocks * 12)) + 1);
    if (!memory) return 1;
    x.scales = (float *)memory;
    x.totals = x.scales + num_rows * num_blocks;
    x.offsets = (int32_t *)(x.totals + num_rows * num_blocks);
    x.quants = (int8_t *)(x.offsets + num_rows * num_blocks);
    parallel(quantize_rows, &x, num_rows, most(1, 16384 / most(linear->num_inputs, 1)));
    x.rows_per_task = least(num_rows, ROWS_PER_TASK);
    x.num_row_tasks = (num_rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK;
    x.tiles_per_task = most(1, OPERATIONS_PER_TASK / most(1, x.rows_per_task * linear->num_inputs * LANES));
    parallel(multiply, &x, (x.num_tiles + x.tiles_per_task - 1) / x.tiles_per_task * x.num_row_tasks, 1);
    free(memory);
    return 0;
}
