/* Some rows of a matrix. See reference.py for the definition. */
#include "../parallel.h"

#define BYTES_PER_TASK 65536

/* As SLOTS in __init__.py lays it out. Stride in bytes. */
struct gather_rows {
    char *out;
    const char *x;
    const int64_t *rows;
    int64_t num_rows, row_bytes, x_stride;
};

static void run(const void *context, int64_t begin, int64_t end) {
    const struct gather_rows *g = context;
    for (int64_t r = begin; r < end; r++) memcpy(g->out + r * g->row_bytes, g->x + g->rows[r] * g->x_stride, (size_t)g->row_bytes);
}

EXPORT int64_t callboard_gather_rows(const struct gather_rows *g) {
    parallel(run, g, g->num_rows, BYTES_PER_TASK / most(g->row_bytes, 1));
    return 0;
}
