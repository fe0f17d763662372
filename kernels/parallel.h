/* Shares out independent items among a few threads of our own. See parallel.c for why they are not OpenMP's. */
#ifndef CALLBOARD_PARALLEL_H
#define CALLBOARD_PARALLEL_H

#include "vector.h"

typedef void (*items_function)(const void *context, int64_t begin, int64_t end);

/* How many threads take part: the caller and the helpers. */
int64_t num_threads(void);

/* Runs items 0 to num_items, `items_per_task` at a time, in any order and on any thread: an item's result must not depend on
 * who computes it. Returns when all are done. One task alone runs on the caller. */
void parallel(items_function run, const void *context, int64_t num_items, int64_t items_per_task);

#endif
