/* Makes a list of calls in order. See graph.py. */
#include "vector.h"

struct call {
    int64_t (*function)(const void *arguments);
    const void *arguments;
};

/* As REPLAY in graph.py lays it out. */
struct replay {
    const struct call *calls;
    int64_t num_calls;
};

/* Returns 0, or what the first call that failed returned; the calls behind it are not made. */
EXPORT int64_t callboard_replay(const struct replay *replay) {
    for (int64_t i = 0; i < replay->num_calls; i++) {
        int64_t failed = replay->calls[i].function(replay->calls[i].arguments);
        if (failed) return failed;
    }
    return 0;
}
