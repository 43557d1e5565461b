/* Takes the place of atomics.h in a second build of the ring: before its nth atomic operation a process gives itself a
 * signal. The operations themselves are atomics.h's own. */
#ifndef SPW_STEPS_H
#define SPW_STEPS_H
#include <signal.h>
#include <unistd.h>

#include "atomics_as_they_are.h"

/* Set by the tests (test_steps.py): steps until the signal, 0 for never; which signal; and how many steps were done. */
long spw_steps_left, spw_steps_signal, spw_steps_done;

static inline void spw_step(void) {
    spw_steps_done++;
    if (spw_steps_left > 0 && --spw_steps_left == 0)
        kill(getpid(), (int)spw_steps_signal);
}

static inline int spw_cas_as_it_is(uint64_t *p, uint64_t expected, uint64_t desired) {
    return spw_cas(p, expected, desired);
}

#undef spw_load
#undef spw_peek
#undef spw_store
#undef spw_put
#undef spw_swap
#undef spw_or
#undef spw_and
#undef spw_add
#undef spw_fence
#undef spw_fence_after_cas

#define spw_load(p) (spw_step(), __atomic_load_n((p), __ATOMIC_ACQUIRE))
#define spw_peek(p) (spw_step(), __atomic_load_n((p), __ATOMIC_RELAXED))
#define spw_store(p, v) (spw_step(), __atomic_store_n((p), (v), __ATOMIC_RELEASE))
#define spw_put(p, v) (spw_step(), __atomic_store_n((p), (v), __ATOMIC_RELAXED))
#define spw_swap(p, v) (spw_step(), __atomic_exchange_n((p), (v), __ATOMIC_SEQ_CST))
#define spw_or(p, v) (spw_step(), __atomic_fetch_or((p), (v), __ATOMIC_SEQ_CST))
#define spw_and(p, v) (spw_step(), __atomic_fetch_and((p), (v), __ATOMIC_SEQ_CST))
#define spw_add(p, v) (spw_step(), __atomic_fetch_add((p), (v), __ATOMIC_RELAXED))
#define spw_cas(p, expected, desired) (spw_step(), spw_cas_as_it_is((p), (expected), (desired)))
/* On one machine's memory, with one side stopped, a fence changes nothing; it is a place to be killed at. */
#define spw_fence() (spw_step(), __atomic_thread_fence(__ATOMIC_SEQ_CST))
#define spw_fence_after_cas() spw_fence()
#endif
