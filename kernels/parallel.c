/* The helper threads behind `parallel`.
 *
 * The caller does the work and helpers join in: whoever comes takes the next task, and the caller waits only for helpers that are
 * in the middle of one. OpenMP waits for every thread of its team, even one that the scheduler has put aside before it did
 * anything; with a server's event loop and its clients on the same cores such waits last milliseconds, thousands of times the
 * work. Helpers watch for the next job for some microseconds, the time between two kernels of a step, then sleep.
 */
#include "parallel.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#define MOST_THREADS 256
#define WATCHES 2000 /* of some 15 ns: longer than the pause between two kernels, shorter than one that others could use */
#define WAITS 200

static struct {
    pthread_mutex_t caller; /* one job at a time; another caller works alone meanwhile */
    items_function run;
    const void *context;
    int64_t num_items, items_per_task;
    atomic_llong next;   /* first item that nobody has taken */
    atomic_uint posted;  /* number of the newest job */
    atomic_uint open;    /* number of the job that may be joined, 0: none */
    atomic_int active;   /* helpers that are in a job or about to look for one */
    atomic_int sleeping; /* helpers that need waking */
    pthread_mutex_t sleep;
    pthread_cond_t wake;
    int64_t num_helpers; /* started */
    atomic_llong num_threads;
} pool = {.caller = PTHREAD_MUTEX_INITIALIZER, .sleep = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER, .num_threads = 1};

INLINE void breathe(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void take_tasks(void) {
    for (;;) {
        int64_t begin = atomic_fetch_add(&pool.next, pool.items_per_task);
        if (begin >= pool.num_items) return;
        pool.run(pool.context, begin, least(begin + pool.items_per_task, pool.num_items));
    }
}

/* Waits for a job newer than `seen`; returns its number. */
static unsigned wait_for_job(unsigned seen) {
    for (int i = 0; i < WATCHES; i++) {
        unsigned posted = atomic_load(&pool.posted);
        if (posted != seen) return posted;
        breathe();
    }
    pthread_mutex_lock(&pool.sleep);
    atomic_fetch_add(&pool.sleeping, 1);
    while (atomic_load(&pool.posted) == seen) pthread_cond_wait(&pool.wake, &pool.sleep);
    atomic_fetch_sub(&pool.sleeping, 1);
    pthread_mutex_unlock(&pool.sleep);
    return atomic_load(&pool.posted);
}

/* A helper announces itself before it looks whether the job is open; the caller closes the job before it looks for helpers. One
 * of them sees the other, so that no helper reads a job whose caller has gone. */
static void *help(void *index) {
    unsigned seen = 0;
    for (;;) {
        seen = wait_for_job(seen);
        atomic_fetch_add(&pool.active, 1);
        if (atomic_load(&pool.open) == seen && (int64_t)(intptr_t)index < num_threads() - 1) take_tasks();
        atomic_fetch_sub(&pool.active, 1);
    }
    return NULL;
}

/* A forked child has none of the helpers and must not wait for them: its pool starts anew. */
static void forget_helpers(void) {
    pthread_mutex_init(&pool.caller, NULL);
    pthread_mutex_init(&pool.sleep, NULL);
    pthread_cond_init(&pool.wake, NULL);
    atomic_store(&pool.active, 0);
    atomic_store(&pool.sleeping, 0);
    pool.num_helpers = 0;
}

static void start_helpers(int64_t count) {
    static int watched = 0; /* under pool.caller */
    pthread_t thread;
    if (!watched) watched = pthread_atfork(NULL, NULL, forget_helpers) == 0;
    while (pool.num_helpers < count && pthread_create(&thread, NULL, help, (void *)(intptr_t)pool.num_helpers) == 0) {
        pthread_detach(thread);
        pool.num_helpers++;
    }
}

static void post_job(void) {
    unsigned number = atomic_load(&pool.posted) + 1;
    if (number == 0) number = 1;
    atomic_store(&pool.next, 0);
    atomic_store(&pool.open, number);
    atomic_store(&pool.posted, number);
    if (atomic_load(&pool.sleeping) == 0) return;
    pthread_mutex_lock(&pool.sleep);
    pthread_cond_broadcast(&pool.wake);
    pthread_mutex_unlock(&pool.sleep);
}

static void close_job(void) {
    atomic_store(&pool.open, 0);
    for (int i = 0; atomic_load(&pool.active) > 0; i++)
        if (i < WAITS)
            breathe();
        else
            sched_yield();
}

int64_t num_threads(void) { return atomic_load_explicit(&pool.num_threads, memory_order_relaxed); }

void parallel(items_function run, const void *context, int64_t num_items, int64_t items_per_task) {
    items_per_task = most(items_per_task, 1);
    if (num_items <= 0) return;
    if (num_items <= items_per_task || num_threads() < 2 || pthread_mutex_trylock(&pool.caller) != 0)
        return run(context, 0, num_items);
    start_helpers(num_threads() - 1);
    pool.run = run, pool.context = context, pool.num_items = num_items, pool.items_per_task = items_per_task;
    post_job();
    take_tasks();
    close_job();
    pthread_mutex_unlock(&pool.caller);
}

EXPORT int64_t callboard_set_num_threads(const int64_t *count) {
    atomic_store(&pool.num_threads, most(1, least(*count, MOST_THREADS)));
    return 0;
}
