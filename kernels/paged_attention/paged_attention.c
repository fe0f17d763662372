/* Causal attention of decode and prefill rows over paged keys and values. See reference.py for the definition.
 *
 * The softmax runs online over chunks of keys: Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018;
 * Dao et al., "FlashAttention", 2022. attention.h says why the result of a token does not depend on its surroundings.
 */
#include "float_path.h"
#include "plan.h"
#include "sharing.h"
#ifdef __AVX512BF16__
#include "bfloat_path.h"
#endif

#define SMALL_WORK_KEYS 256 /* about 4 us: less is not worth a second thread */
#define TASKS_PER_THREAD 3 /* more would even out better, but each begins with a wait for memory */

enum path { FLOATS, BFLOATS_WIDENED, BFLOAT_PAIRS };

/* Finds the rows of one chunk, page by page; the last key's row is repeated up to num_keys, to be masked. */
INLINE void find_rows(const struct attention *a, struct piece *piece) {
    const int32_t *table = a->page_tables + piece->block.row * a->table_stride;
    int64_t row_bytes = a->head_dim * (a->bf16 ? 2 : 4), page = piece->start / a->page_size, offset = piece->start % a->page_size;
    int64_t num_seen = piece->last - piece->start, i = 0;
    while (i < num_seen) {
        int64_t first = ((table[page++] * a->num_kv_heads + piece->block.kv_head) * a->page_size + offset) * row_bytes;
        int64_t count = least(num_seen - i, a->page_size - offset);
        for (int64_t j = 0; j < count; j++) piece->rows[i + j] = first + j * row_bytes;
        i += count, offset = 0;
    }
    for (; i < piece->num_keys; i++) piece->rows[i] = piece->rows[num_seen - 1];
}

/* Enters one chunk of an item, a pair of block and key head. */
INLINE void enter(const struct attention *a, struct block block, int64_t item, int64_t chunk, struct piece *piece) {
    struct range keys = block.keys;
    int64_t start = most(chunk * CHUNK, keys.first / LANES * LANES), last = least((chunk + 1) * CHUNK, keys.last);
    piece->block = block, piece->item = item, piece->chunk = chunk;
    piece->start = start, piece->last = last, piece->num_keys = round_up(last - start, LANES);
    find_rows(a, piece);
}

/* Scales, caps, biases and masks one vector's scores from key `start` on; returns the largest. */
INLINE float shape_scores(const struct attention *a, const struct piece *piece, int64_t vector, struct scratch *scratch) {
    const struct block *block = &piece->block;
    const i32x16 lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    float slope = a->alibi_slopes ? a->alibi_slopes[head_of(block, vector)] : 0.0f;
    float scale = (float)a->scale, softcap = (float)a->softcap;
    int32_t nearest = (int32_t)(query_of(block, vector).position - piece->start), window = (int32_t)a->window;
    f32x16 peak = broadcast(-INFINITY);
    for (int64_t key = 0; key < piece->num_keys; key += LANES) {
        i32x16 distance = nearest - (int32_t)key - lanes;
        f32x16 score = load(scratch->scores[vector], key, 0) * scale;
        if (softcap > 0.0f) score = hyperbolic_tangent(score / softcap) * softcap;
        if (slope != 0.0f) score = score - __builtin_convertvector(distance, f32x16) * slope;
        i32x16 seen = distance >= 0;
        if (window > 0) seen &= distance < window;
        score = choose(seen, score, broadcast(-INFINITY));
        store(scratch->scores[vector], key, score, 0);
        peak = larger(peak, score);
    }
    return largest_lane(peak);
}

INLINE void load_queries(const struct attention *a, const struct block *block, struct scratch *scratch, enum path path) {
#ifdef __AVX512BF16__
    if (path == BFLOAT_PAIRS) return bfloat_load_queries(a, block, scratch);
#endif
    float_load_queries(a, block, scratch, path != FLOATS);
}

INLINE void score_keys(const struct attention *a, const struct piece *piece, struct scratch *scratch, enum path path) {
#ifdef __AVX512BF16__
    if (path == BFLOAT_PAIRS) return bfloat_score_keys(a, piece, scratch);
#endif
    float_score_keys(a, piece, scratch, path != FLOATS);
}

INLINE float weigh_keys(int64_t vector, int64_t num_keys, float peak, struct scratch *scratch, enum path path) {
#ifdef __AVX512BF16__
    if (path == BFLOAT_PAIRS) return bfloat_weigh_keys(vector, num_keys, peak, scratch);
#endif
    (void)path;
    return float_weigh_keys(vector, num_keys, peak, scratch);
}

INLINE void sum_values(const struct attention *a, const struct piece *piece, const struct piece *next, struct scratch *scratch,
                       struct partial *part, enum path path) {
#ifdef __AVX512BF16__
    if (path == BFLOAT_PAIRS) return bfloat_sum_values(a, piece, next, scratch, part);
#endif
    (void)next;
    float_sum_values(a, piece, scratch, part, path != FLOATS);
}

INLINE void store_values(const struct attention *a, const float *values, float scale, char *out, enum path path) {
#ifdef __AVX512BF16__
    if (path == BFLOAT_PAIRS) return bfloat_store_values(a, values, scale, out);
#endif
    float_store_values(a, values, scale, out, path != FLOATS);
}

/* One chunk by itself, while the keys of the next one are on their way. A fully masked vector gets peak -infinity, weights 0 and sum 0. */
INLINE void attend_piece(const struct attention *a, const struct piece *piece, const struct piece *next, struct scratch *scratch,
                         struct partial *part, enum path path) {
    score_keys(a, piece, scratch, path);
    for (int64_t v = 0; v < piece->block.count; v++) {
        part->peak[v] = shape_scores(a, piece, v, scratch);
        part->sum[v] = weigh_keys(v, piece->num_keys, part->peak[v], scratch, path);
    }
    sum_values(a, piece, next, scratch, part, path);
}

/* Asks for the first keys of a task, which nobody has asked for before. */
INLINE void prefetch_keys(const struct attention *a, const struct piece *piece) {
    int64_t row_bytes = a->head_dim * (a->bf16 ? 2 : 4);
    for (int64_t key = 0; key < piece->num_keys; key++)
        for (int64_t at = 0; at < row_bytes; at += 64) __builtin_prefetch(a->key_pages + piece->rows[key] + at, 0, 2);
}

INLINE float exponential_of(float x) { return exponential(broadcast(x))[0]; }

/* Adds the next chunk to what came before it. first: the part's vector that belongs to the first of the total's. */
INLINE void fold(struct partial *total, const struct partial *part, int64_t first, int64_t count, int64_t width) {
    for (int64_t v = 0; v < count; v++) {
        float added = part->peak[first + v];
        if (added == -INFINITY) continue;
        float peak = total->peak[v] > added ? total->peak[v] : added;
        float old = total->peak[v] == -INFINITY ? 0.0f : exponential_of(total->peak[v] - peak);
        float new = exponential_of(added - peak);
        const float *values = part->values + first * width;
        total->peak[v] = peak;
        total->sum[v] = total->sum[v] * old + part->sum[first + v] * new;
        for (int64_t i = v * width; i < (v + 1) * width; i += LANES)
            store(total->values, i, load(total->values, i, 0) * old + load(values, i, 0) * new, 0);
    }
}

INLINE void clear(struct partial *total, int64_t count, int64_t width) {
    for (int64_t v = 0; v < count; v++) total->peak[v] = -INFINITY, total->sum[v] = 0.0f;
    memset(total->values, 0, (size_t)(count * width) * sizeof(float));
}

/* Lets the sink join the denominator, divides and writes the block's outputs. */
INLINE void finish(const struct attention *a, const struct block *block, const struct partial *total, enum path path) {
    int64_t head_bytes = a->head_dim * (path == FLOATS ? 4 : 2);
    for (int64_t v = 0; v < block->count; v++) {
        int64_t head = head_of(block, v), token = query_of(block, v).token;
        float sum = total->sum[v], shrink = 1.0f;
        if (a->sinks) {
            float sink = a->sinks[head], peak = sink > total->peak[v] ? sink : total->peak[v];
            shrink = exponential_of(total->peak[v] - peak);
            sum = sum * shrink + exponential_of(sink - peak);
        }
        char *out = a->out + (token * a->num_heads + head) * head_bytes;
        store_values(a, total->values + v * width_of(a), sum > 0.0f ? shrink / sum : 0.0f, out, path);
    }
}

union local_partial {
    struct partial partial;
    char bytes[sizeof(struct partial) + BLOCK * MAX_HEAD_DIM * sizeof(float)];
};

/* A new total: nothing, or what the keys that are shared with other rows add up to. */
INLINE void begin_total(const struct plan *plan, int64_t item, const struct block *block, struct partial *total) {
    int64_t num_kv_heads = plan->a->num_kv_heads, width = width_of(plan->a);
    clear(total, block->count, width);
    struct prefix prefix = plan->shared ? plan->prefixes[item / num_kv_heads] : (struct prefix){-1, 0};
    if (prefix.block < 0) return;
    int64_t shared = prefix.block * num_kv_heads + block->kv_head, last = num_chunks(plan->shared->blocks + prefix.block);
    for (int64_t chunk = 0; chunk < last; chunk++)
        fold(total, part_of(plan->shared, shared, chunk), prefix.vector, block->count, width);
}

/* Moves on to the chunk after `now`, of this item or of the next before `end`. Returns 0 when there is none. */
INLINE int follow(const struct plan *plan, const struct piece *now, int64_t end, struct piece *next) {
    const struct attention *a = plan->a;
    if (now->chunk + 1 < first_chunk(&now->block) + num_chunks(&now->block)) {
        enter(a, now->block, now->item, now->chunk + 1, next);
        return 1;
    }
    if (now->item + 1 == end) return 0;
    struct block block = block_of(plan, now->item + 1);
    enter(a, block, now->item + 1, first_chunk(&block), next);
    return 1;
}

/* Items are (block, kv_head) pairs, each with all of its chunks. */
INLINE void attend_blocks(const struct plan *plan, int64_t begin, int64_t end, enum path path) {
    const struct attention *a = plan->a;
    struct scratch scratch;
    union local_partial total, part;
    struct piece pieces[2], *now = &pieces[0], *next = &pieces[1];
    struct block first = block_of(plan, begin);
    enter(a, first, begin, first_chunk(&first), now);
    prefetch_keys(a, now);
    for (int more = 1, fresh = 1; more;) {
        const struct block *block = &now->block;
        if (fresh) {
            load_queries(a, block, &scratch, path);
            begin_total(plan, now->item, block, &total.partial);
        }
        more = follow(plan, now, end, next);
        attend_piece(a, now, more ? next : NULL, &scratch, &part.partial, path);
        fold(&total.partial, &part.partial, 0, block->count, width_of(a));
        fresh = !more || next->item != now->item;
        if (fresh) finish(a, block, &total.partial, path);
        struct piece *done = now;
        now = next, next = done;
    }
}

/* Items are (block, kv_head, chunk) triples; a block with fewer chunks than most leaves some of them empty. */
INLINE void attend_chunks(const struct plan *plan, int64_t begin, int64_t end, enum path path) {
    const struct attention *a = plan->a;
    struct scratch scratch;
    struct piece piece;
    for (int64_t i = begin; i < end; i++) {
        int64_t item = i / plan->most_chunks, chunk = i % plan->most_chunks;
        struct block block = block_of(plan, item);
        if (chunk >= num_chunks(&block)) continue;
        enter(a, block, item, first_chunk(&block) + chunk, &piece);
        prefetch_keys(a, &piece);
        load_queries(a, &block, &scratch, path);
        attend_piece(a, &piece, NULL, &scratch, part_of(plan, item, chunk), path);
    }
}

INLINE void fold_chunks(const struct plan *plan, enum path path) {
    union local_partial total;
    for (int64_t item = 0; item < plan->num_blocks * plan->a->num_kv_heads; item++) {
        struct block block = block_of(plan, item);
        begin_total(plan, item, &block, &total.partial);
        for (int64_t chunk = 0; chunk < num_chunks(&block); chunk++)
            fold(&total.partial, part_of(plan, item, chunk), 0, block.count, width_of(plan->a));
        finish(plan->a, &block, &total.partial, path);
    }
}

#ifdef __AVX512BF16__
#define BFLOAT_PATH BFLOAT_PAIRS
#else
#define BFLOAT_PATH BFLOATS_WIDENED
#endif

static void run_blocks(const void *context, int64_t begin, int64_t end) {
    const struct plan *plan = context;
    if (plan->a->bf16)
        attend_blocks(plan, begin, end, BFLOAT_PATH);
    else
        attend_blocks(plan, begin, end, FLOATS);
}

static void run_chunks(const void *context, int64_t begin, int64_t end) {
    const struct plan *plan = context;
    if (plan->a->bf16)
        attend_chunks(plan, begin, end, BFLOAT_PATH);
    else
        attend_chunks(plan, begin, end, FLOATS);
}

/* Shares out chunks where there are too few blocks to keep every thread busy. */
static void split_chunks(struct plan *plan, int64_t num_items) {
    if (!allocate_parts(plan)) return run_blocks(plan, 0, num_items);
    parallel(run_chunks, plan, num_items * plan->most_chunks, 1);
    if (plan->a->bf16)
        fold_chunks(plan, BFLOAT_PATH);
    else
        fold_chunks(plan, FLOATS);
    free(plan->parts);
}

/* One thread where there is little to do. A few large tasks where each row is one block: the time goes into waiting for keys, which
 * are asked for while those before them are summed, as long as they belong to one task. Else whole blocks, if there are plenty. */
static int64_t items_per_task(const struct plan *plan, int64_t num_keys) {
    int64_t num_kv_heads = plan->a->num_kv_heads, num_items = plan->num_blocks * num_kv_heads;
    if (num_keys * num_kv_heads < SMALL_WORK_KEYS) return num_items;
    if (plan->num_blocks <= plan->a->num_rows) return most(1, num_items / (TASKS_PER_THREAD * num_threads()));
    return num_items >= 4 * num_threads() * num_kv_heads ? num_kv_heads : 1;
}

static void attend_rows(struct plan *plan) {
    int64_t num_items = plan->num_blocks * plan->a->num_kv_heads, taken = items_per_task(plan, count_keys(plan));
    if (taken < num_items && plan->most_chunks > 1 && num_items < 2 * num_threads())
        split_chunks(plan, num_items);
    else
        parallel(run_blocks, plan, num_items, taken);
}

/* Attends the keys that several rows share. Returns whether there was memory for what they add up to. */
static int attend_shared(struct plan *plan) {
    count_keys(plan);
    if (!allocate_parts(plan)) return 0;
    parallel(run_chunks, plan, plan->num_blocks * plan->a->num_kv_heads * plan->most_chunks, 1);
    return 1;
}

/* Returns 0, or 1 when there is no memory for the plan. */
EXPORT int64_t callboard_paged_attention(const struct attention *a) {
    struct plan plan = {.a = a, .num_blocks = count_blocks(a)};
    struct sharing sharing = {.plan = {.a = a}};
    if (plan.num_blocks == 0) return 0;
    plan.blocks = malloc((size_t)plan.num_blocks * sizeof *plan.blocks);
    if (!plan.blocks) return 1;
    cut_blocks(&plan);
    find_sharing(&sharing, &plan);
    if (sharing.plan.num_blocks > 0) plan.shared = &sharing.plan, plan.prefixes = sharing.prefixes;
    int failed = plan.shared && !attend_shared(&sharing.plan);
    if (!failed) attend_rows(&plan);
    free_sharing(&sharing);
    free(plan.blocks);
    return failed;
}
