/* Linear layers with 4-bit or 8-bit weights: activations are rounded to 8 or 16 bits in blocks of 32, products are exact integers.
 *
 * Weights lie in tiles of 16 outputs, a block of 32 inputs at a time, in the order the dot-product instruction wants them (see
 * packing.py). A tile's block is unpacked into registers once and meets a panel of up to PANEL_ROWS rows there. A row's sum
 * runs over the blocks in order, whatever rows are beside it and whoever computes it: the result has the same bits in every batch.
 *
 * What bounds it is the multipliers. Zen 4 starts one 512-bit product a cycle, integer or float alike: eight for a block of 16
 * outputs and a row, one more for the scale and half of one for the minimum. Everything else goes to other units.
 */
#include <stdlib.h>

#include "../best.h"
#include "../parallel.h"
#include "weights.h"

/* How many rows' sums grow side by side: each waits four cycles for itself. Written out they need 32 registers; with fewer, the
 * loops stay loops, which compile in seconds. */
#if defined(__AVX512F__)
#define MOST_ABREAST 8
#define WRITTEN_OUT 1
#else
#define MOST_ABREAST 4
#define WRITTEN_OUT 0
#endif
#define PANEL_ROWS 128 /* at most: their sums stay in the first cache */
#define NUM_LEVELS 4
#define OPERATIONS_PER_TASK 200000 /* about 1 us */
#define TILES_PER_BEST 16 /* at least, in a task that looks for the largest output: finding it among 16 lanes has a price */

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
    int64_t num_narrow; /* the first outputs, which meet activations of 8 bits: whole tiles, or all */
    int64_t *ids;       /* [rows] the index of each row's largest output, or -1; out is then not used. Or NULL */
};

struct product {
    const struct linear *linear;
    struct quad *quads[2]; /* 8 bits [panels][blocks][quads of the panel], 16 bits [panels][blocks][quads][2]; or NULL */
    struct best *bests;    /* [spans of tiles][rows], if ids are asked for */
    int64_t num_blocks, num_tiles, num_narrow_tiles, tiles_per_task, num_panels, panel_rows;
};

/* The rows that meet a tile together. */
struct panel {
    const struct quad *quads;
    struct best_lanes *bests;         /* [its rows], instead of outputs that are stored; or NULL */
    int64_t row, num_rows, num_quads; /* its first row; its rows; quads between two blocks */
};

INLINE struct panel panel_at(const struct product *product, int64_t index, int wide) {
    int64_t row = index * product->panel_rows, num_rows = least(product->panel_rows, product->linear->num_rows - row);
    return (struct panel){product->quads[wide] + row / QUAD_ROWS * product->num_blocks * (1 + wide), NULL, row, num_rows,
                          round_up(num_rows, QUAD_ROWS) / QUAD_ROWS * (1 + wide)};
}

INLINE void round_rows(const struct product *product, int64_t begin, int64_t end, int bf16, int wide) {
    const struct linear *linear = product->linear;
    int64_t zero_point = linear->minima ? MIDDLE : linear->zero_point;
    for (int64_t row = begin; row < end; row++) {
        struct panel panel = panel_at(product, row / product->panel_rows, wide);
        int64_t in_panel = row - panel.row;
        round_row(linear->x + row * linear->x_stride, product->num_blocks,
                  (struct quad *)panel.quads + in_panel / QUAD_ROWS * (1 + wide), panel.num_quads, (int)(in_panel % QUAD_ROWS),
                  zero_point, bf16, wide);
    }
}

static void round_activations(const void *context, int64_t begin, int64_t end) {
    const struct product *product = context;
    int bf16 = (int)product->linear->x_bf16;
    if (product->quads[0]) bf16 ? round_rows(product, begin, end, 1, 0) : round_rows(product, begin, end, 0, 0);
    if (product->quads[1]) bf16 ? round_rows(product, begin, end, 1, 1) : round_rows(product, begin, end, 0, 1);
}

/* sum[i] += the four unsigned bytes of w[i] times the four signed bytes at x. */
INLINE i32x16 dot_four(i32x16 sum, i32x16 w, const int8_t *x, int bits) {
    int32_t four;
    memcpy(&four, x, sizeof four);
#if defined(__AVX512VNNI__)
    (void)bits;
    /* GCC 12 would broadcast to a register first, and registers are what limits how far the CPU looks ahead. */
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(w), "m"(*(const int32_t(*)[1])x));
    return sum;
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

/* sum + the minima of two blocks times their totals, pairs of bfloats. */
INLINE f32x16 add_pair(f32x16 sum, u32x16 minima, uint32_t totals) {
#if defined(__AVX512BF16__)
    return (f32x16)_mm512_dpbf16_ps((__m512)sum, (__m512bh)minima, (__m512bh)_mm512_set1_epi32((int)totals));
#else
    u32x16 both = (u32x16){0} + totals;
    sum = multiply_add((f32x16)(minima << 16), (f32x16)(both << 16), sum);
    return multiply_add((f32x16)(minima & 0xffff0000), (f32x16)(both & 0xffff0000), sum);
#endif
}

/* Where a loop is written out, what it indexes stays in registers with every compiler. */
#define EIGHT_TIMES(what) what(0) what(1) what(2) what(3) what(4) what(5) what(6) what(7)

/* Rows side by side: row r is quads[r / 4 * step]'s row `first` + r % 4. `count` is a constant. */
struct rows {
    const struct quad *quads;
    int first, count, step;
};

/* Their integer sums. */
struct dots {
    i32x16 rows[8];
};

INLINE void dot_group(struct dots *dots, i32x16 weights, struct rows rows, int group, int bits) {
#define DOT(r)        \
    if (r < rows.count) \
        dots->rows[r] = dot_four(dots->rows[r], weights,                                                                \
                                 rows.quads[r / 4 * rows.step].integers[rows.first + r % 4] + 4 * group, bits);
    EIGHT_TIMES(DOT)
}

INLINE struct dots dot_rows(const struct weights *weights, struct rows rows, int bits) {
    struct dots dots;
#define START(r) \
    if (r < rows.count) dots.rows[r] = (i32x16){0} + rows.quads[r / 4 * rows.step].starts[rows.first + r % 4];
#define GROUP(g) dot_group(&dots, weights->groups[g], rows, g, bits);
    EIGHT_TIMES(START)
    if (WRITTEN_OUT) {
        EIGHT_TIMES(GROUP)
    } else {
        for (int g = 0; g < GROUPS; g++) GROUP(g)
    }
    return dots;
}

/* The weights' scale times a level: made before for many rows, or now for few. The same bits. */
INLINE f32x16 scale_at(const struct weights *weights, float level, const f32x16 *levels) {
    uint32_t bits;
    memcpy(&bits, &level, sizeof bits);
    return levels ? levels[(bits >> 21) % NUM_LEVELS] : weights->scale * level;
}

/* Adds a block of row r to its sum. */
INLINE f32x16 add_block(f32x16 sum, f32x16 value, const struct weights *weights, const struct quad *quad, int r,
                        const f32x16 *levels, int minima, int wide) {
    sum = multiply_add(value, scale_at(weights, quad->levels[r], levels), sum);
    if (!minima) return sum;
    if (!wide) return add_pair(sum, weights->minima, quad->totals[r]);
    return multiply_add((f32x16)((u32x16){0} + quad->totals[r]), (f32x16)weights->minima, sum);
}

/* Rows against a block. levels: see scale_at. minima: whether to add any. */
INLINE void multiply_rows(const struct weights *weights, struct rows rows, f32x16 *sums, const f32x16 *levels, int bits, int minima,
                          int wide) {
    struct dots highs, dots;
    if (wide) highs = dot_rows(weights, rows, bits);
    rows.quads += wide;
    dots = dot_rows(weights, rows, bits);
#define ADD(r)                                                                                      \
    if (r < rows.count) {                                                                           \
        const struct quad *quad = rows.quads + r / 4 * rows.step;                                   \
        f32x16 value = (f32x16)dots.rows[r] - quad->ends[rows.first + r % 4];                       \
        if (wide) value += (f32x16)highs.rows[r] - quad[-1].ends[rows.first + r % 4];               \
        sums[r] = add_block(sums[r], value, weights, quad, rows.first + r % 4, levels, minima, wide); \
    }
    EIGHT_TIMES(ADD)
}

INLINE void multiply_panel(const struct weights *weights, const struct quad *quads, int64_t num_rows, f32x16 *sums,
                           const f32x16 *levels, int bits, int minima, int wide) {
    const int step = 1 + wide, most = wide ? 4 : MOST_ABREAST; /* with 16 bits a row has two sums */
    int64_t row = 0;
    for (; row + most <= num_rows; row += most, quads += most / QUAD_ROWS * step)
        multiply_rows(weights, (struct rows){quads, 0, most, step}, sums + row, levels, bits, minima, wide);
    if (most > 4 && row + 4 <= num_rows) {
        multiply_rows(weights, (struct rows){quads, 0, 4, step}, sums + row, levels, bits, minima, wide);
        row += 4, quads += step;
    }
    int first = 0;
    for (; WRITTEN_OUT && row + 2 <= num_rows; first += 2, row += 2)
        multiply_rows(weights, (struct rows){quads, first, 2, step}, sums + row, levels, bits, minima, wide);
    for (; row < num_rows; first++, row++)
        multiply_rows(weights, (struct rows){quads, first, 1, step}, sums + row, levels, bits, minima, wide);
}

/* row: its index in the panel. */
INLINE void store_outputs(const struct linear *linear, const struct panel *panel, int64_t row, int64_t column, f32x16 sum) {
    int64_t count = least(LANES, linear->num_outputs - column);
    if (linear->bias) sum += count == LANES ? load(linear->bias, column, 0) : load_some(linear->bias, column, count, 0);
    if (panel->bests) return offer(panel->bests + row, sum, column, count);
    char *out = linear->out + (panel->row + row) * linear->num_outputs * (linear->out_bf16 ? 2 : 4);
    if (count == LANES)
        store(out, column, sum, (int)linear->out_bf16);
    else
        store_some(out, column, count, sum, (int)linear->out_bf16);
}

INLINE struct tile tile_at(const struct product *product, int64_t index, int bits) {
    const struct linear *linear = product->linear;
    int64_t block = index * product->num_blocks;
    return (struct tile){linear->quants + block * BLOCK * LANES * bits / 8, linear->scales + block * LANES,
                         linear->minima ? linear->minima + block * LANES : NULL};
}

/* A tile against many rows, whose sums are in memory: one load and one store for eight products. */
INLINE void multiply_many(const struct product *product, int64_t index, struct panel panel, int bits, int minima, int wide) {
    struct tile tile = tile_at(product, index, bits);
    f32x16 sums[PANEL_ROWS], levels[NUM_LEVELS];
    struct weights weights = {0};
    for (int64_t r = 0; r < panel.num_rows; r++) sums[r] = broadcast(0.0f);
    for (int64_t block = 0; block < product->num_blocks; block++, panel.quads += panel.num_quads) {
        int half = (int)(block % 2), last = half || block == product->num_blocks - 1;
        unpack(&weights, &tile, block, half, bits, minima, wide);
        for (int level = 0; level < NUM_LEVELS; level++) levels[level] = weights.scale * (1.0f + 0.25f * (float)level);
        multiply_panel(&weights, panel.quads, panel.num_rows, sums, levels, bits, minima && (wide || last), wide);
    }
    for (int64_t r = 0; r < panel.num_rows; r++) store_outputs(product->linear, &panel, r, index * LANES, sums[r]);
}

/* A block against up to four rows, a constant. half: which of its pair the block is; last: whether it is the last of the pair,
 * with which minima are added if activations have 8 bits. */
INLINE void multiply_block(struct weights *weights, const struct tile *tile, const struct panel *panel, int64_t block, int half,
                           int last, f32x16 *sums, int count, int bits, int minima, int wide) {
    unpack(weights, tile, block, half, bits, minima, wide);
    struct rows rows = {panel->quads + block * (1 + wide), 0, count, 1 + wide};
    multiply_rows(weights, rows, sums, NULL, bits, minima && (wide || last), wide);
}

/* A tile against up to four rows, a constant, whose sums are in registers. */
INLINE void multiply_few(const struct product *product, int64_t index, struct panel panel, int count, int bits, int minima,
                         int wide) {
    struct tile tile = tile_at(product, index, bits);
    f32x16 sums[4] = {{0}};
    struct weights weights = {0};
    int64_t block = 0;
    for (; block + 1 < product->num_blocks; block += 2) {
        multiply_block(&weights, &tile, &panel, block, 0, 0, sums, count, bits, minima, wide);
        multiply_block(&weights, &tile, &panel, block + 1, 1, 1, sums, count, bits, minima, wide);
    }
    if (block < product->num_blocks) multiply_block(&weights, &tile, &panel, block, 0, 1, sums, count, bits, minima, wide);
#define STORE(r) \
    if (r < count) store_outputs(product->linear, &panel, r, index * LANES, sums[r]);
    STORE(0) STORE(1) STORE(2) STORE(3)
}

INLINE void multiply_tile(const struct product *product, int64_t index, struct panel panel, int bits, int minima, int wide) {
    if (WRITTEN_OUT && panel.num_rows == 1)
        multiply_few(product, index, panel, 1, bits, minima, wide);
    else if (WRITTEN_OUT && panel.num_rows == 2)
        multiply_few(product, index, panel, 2, bits, minima, wide);
    else if (WRITTEN_OUT && panel.num_rows == 4)
        multiply_few(product, index, panel, 4, bits, minima, wide);
    else
        multiply_many(product, index, panel, bits, minima, wide);
}

INLINE void multiply_by_kind(const struct product *product, int64_t index, struct panel panel, int wide) {
    if (product->linear->bits == 8)
        multiply_tile(product, index, panel, 8, 0, wide);
    else if (product->linear->minima)
        multiply_tile(product, index, panel, 4, 1, wide);
    else
        multiply_tile(product, index, panel, 4, 0, wide);
}

/* One of the spans of tiles against one panel. bests: [rows of the panel] or NULL. */
static void multiply_span(const struct product *product, int64_t span, int64_t index, struct best_lanes *bests) {
    int64_t tile = span * product->tiles_per_task, last = least(tile + product->tiles_per_task, product->num_tiles);
    for (; tile < last; tile++) {
        int wide = tile >= product->num_narrow_tiles;
        struct panel panel = panel_at(product, index, wide);
        panel.bests = bests;
        wide ? multiply_by_kind(product, tile, panel, 1) : multiply_by_kind(product, tile, panel, 0);
    }
}

static void multiply(const void *context, int64_t begin, int64_t end) {
    const struct product *product = context;
    for (int64_t item = begin; item < end; item++) multiply_span(product, item / product->num_panels, item % product->num_panels, NULL);
}

static void multiply_for_best(const void *context, int64_t begin, int64_t end) {
    const struct product *product = context;
    for (int64_t item = begin; item < end; item++) {
        int64_t span = item / product->num_panels, panel = item % product->num_panels, row = panel * product->panel_rows;
        int64_t num_rows = least(product->panel_rows, product->linear->num_rows - row);
        struct best_lanes lanes[PANEL_ROWS];
        for (int64_t r = 0; r < num_rows; r++) lanes[r] = nothing_yet();
        multiply_span(product, span, panel, lanes);
        struct best *bests = product->bests + span * product->linear->num_rows + row;
        for (int64_t r = 0; r < num_rows; r++) bests[r] = best_of_lanes(lanes + r);
    }
}

/* Tiles by twos, so that with bfloat16 outputs two threads seldom write to one line of the cache. */
INLINE int64_t tiles_per_task(const struct product *product) {
    int64_t operations = least(product->linear->num_rows, product->panel_rows) * product->linear->num_inputs * LANES;
    int64_t least_tiles = product->linear->ids ? TILES_PER_BEST : 2;
    return round_up(most(1, OPERATIONS_PER_TASK / most(1, operations)), least_tiles);
}

/* Room for the rounded activations, of one kind or both; NULL when there is no memory. */
static struct quad *make_quads(struct product *product) {
    int64_t num_quads = round_up(product->linear->num_rows, QUAD_ROWS) / QUAD_ROWS * product->num_blocks;
    int narrow = product->num_narrow_tiles > 0, wide = product->num_narrow_tiles < product->num_tiles;
    struct quad *quads = aligned_alloc(64, (size_t)most(1, num_quads * (narrow + 2 * wide)) * sizeof(struct quad));
    product->quads[0] = narrow ? quads : NULL;
    product->quads[1] = wide && quads ? quads + narrow * num_quads : NULL;
    return quads;
}

static void multiply_all(struct product *product, int64_t num_spans) {
    const struct linear *linear = product->linear;
    parallel(round_activations, product, linear->num_rows, most(1, 16384 / most(linear->num_inputs, 1)));
    parallel(linear->ids ? multiply_for_best : multiply, product, num_spans * product->num_panels, 1);
    for (int64_t row = 0; linear->ids && row < linear->num_rows; row++)
        linear->ids[row] = best_of_tasks(product->bests + row, num_spans, linear->num_rows);
}

/* Returns 0, or 1 when there is no memory to work in. */
EXPORT int64_t callboard_quantized_linear(const struct linear *linear) {
    struct product product = {.linear = linear, .num_blocks = linear->num_inputs / BLOCK};
    product.num_tiles = (linear->num_outputs + LANES - 1) / LANES;
    product.num_narrow_tiles = (linear->num_narrow + LANES - 1) / LANES;
    product.num_panels = most(1, (linear->num_rows + PANEL_ROWS - 1) / PANEL_ROWS);
    product.panel_rows = round_up((linear->num_rows + product.num_panels - 1) / product.num_panels, MOST_ABREAST);
    product.tiles_per_task = tiles_per_task(&product);
    int64_t num_spans = (product.num_tiles + product.tiles_per_task - 1) / product.tiles_per_task;
    struct quad *quads = make_quads(&product);
    if (linear->ids) product.bests = malloc((size_t)most(1, num_spans * linear->num_rows) * sizeof(struct best));
    int failed = !quads || (linear->ids && !product.bests);
    if (!failed) multiply_all(&product, num_spans);
    free(product.bests);
    free(quads);
    return failed;
}
