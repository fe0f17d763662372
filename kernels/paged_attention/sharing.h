/* Finds decode rows that begin with the same pages, so that these are read and laid out once for all of them.
 *
 * Rows with one query are sorted by their page tables, chunk by chunk; neighbours with the same first chunks become a family,
 * whose queries meet these chunks in blocks of their own. What a chunk adds up to is then folded into each row as if the row had
 * met it alone: the bits are the same. Juravsky et al., "Hydragen: High-Throughput LLM Inference with Shared Prefixes", 2024.
 */
#ifndef CALLBOARD_SHARING_H
#define CALLBOARD_SHARING_H

#include "plan.h"

#define MOST_SHARED_GROUP (BLOCK / 2) /* heads per key head: with more a block is full without other rows */

/* A row that may share. Keys of whole chunks, all of them before its query. */
struct member {
    const int32_t *pages;
    int64_t row, num_chunks, chunk_pages;
};

struct sharing {
    struct plan plan; /* of the shared blocks */
    struct member *members;
    struct query *queries;    /* [members] */
    struct prefix *prefixes;  /* [blocks of the rows] */
};

static int compare_members(const void *first, const void *second) {
    const struct member *a = first, *b = second;
    int64_t num_chunks = least(a->num_chunks, b->num_chunks);
    int order = memcmp(a->pages, b->pages, (size_t)(num_chunks * a->chunk_pages) * sizeof *a->pages);
    return order ? order : (a->num_chunks > b->num_chunks) - (a->num_chunks < b->num_chunks);
}

/* Chunks that two neighbours have in common. */
INLINE int64_t common_chunks(const struct member *a, const struct member *b) {
    int64_t count = 0, most_chunks = least(a->num_chunks, b->num_chunks), chunk_pages = a->chunk_pages;
    size_t chunk_bytes = (size_t)chunk_pages * sizeof *a->pages;
    while (count < most_chunks && !memcmp(a->pages + count * chunk_pages, b->pages + count * chunk_pages, chunk_bytes)) count++;
    return count;
}

static int64_t find_members(const struct attention *a, struct member *members) {
    int64_t count = 0;
    for (int64_t row = 0; row < a->num_rows; row++) {
        int64_t num_chunks = (a->kv_lengths[row] - 1) / CHUNK;
        if (num_queries(a, row) == 1 && num_chunks > 0)
            members[count++] = (struct member){a->page_tables + row * a->table_stride, row, num_chunks, CHUNK / a->page_size};
    }
    qsort(members, (size_t)count, sizeof *members, compare_members);
    return count;
}

/* The rows from members[0] on that share its first chunks, `num_chunks` of them. A row that has more in common with the one
 * behind it waits for that. */
static int64_t family_size(const struct member *members, int64_t count, int64_t *num_chunks) {
    int64_t common = count > 1 ? common_chunks(members, members + 1) : 0, size = 1;
    if (common == 0 || (count > 2 && common_chunks(members + 1, members + 2) > common)) return 1;
    while (size < count && common_chunks(members + size - 1, members + size) >= common) size++;
    *num_chunks = common;
    return size;
}

/* One shared block of `count` members, whose own blocks go on behind the shared keys. */
static void share_block(struct sharing *sharing, struct plan *rows, const int64_t *block_of_row, int64_t first, int64_t count,
                        int64_t num_chunks) {
    const struct attention *a = rows->a;
    int64_t group = group_of(a), index = sharing->plan.num_blocks++;
    const struct range keys = {0, num_chunks * CHUNK};
    sharing->plan.blocks[index] = (struct block){.row = sharing->members[first].row, .count = count * group, .group = group,
                                                 .queries = sharing->queries + first, .keys = keys};
    for (int64_t i = 0; i < count; i++) {
        int64_t row = sharing->members[first + i].row;
        sharing->queries[first + i] = first_query(a, row);
        sharing->prefixes[block_of_row[row]] = (struct prefix){index, i * group};
        rows->blocks[block_of_row[row]].keys.first = keys.last;
    }
}

static void share_families(struct sharing *sharing, struct plan *rows, const int64_t *block_of_row, int64_t num_members) {
    int64_t rows_per_block = BLOCK / group_of(rows->a), num_chunks = 0;
    for (int64_t first = 0, size; first < num_members; first += size) {
        size = family_size(sharing->members + first, num_members - first, &num_chunks);
        for (int64_t i = 0; size > 1 && i < size; i += rows_per_block)
            share_block(sharing, rows, block_of_row, first + i, least(rows_per_block, size - i), num_chunks);
    }
}

static void free_sharing(struct sharing *sharing) {
    free(sharing->plan.parts);
    free(sharing->plan.blocks);
    free(sharing->prefixes);
    free(sharing->queries);
    free(sharing->members);
}

static int64_t *blocks_of_rows(const struct attention *a) {
    int64_t *found = malloc((size_t)a->num_rows * sizeof *found), count = 0;
    for (int64_t row = 0; found && row < a->num_rows; count += blocks_of(a, row++)) found[row] = count;
    return found;
}

/* Fills `sharing` and shortens the blocks of `rows`, if rows share anything and there is memory. */
static void find_sharing(struct sharing *sharing, struct plan *rows) {
    const struct attention *a = rows->a;
    if (a->num_rows < 2 || a->window > 0 || CHUNK % a->page_size || group_of(a) > MOST_SHARED_GROUP) return;
    size_t num_rows = (size_t)a->num_rows;
    sharing->members = malloc(num_rows * sizeof *sharing->members);
    int64_t num_members = sharing->members ? find_members(a, sharing->members) : 0;
    if (num_members < 2) return;
    sharing->queries = malloc(num_rows * sizeof *sharing->queries);
    sharing->plan.blocks = malloc(num_rows * sizeof *sharing->plan.blocks);
    sharing->prefixes = malloc((size_t)rows->num_blocks * sizeof *sharing->prefixes);
    int64_t *block_of_row = blocks_of_rows(a);
    if (sharing->queries && sharing->plan.blocks && sharing->prefixes && block_of_row) {
        for (int64_t i = 0; i < rows->num_blocks; i++) sharing->prefixes[i].block = -1;
        share_families(sharing, rows, block_of_row, num_members);
    }
    free(block_of_row);
}

#endif
