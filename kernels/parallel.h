/* Runs a range of independent items on the OpenMP threads that torch uses.
 *
 * GOMP_parallel is the entry point that compilers emit for `omp parallel`; naming it keeps the choice of runtime out of the
 * compiler's hands, so that libgomp, libomp and libiomp5 serve equally and no second thread pool appears. Threads take
 * `items_per_task` items at a time, in any order: an item's result must not depend on who computes it.
 */
#ifndef CALLBOARD_PARALLEL_H
#define CALLBOARD_PARALLEL_H

#include "vector.h"

typedef void (*items_function)(const void *context, int64_t begin, int64_t end);

struct job {
    items_function run;
    const void *context;
    int64_t num_items, items_per_task, next;
};

#ifdef CALLBOARD_OPENMP
extern void GOMP_parallel(void (*run)(void *), void *data, unsigned num_threads, unsigned flags);
extern int omp_get_max_threads(void);
INLINE int64_t num_threads(void) { return omp_get_max_threads(); }
#else
INLINE int64_t num_threads(void) { return 1; }
INLINE void GOMP_parallel(void (*run)(void *), void *data, unsigned threads, unsigned flags) {
    (void)threads, (void)flags;
    run(data);
}
#endif

static __attribute__((unused)) void take_items(void *data) {
    struct job *job = data;
    for (;;) {
        int64_t begin = __atomic_fetch_add(&job->next, job->items_per_task, __ATOMIC_RELAXED);
        if (begin >= job->num_items) return;
        job->run(job->context, begin, least(begin + job->items_per_task, job->num_items));
    }
}

/* One thread unless there is more than one task: starting the others costs some microseconds. */
static __attribute__((unused)) void parallel(items_function run, const void *context, int64_t num_items, int64_t items_per_task) {
    struct job job = {run, context, num_items, most(items_per_task, 1), 0};
    int64_t num_tasks = (num_items + job.items_per_task - 1) / job.items_per_task;
    int64_t threads = least(num_threads(), num_tasks);
    if (threads > 1)
        GOMP_parallel(take_items, &job, (unsigned)threads, 0);
    else if (num_items > 0)
        run(context, 0, num_items);
}

#endif
