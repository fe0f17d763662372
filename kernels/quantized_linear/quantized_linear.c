/* Linear layers with 4-bit or 8-bit weights: activations are rounded to int8 in blocks of 32, products are exact integers.
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
};

/* Rounded activations lie in panels of up to MOST_ROWS rows that are multiplied together. For each block of inputs a panel has
 * the int8 of its rows, then for each row a scale (x is about scale * int8), a total (scale * the sum of the int8s) and an
 * offset (-zero_point * that sum).
 */
#define ROW_BLOCK_BYTES (BLOCK + 12)

struct activations {
    const struct linear *linear;
    char *panels;
    int64_t num_blocks, num_tiles, tiles_per_task, rows_per_task, num_row_tasks;
};

/* One row's place in its panel at one block, and what stands there. */
struct place {
    int8_t *quants;
    float *scale, *total;
    int32_t *offset;
};

INLINE struct place place_of(char *panel, int64_t block, int64_t row, int64_t num_rows) {
    char *at = panel + block * num_rows * ROW_BLOCK_BYTES;
    float *values = (float *)(at + num_rows * BLOCK);
    return (struct place){(int8_t *)at + row * BLOCK, values + row, values + num_rows + row, (int32_t *)(values + 2 * num_rows) + row};
}

/* Rows of the panel that starts with `num_left` rows to go. Only these sizes are compiled. */
INLINE int64_t panel_rows(int64_t num_left) {
    return num_left >= MOST_ROWS ? MOST_ROWS : least(num_left, 4);
}

INLINE char *panel_at(const struct activations *x, int64_t row) { return x->panels + row * x->num_blocks * ROW_BLOCK_BYTES; }

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

INLINE void quantize_row(const struct activations *to, int64_t row, char *panel, int64_t panel_row, int64_t num_rows, int bf16) {
    const char *x = to->linear->x + row * to->linear->x_stride;
    for (int64_t block = 0; block < to->num_blocks; block++) {
        struct place place = place_of(panel, block, panel_row, num_rows);
        f32x16 low = load(x, block * BLOCK, bf16), high = load(x, block * BLOCK + LANES, bf16);
        float peak = largest_lane(larger(larger(low, -low), larger(high, -high)));
        float inverse = peak > 0.0f ? 127.0f / peak : 0.0f;
        int32_t sum = round_block(low * inverse, high * inverse, place.quants);
        *place.scale = peak / 127.0f;
        *place.total = *place.scale * (float)sum;
        *place.offset = (int32_t)-to->linear->zero_point * sum;
    }
}

/* Items are spans of MOST_ROWS rows: a whole number of panels. */
static void quantize_spans(const void *context, int64_t begin, int64_t end) {
    const struct activations *to = context;
    int64_t row = begin * MOST_ROWS, end_row = least(end * MOST_ROWS, to->linear->num_rows);
    while (row < end_row) {
        int64_t num_rows = panel_rows(end_row - row);
        for (int64_t r = 0; r < num_rows; r++)
            if (to->linear->x_bf16)
                quantize_row(to, row + r, panel_at(to, row), r, num_rows, 1);
            else
                quantize_row(to, row + r, panel_at(to, row), r, num_rows, 0);
        row += num_rows;
    }
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
                           int count, int num_rows, f32x16 *sums, int64_t bits, int minima) {
    i32x16 dots[ROWS_ABREAST];
    for (int r = 0; r < count; r++) dots[r] = (i32x16){0} + *place_of(panel, block, first + r, num_rows).offset;
    for (int g = 0; g < GROUPS; g++)
        for (int r = 0; r < count; r++)
            dots[r] = dot_four(dots[r], weights->groups[g], place_of(panel, block, first + r, num_rows).quants + 4 * g, bits);
    for (int r = 0; r < count; r++) {
        struct place place = place_of(panel, block, first + r, num_rows);
        f32x16 *sum = sums + first + r;
        *sum = multiply_add(__builtin_convertvector(dots[r], f32x16) * *place.scale, scale, *sum);
        if (minima) *sum = multiply_add(broadcast(*place.total), low, *sum);
    }
}

/* A panel of `num_rows` rows (a constant), the first of them `row`, against one tile. */
INLINE void multiply_panel(const struct activations *x, int64_t tile, int64_t row, int num_rows, int64_t bits, int minima) {
    const struct linear *linear = x->linear;
    int64_t num_blocks = x->num_blocks, block_bytes = bits * BLOCK * LANES / 8;
    const uint8_t *quants = linear->quants + tile * num_blocks * block_bytes;
    const uint16_t *scales = linear->scales + tile * num_blocks * LANES, *lows = linear->minima + tile * num_blocks * LANES;
    char *panel = panel_at(x, row);
    f32x16 sums[MOST_ROWS];
    for (int r = 0; r < num_rows; r++) sums[r] = broadcast(0.0f);
    for (int64_t block = 0; block < num_blocks; block++) {
        for (int64_t i = 0; i < block_bytes; i += 64) __builtin_prefetch(quants + block * block_bytes + AHEAD_BYTES + i);
        struct weights weights = unpack(quants + block * block_bytes, bits);
        f32x16 scale = floats_of_halves(scales + block * LANES);
        f32x16 low = minima ? floats_of_halves(lows + block * LANES) : scale;
        for (int r = 0; r < num_rows; r += ROWS_ABREAST)
            multiply_block(&weights, scale, low, panel, block, r, num_rows - r < ROWS_ABREAST ? num_rows - r : ROWS_ABREAST,
                           num_rows, sums, bits, minima);
    }
    for (int r = 0; r < num_rows; r++) store_outputs(linear, row + r, tile * LANES, sums[r]);
}

INLINE void multiply_rows(const struct activations *x, int64_t tile, int64_t row, int64_t end_row, int64_t bits, int minima) {
    for (; row + MOST_ROWS <= end_row; row += MOST_ROWS) multiply_panel(x, tile, row, MOST_ROWS, bits, minima);
    while (row < end_row) {
        int64_t num_rows = panel_rows(end_row - row);
        switch (num_rows) {
        case 4: multiply_panel(x, tile, row, 4, bits, minima); break;
        case 3: multiply_panel(x, tile, row, 3, bits, minima); break;
        case 2: multiply_panel(x, tile, row, 2, bits, minima); break;
        case 1: multiply_panel(x, tile, row, 1, bits, minima); break;
        }
        row += num_rows;
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
    x.panels = malloc((size_t)(num_rows * num_blocks * ROW_BLOCK_BYTES) + 1);
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
