/* The producer's private map of its arena: which ranges are free.
 *
 * Nothing of it lies in shared memory: the live slots name every block in use, so a successor makes the map anew
 * from them (arena_begin, then arena_give for each gap), and so does a producer whose free ranges are too fragmented.
 * Sizes come in classes, four to a doubling; freed blocks are reused last-in first-out, while they are in the cache.
 */
#ifndef SPW_ARENA_H
#define SPW_ARENA_H
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ARENA_GRAIN 512u
#define ARENA_CLASSES 160
#define ARENA_NONE UINT64_MAX

typedef struct { uint64_t *at; uint32_t count, room; } arena_list;

typedef struct {
    uint64_t size, frontier; /* beyond the frontier nothing was ever used */
    arena_list free[ARENA_CLASSES];
} arena;

static inline uint64_t arena_class_size(unsigned class) {
    return ((uint64_t)(4 + (class & 3)) << (class >> 2)) * (ARENA_GRAIN / 4);
}

/* The smallest class that holds `size` bytes. */
static inline unsigned arena_class(uint64_t size) {
    uint64_t quarters = (size + ARENA_GRAIN / 4 - 1) / (ARENA_GRAIN / 4);
    if (quarters <= 4) return 0;
    unsigned shift = 61 - __builtin_clzll(quarters);  /* quarters >> shift is 4…7 */
    unsigned class = (shift << 2) + (unsigned)(quarters >> shift) - 4;
    return arena_class_size(class) < size ? class + 1 : class;
}

static inline int arena_push(arena *a, unsigned class, uint64_t offset) {
    arena_list *list = &a->free[class];
    if (list->count == list->room) {
        uint32_t room = list->room ? list->room * 2 : 16;
        uint64_t *at = realloc(list->at, room * sizeof *at);
        if (!at) return 0; /* the range is lost until the map is made anew */
        list->at = at;
        list->room = room;
    }
    list->at[list->count++] = offset;
    return 1;
}

/* A free range of any length becomes blocks of the largest classes that fit. */
static inline void arena_give(arena *a, uint64_t offset, uint64_t length) {
    while (length >= ARENA_GRAIN) {
        unsigned class = arena_class(length);
        if (arena_class_size(class) > length) class--;
        arena_push(a, class, offset);
        offset += arena_class_size(class);
        length -= arena_class_size(class);
    }
}

/* Whether a block of this class was used before and lies ready. */
static inline int arena_warm(arena *a, unsigned class) { return a->free[class].count != 0; }

static inline uint64_t arena_take(arena *a, unsigned class) {
    uint64_t size = arena_class_size(class);
    if (a->free[class].count) return a->free[class].at[--a->free[class].count];
    if (a->size - a->frontier >= size) {
        uint64_t offset = a->frontier;
        a->frontier += size;
        return offset;
    }
    for (unsigned larger = class + 1; larger < ARENA_CLASSES; larger++) {
        if (!a->free[larger].count) continue;
        uint64_t offset = a->free[larger].at[--a->free[larger].count];
        arena_give(a, offset + size, arena_class_size(larger) - size);
        return offset;
    }
    return ARENA_NONE;
}

static inline void arena_begin(arena *a, uint64_t size) {
    a->size = size;
    a->frontier = 0;
    for (unsigned class = 0; class < ARENA_CLASSES; class++) a->free[class].count = 0;
}

static inline void arena_end(arena *a) {
    for (unsigned class = 0; class < ARENA_CLASSES; class++) free(a->free[class].at);
    memset(a, 0, sizeof *a);
}
#endif
