/* What the two arithmetic paths of paged attention share: the arguments, the block of queries and its scratch memory.
 *
 * A row's queries times the query heads of one key head are a flat list of vectors. A block is up to BLOCK of them, all against
 * one key head, so that every loaded key and value serves them all. Keys go by in chunks of CHUNK at fixed positions; a
 * chunk starts from nothing and is then folded into what came before it, in order. A vector's arithmetic is therefore the
 * same whatever block, row, batch, prompt chunking or thread it falls in. So rows that begin with the same pages may meet these
 * in one block: see sharing.h.
 */
#ifndef CALLBOARD_ATTENTION_H
#define CALLBOARD_ATTENTION_H

#include "../parallel.h"

#define BLOCK 32
#define CHUNK 256
#define MAX_HEAD_DIM 256
#define GROUP 4 /* vectors whose sums stay in registers together */

/* As SLOTS in __init__.py lays it out. Strides in bytes, per token and per head. */
struct attention {
    char *out; /* [tokens, heads, head_dim] */
    const char *q;
    const char *key_pages, *value_pages; /* [pages, kv_heads, page_size, head_dim] */
    const int32_t *query_starts, *kv_lengths, *page_tables;
    const float *sinks, *alibi_slopes; /* NULL: none */
    int64_t num_rows, num_heads, num_kv_heads, head_dim, page_size, table_stride, q_token_stride, q_head_stride;
    int64_t window, bf16;
    double scale, softcap;
};

/* A query's token in the batch, and its position in its sequence. */
struct query {
    int64_t token, position;
};

/* Keys [first, last). */
struct range {
    int64_t first, last;
};

/* Vectors `first` to `first + count` against one key head: of one row, or of several with one query each. */
struct block {
    int64_t row, kv_head, first, count;
    int64_t group;               /* query heads per key head */
    struct query start;          /* the row's first query; the others follow it */
    const struct query *queries; /* of several rows, of which `row` is one; else NULL */
    struct range keys;           /* those that at least one of its queries sees here */
};

/* What a range of keys adds up to: softmax weights relative to `peak` (-infinity: no key seen), their sum, weighted values. */
struct partial {
    float peak[BLOCK], sum[BLOCK];
    float values[] __attribute__((aligned(64))); /* [vectors, width(head_dim)] */
};

struct scratch {
    float scores[BLOCK][CHUNK] __attribute__((aligned(64)));
    uint16_t weights[BLOCK][CHUNK] __attribute__((aligned(64)));         /* softmax weights in bfloat16 */
    uint32_t key_tile[MAX_HEAD_DIM / 2][LANES] __attribute__((aligned(64))); /* 16 keys, one to a lane */
    uint32_t queries[BLOCK][MAX_HEAD_DIM] __attribute__((aligned(64)));  /* pairs of bfloat16, or floats */
};

/* One chunk of one block: keys [start, last) in `num_keys` rows, a multiple of 16, at these offsets into the pages. */
struct piece {
    struct block block;
    int64_t item, chunk, start, last, num_keys;
    int64_t rows[CHUNK];
};

INLINE int64_t head_of(const struct block *block, int64_t vector) {
    return block->kv_head * block->group + (block->first + vector) % block->group;
}

INLINE struct query query_of(const struct block *block, int64_t vector) {
    int64_t index = (block->first + vector) / block->group;
    if (block->queries) return block->queries[index];
    return (struct query){block->start.token + index, block->start.position + index};
}

INLINE const char *vector_at(const struct attention *a, const struct block *block, int64_t vector) {
    return a->q + query_of(block, vector).token * a->q_token_stride + head_of(block, vector) * a->q_head_stride;
}

/* Floats per vector in a partial. */
INLINE int64_t width_of(const struct attention *a) { return round_up(a->head_dim, 32); }

#endif
