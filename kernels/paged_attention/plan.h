/* The blocks of a batch, and room for what their chunks add up to where chunks are shared out among threads. */
#ifndef CALLBOARD_PLAN_H
#define CALLBOARD_PLAN_H

#include <stdlib.h>

#include "attention.h"

/* Where a row finds what the keys that it shares with others add up to. */
struct prefix {
    int64_t block, vector; /* in the plan of the shared blocks; the row's first vector there */
};

struct plan {
    const struct attention *a;
    struct block *blocks; /* without kv_head */
    int64_t num_blocks, most_chunks;
    char *parts; /* [blocks, kv_heads, most_chunks] */
    int64_t part_bytes;
    const struct plan *shared;     /* what was attended before, or NULL */
    const struct prefix *prefixes; /* [blocks] in `shared`; block -1: nothing is shared */
};

INLINE int64_t first_chunk(const struct block *block) { return block->keys.first / CHUNK; }

INLINE int64_t num_chunks(const struct block *block) { return (block->keys.last + CHUNK - 1) / CHUNK - first_chunk(block); }

INLINE struct block block_of(const struct plan *plan, int64_t item) {
    struct block block = plan->blocks[item / plan->a->num_kv_heads];
    block.kv_head = item % plan->a->num_kv_heads;
    return block;
}

INLINE struct partial *part_of(const struct plan *plan, int64_t item, int64_t chunk) {
    return (struct partial *)(plan->parts + (item * plan->most_chunks + chunk) * plan->part_bytes);
}

/* Returns whether there was memory. */
static int allocate_parts(struct plan *plan) {
    int64_t num_parts = plan->num_blocks * plan->a->num_kv_heads * plan->most_chunks;
    plan->part_bytes = round_up((int64_t)sizeof(struct partial) + BLOCK * width_of(plan->a) * (int64_t)sizeof(float), 64);
    plan->parts = aligned_alloc(64, (size_t)(num_parts * plan->part_bytes));
    return plan->parts != NULL;
}

INLINE int64_t num_queries(const struct attention *a, int64_t row) { return a->query_starts[row + 1] - a->query_starts[row]; }

INLINE int64_t group_of(const struct attention *a) { return a->num_heads / a->num_kv_heads; }

INLINE struct query first_query(const struct attention *a, int64_t row) {
    return (struct query){a->query_starts[row], a->kv_lengths[row] - num_queries(a, row)};
}

INLINE int64_t blocks_of(const struct attention *a, int64_t row) {
    return (num_queries(a, row) * group_of(a) + BLOCK - 1) / BLOCK;
}

static int64_t count_blocks(const struct attention *a) {
    int64_t count = 0;
    for (int64_t row = 0; row < a->num_rows; row++) count += blocks_of(a, row);
    return count;
}

INLINE struct range visible(const struct attention *a, const struct block *block) {
    int64_t oldest = a->window > 0 ? most(0, query_of(block, 0).position - a->window + 1) : 0;
    return (struct range){oldest, query_of(block, block->count - 1).position + 1};
}

/* Cuts the rows into blocks. */
static void cut_blocks(struct plan *plan) {
    const struct attention *a = plan->a;
    struct block *block = plan->blocks;
    for (int64_t row = 0; row < a->num_rows; row++)
        for (int64_t first = 0, end = num_queries(a, row) * group_of(a); first < end; first += BLOCK, block++) {
            *block = (struct block){.row = row, .first = first, .count = least(BLOCK, end - first), .group = group_of(a)};
            block->start = first_query(a, row);
            block->keys = visible(a, block);
        }
}

/* The number of keys that all blocks see; also counts the most chunks. */
static int64_t count_keys(struct plan *plan) {
    int64_t count = 0;
    for (int64_t i = 0; i < plan->num_blocks; i++) {
        plan->most_chunks = most(plan->most_chunks, num_chunks(plan->blocks + i));
        count += plan->blocks[i].keys.last - plan->blocks[i].keys.first;
    }
    return count;
}

#endif
