/* The few atomic operations that the ring is made of, and the order each one guarantees. */
#ifndef SPW_ATOMICS_H
#define SPW_ATOMICS_H
#include <stdint.h>

#define spw_load(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define spw_peek(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define spw_store(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define spw_put(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define spw_swap(p, v) __atomic_exchange_n((p), (v), __ATOMIC_SEQ_CST)
#define spw_or(p, v) __atomic_fetch_or((p), (v), __ATOMIC_SEQ_CST)
#define spw_and(p, v) __atomic_fetch_and((p), (v), __ATOMIC_SEQ_CST)
#define spw_add(p, v) __atomic_fetch_add((p), (v), __ATOMIC_RELAXED)
/* Between "publish" and "look whether the other side sleeps", and between "say that I sleep" and "look again":
 * without it both may look too early, and sleep for ever (tests/model shows it). */
#define spw_fence() __atomic_thread_fence(__ATOMIC_SEQ_CST)
/* The same, right after a compare-and-swap: on x86 that was one already. */
#if defined(__x86_64__) || defined(__i386__)
#define spw_fence_after_cas() __atomic_signal_fence(__ATOMIC_SEQ_CST)
#else
#define spw_fence_after_cas() spw_fence()
#endif

static inline int spw_cas(uint64_t *p, uint64_t expected, uint64_t desired) {
    return __atomic_compare_exchange_n(p, &expected, desired, 0, __ATOMIC_SEQ_CST, __ATOMIC_ACQUIRE);
}
#endif
