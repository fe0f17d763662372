/* Rows of a packed weight as plain numbers: the embeddings of tokens. For the layout see packing.py. */
#include "../parallel.h"

#define BLOCK 32
#define ELEMENTS_PER_TASK 16384

/* As ROWS_SLOTS in __init__.py lays it out. */
struct packed_rows {
    char *out; /* [num_rows, num_inputs] */
    const int64_t *rows;
    const uint8_t *quants;  /* [tiles, blocks, 256 or 512] */
    const uint16_t *scales; /* [tiles, blocks, 16] float16 */
    const uint16_t *minima; /* the same, or NULL */
    int64_t num_rows, num_inputs, bits, zero_point, out_bf16;
};

INLINE float float_of_half(uint16_t half) {
    uint32_t bits = (uint32_t)(half & 0x7fff) << 13;
    float magnitude;
    memcpy(&magnitude, &bits, sizeof magnitude);
    magnitude *= 5.192296858534828e33f; /* 2^112 moves the exponent, and makes subnormals normal */
    return half & 0x8000 ? -magnitude : magnitude;
}

/* The 32 quants of one output in a block of a tile. */
INLINE void take_quants(const uint8_t *block, int64_t lane, int64_t bits, uint8_t *quants) {
    for (int group = 0; group < (bits == 8 ? 8 : 4); group++) {
        const uint8_t *four = block + 4 * LANES * group + 4 * lane;
        for (int i = 0; i < 4; i++) {
            quants[4 * group + i] = bits == 8 ? four[i] : four[i] & 0x0f;
            if (bits == 4) quants[BLOCK / 2 + 4 * group + i] = four[i] >> 4;
        }
    }
}

static void run(const void *context, int64_t begin, int64_t end) {
    const struct packed_rows *rows = context;
    int64_t num_blocks = rows->num_inputs / BLOCK, block_bytes = rows->bits * BLOCK * LANES / 8;
    for (int64_t r = begin; r < end; r++) {
        char *out = rows->out + r * rows->num_inputs * (rows->out_bf16 ? 2 : 4);
        int64_t tile = rows->rows[r] / LANES, lane = rows->rows[r] % LANES;
        for (int64_t b = 0; b < num_blocks; b++) {
            int64_t at = tile * num_blocks + b;
            uint8_t quants[BLOCK];
            float values[BLOCK];
            take_quants(rows->quants + at * block_bytes, lane, rows->bits, quants);
            float scale = float_of_half(rows->scales[at * LANES + lane]);
            float low = rows->minima ? float_of_half(rows->minima[at * LANES + lane]) : 0.0f;
            for (int i = 0; i < BLOCK; i++) values[i] = (float)(quants[i] - (int)rows->zero_point) * scale + low;
            for (int i = 0; i < BLOCK; i += LANES) store(out, b * BLOCK + i, load(values, i, 0), (int)rows->out_bf16);
        }
    }
}

EXPORT int64_t callboard_packed_rows(const struct packed_rows *rows) {
    parallel(run, rows, rows->num_rows, most(1, ELEMENTS_PER_TASK / most(rows->num_inputs, 1)));
    return 0;
}
