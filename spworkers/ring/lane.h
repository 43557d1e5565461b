/* One lane, from its two ends. Both ends trust only what they check: no index, length or offset read from shared
 * memory is used unchecked, and what a producer must know to free a block it keeps to itself.
 *
 *          producer                                    consumer
 *   begin:   FREE → WRITING
 *   publish: WRITING → PUBLISHED, index, tail   ──▶   next:  head over the entry, still PUBLISHED
 *   revoke:  PUBLISHED → FREE (by CAS)          ◀─▶   claim: PUBLISHED → CLAIMED (by CAS)
 *   sweep:   finds what is FREE again           ◀──   release: CLAIMED → FREE
 *
 * Whoever dies at any instant leaves slots in one of these states; *_adopt of a successor reads them off.
 */
#ifndef SPW_LANE_H
#define SPW_LANE_H
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "arena.h"
#include "atomics.h"
#include "layout.h"

typedef struct {
    spw_control *control;
    uint64_t *index;
    spw_slot *slots;
    uint64_t arena_at, arena_size;   /* from the region's start */
    uint64_t extent_at, extent_size; /* likewise */
    char *region;                    /* where the region's start would be mapped */
    int crowded;                     /* the consumer moved head while the index ring was full: a producer may wait for that */
} spw_lane;

static inline uint64_t spw_word(uint32_t generation, uint32_t state) { return (uint64_t)generation << 32 | state; }
static inline uint32_t spw_state_of(uint64_t word) { return (uint32_t)word; }
static inline uint32_t spw_generation_of(uint64_t word) { return (uint32_t)(word >> 32); }

/* ---- the producer's end -------------------------------------------------------------------------------------- */

typedef struct {
    uint64_t offset, block;
    uint32_t class;   /* ARENA_CLASSES for an extent, +1 for none */
    uint32_t counted; /* it takes a place in the window */
} spw_holding;

typedef struct {
    spw_lane lane;
    arena blocks;
    uint32_t *free_slots; uint32_t free_count;
    uint32_t *out; uint32_t out_count;   /* slots handed out, about in the order of their age from `look` on and round */
    uint32_t look;                       /* where the next sweep begins */
    spw_holding *holding;                /* by slot */
    uint32_t room;                       /* of the three arrays */
    uint32_t high;                       /* slots ever used; what stands in shared memory is for others */
    uint64_t tail;                       /* index entries ever written; likewise */
    uint64_t oldest;                     /* no entry before this one is of a record that nobody has taken */
    uint32_t live;                       /* of out, as far as sweeps have seen: those that take a place in the window */
    uint64_t bytes, budget;              /* in the arena */
    uint64_t releases_seen;
} spw_producer;

#define SPW_NO_BLOCK (ARENA_CLASSES + 1)
#define SPW_EXTENT ARENA_CLASSES

static inline int producer_grow(spw_producer *p, uint32_t need) {
    if (need <= p->room) return 1;
    uint32_t room = p->room ? p->room : 64;
    while (room < need) room *= 2;
    void *a = realloc(p->free_slots, room * sizeof *p->free_slots);
    if (a) p->free_slots = a;
    void *b = realloc(p->out, room * sizeof *p->out);
    if (b) p->out = b;
    void *c = realloc(p->holding, room * sizeof *p->holding);
    if (c) p->holding = c;
    if (!a || !b || !c) return 0;
    p->room = room;
    return 1;
}

static inline void producer_end(spw_producer *p) {
    free(p->free_slots); free(p->out); free(p->holding);
    arena_end(&p->blocks);
    memset(p, 0, sizeof *p);
}

static int spw_by_offset(const void *left, const void *right) {
    uint64_t a = ((const spw_holding *)left)->offset, b = ((const spw_holding *)right)->offset;
    return a < b ? -1 : a > b;
}

/* Make the map of free ranges anew, from the blocks that are out. 0: no memory to do it, the map is as it was. */
static inline int producer_compact(spw_producer *p) {
    spw_holding *held = malloc((p->out_count ? p->out_count : 1) * sizeof *held);
    if (!held) return 0;
    uint32_t count = 0;
    for (uint32_t i = 0; i < p->out_count; i++)
        if (p->holding[p->out[i]].class < ARENA_CLASSES) held[count++] = p->holding[p->out[i]];
    qsort(held, count, sizeof *held, spw_by_offset);
    arena_begin(&p->blocks, p->lane.arena_size);
    uint64_t at = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t offset = held[i].offset - p->lane.arena_at;
        if (offset > at) arena_give(&p->blocks, at, offset - at);
        if (offset + held[i].block > at) at = offset + held[i].block;
    }
    p->blocks.frontier = at;
    free(held);
    return 1;
}

/* What a sweep is for: it ends as soon as no more than `live` places of the window and `bytes` of the arena are taken.
 * With a window of thousands that is kept full, a look at every slot for every message would be most of the work. */
typedef struct { uint32_t live; uint64_t bytes; int all; } spw_goal;

/* A slot that is out, seen by a sweep. 1: it came back. */
static inline int producer_back(spw_producer *p, uint32_t slot, void (*extent_freed)(void *, uint64_t, uint64_t), void *with) {
    uint32_t state = spw_state_of(spw_load(&p->lane.slots[slot].state));
    spw_holding *held = &p->holding[slot];
    if (held->counted && (state == SPW_FREE || state == SPW_LEASED)) {
        held->counted = 0;
        p->live--;
    }
    if (state != SPW_FREE) return 0;
    if (held->class < ARENA_CLASSES) {
        arena_push(&p->blocks, held->class, held->offset - p->lane.arena_at);
        p->bytes -= held->block;
    } else if (held->class == SPW_EXTENT) {
        extent_freed(with, held->offset, held->block);
    }
    p->free_slots[p->free_count++] = slot;
    return 1;
}

/* Take back what the consumer has freed, and find what it has leased, until the goal is met or all slots were looked at.
 * Extents that came back are reported to the caller through `extent_freed` (their memory goes back to the kernel). */
static inline void producer_sweep(spw_producer *p, spw_goal goal, void (*extent_freed)(void *, uint64_t, uint64_t), void *with) {
    uint64_t releases = spw_load(&p->lane.control->releases);
    uint32_t begin = p->look < p->out_count ? p->look : 0;
    for (int part = 0; part < 2; part++) { /* from `look` to the end, then what is before */
        uint32_t i = part ? 0 : begin, end = part ? begin : p->out_count;
        while (i < end) {
            if (!goal.all && p->live <= goal.live && p->bytes <= goal.bytes) {
                p->look = i;
                return;
            }
            if (!producer_back(p, p->out[i], extent_freed, with)) {
                i++;
                continue;
            }
            p->out[i] = p->out[--end];
            p->out[end] = p->out[--p->out_count]; /* in the second part the last one was looked at already */
        }
    }
    p->releases_seen = releases;
}

/* What may have come back since all slots were looked at; 0: nothing. */
static inline uint64_t producer_stale(spw_producer *p) { return spw_load(&p->lane.control->releases) - p->releases_seen; }

/* Is a sweep for free slots worth its while? As long as there are slots that were never used, it should find a good part. */
static inline int producer_slots_stale(spw_producer *p) {
    return producer_stale(p) > (p->high < SPW_SLOTS ? p->out_count / 8 : 0);
}

static inline int producer_slot(spw_producer *p, uint32_t *slot) {
    if (p->free_count) { *slot = p->free_slots[--p->free_count]; return 1; }
    if (p->high >= SPW_SLOTS || !producer_grow(p, p->high + 1)) return 0;
    *slot = p->high++;
    spw_put(&p->lane.control->high_water, p->high);
    return 1;
}

/* Where an extent of `size` bytes fits between those that are out; ARENA_NONE when nowhere. */
static inline uint64_t producer_extent(spw_producer *p, uint64_t size) {
    uint64_t at = p->lane.extent_at, end = p->lane.extent_at + p->lane.extent_size;
    for (int moved = 1; moved;) {
        moved = 0;
        for (uint32_t i = 0; i < p->out_count; i++) {
            spw_holding *held = &p->holding[p->out[i]];
            if (held->class == SPW_EXTENT && held->offset < at + size && at < held->offset + held->block) {
                at = held->offset + held->block;
                moved = 1;
            }
        }
    }
    return at + size <= end && at + size > at ? at : ARENA_NONE;
}

/* The index ring is full of entries that were taken back: help the consumer over them. */
static inline int producer_index_room(spw_producer *p) {
    spw_control *c = p->lane.control;
    for (;;) {
        uint64_t head = spw_load(&c->head), tail = p->tail;
        if (tail - head < SPW_SLOTS) return 1;
        if (tail - head > SPW_SLOTS) { /* no head of ours */
            spw_cas(&c->head, head, tail - SPW_SLOTS);
            continue;
        }
        uint64_t entry = spw_peek(&p->lane.index[head % SPW_SLOTS]);
        uint32_t slot = (uint32_t)entry;
        if (slot < SPW_SLOTS && spw_load(&p->lane.slots[slot].state) == spw_word((uint32_t)(entry >> 32), SPW_PUBLISHED)) return 0;
        spw_cas(&c->head, head, head + 1);
    }
}

/* Make the written slot visible; returns its ticket (never 0). */
static inline uint64_t producer_publish(spw_producer *p, uint32_t slot) {
    spw_control *c = p->lane.control;
    spw_slot *s = &p->lane.slots[slot];
    uint32_t generation = spw_generation_of(s->state);
    uint64_t tail = p->tail++;
    s->position = tail;
    spw_put(&p->lane.index[tail % SPW_SLOTS], (uint64_t)generation << 32 | slot);
    spw_store(&s->state, spw_word(generation, SPW_PUBLISHED));
    spw_store(&c->tail, tail + 1);
    return (uint64_t)generation << 32 | slot | 1ull << 31;
}

#define SPW_TICKET_SLOT(t) ((uint32_t)(t) & 0x7fffffffu)
#define SPW_TICKET_GENERATION(t) ((uint32_t)((t) >> 32))

static inline int producer_revoke(spw_producer *p, uint64_t ticket) {
    uint32_t slot = SPW_TICKET_SLOT(ticket), generation = SPW_TICKET_GENERATION(ticket);
    if (slot >= SPW_SLOTS) return 0;
    if (!spw_cas(&p->lane.slots[slot].state, spw_word(generation, SPW_PUBLISHED), spw_word(generation, SPW_FREE))) return 0;
    p->releases_seen--;
    return 1;
}

static inline uint32_t producer_state(spw_producer *p, uint64_t ticket) {
    uint32_t slot = SPW_TICKET_SLOT(ticket);
    if (slot >= SPW_SLOTS) return SPW_FREE;
    uint64_t word = spw_load(&p->lane.slots[slot].state);
    return spw_generation_of(word) == SPW_TICKET_GENERATION(ticket) ? spw_state_of(word) : SPW_FREE;
}

/* Where the first index entry is whose record nobody has popped, as far as that is known. */
static inline uint64_t producer_untaken(spw_producer *p) {
    uint64_t head = spw_load(&p->lane.control->head);
    if (p->tail - p->oldest > SPW_SLOTS) p->oldest = p->tail - SPW_SLOTS;
    if (head - p->oldest <= p->tail - p->oldest) p->oldest = head; /* else it is no head of ours */
    return p->oldest;
}

/* Whether nobody has taken the record of the index entry `at` yet. If so its ticket is in `ticket`. */
static inline int producer_waits(spw_producer *p, uint64_t at, uint64_t *ticket) {
    uint64_t entry = spw_peek(&p->lane.index[at % SPW_SLOTS]);
    uint32_t slot = (uint32_t)entry;
    if (slot >= p->high || spw_load(&p->lane.slots[slot].state) != spw_word((uint32_t)(entry >> 32), SPW_PUBLISHED)) return 0;
    *ticket = entry | 1ull << 31;
    return 1;
}

/* Take one waiting receiver, if there is one. */
static inline int producer_take_demand(spw_producer *p) {
    uint64_t *word = &p->lane.control->demand;
    for (;;) {
        uint64_t demand = spw_load(word);
        if (!(uint32_t)demand) return 0;
        if (spw_cas(word, demand, demand - 1)) return 1;
    }
}

/* What a live slot holds, as far as its words make sense: an offset or length that does not is nobody's memory. */
static inline spw_holding producer_holding(spw_lane *l, spw_slot *s) {
    spw_holding held = {spw_peek(&s->offset), spw_peek(&s->block), SPW_NO_BLOCK, 1};
    if (held.offset >= l->extent_at && held.offset - l->extent_at < l->extent_size) {
        if (held.block && !(held.offset % 4096) && !(held.block % 4096) && held.block <= l->extent_size - (held.offset - l->extent_at))
            held.class = SPW_EXTENT;
    } else if (held.offset >= l->arena_at && held.offset - l->arena_at < l->arena_size
               && held.block >= ARENA_GRAIN && held.block <= l->arena_size - (held.offset - l->arena_at)
               && arena_class_size(arena_class(held.block)) == held.block) {
        held.class = arena_class(held.block);
    }
    return held;
}

/* Become the producer of a lane that another process may have produced into before. */
static inline int producer_adopt(spw_producer *p) {
    spw_control *c = p->lane.control;
    uint32_t high = spw_load(&c->high_water);
    if (high > SPW_SLOTS) high = SPW_SLOTS;
    if (!producer_grow(p, high + 1)) return 0;
    uint64_t tail = spw_load(&c->tail);
    p->high = high;
    p->tail = tail;
    p->oldest = spw_load(&c->head);
    p->free_count = p->out_count = p->look = 0;
    p->bytes = 0;
    for (uint32_t slot = 0; slot < high; slot++) {
        spw_slot *s = &p->lane.slots[slot];
        uint64_t word = spw_load(&s->state);
        uint32_t state = spw_state_of(word);
        int orphan = state == SPW_WRITING || (state == SPW_PUBLISHED && s->position >= tail);
        if (state == SPW_FREE || orphan) {
            if (orphan) spw_store(&s->state, spw_word(spw_generation_of(word), SPW_FREE));
            p->free_slots[p->free_count++] = slot;
            continue;
        }
        p->holding[slot] = producer_holding(&p->lane, s);
        spw_put(&s->flags, spw_peek(&s->flags) & ~(uint32_t)SPW_BY_DEMAND); /* that demand was of the epoch that ends below */
        if (p->holding[slot].class < ARENA_CLASSES) p->bytes += p->holding[slot].block;
        p->out[p->out_count++] = slot;
    }
    p->live = p->out_count;
    p->releases_seen = spw_load(&c->releases) - 1;
    if (!producer_compact(p)) return 0;
    for (;;) { /* receivers who announced themselves to the predecessor announce themselves anew */
        uint64_t demand = spw_load(&c->demand);
        if (spw_cas(&c->demand, demand, ((demand >> 32) + 1) << 32)) return 1;
    }
}

/* ---- the consumer's end -------------------------------------------------------------------------------------- */

typedef struct {
    uint32_t slot, generation, kind, flags, pipe, header_length;
    uint64_t serial, length, offset;
} spw_taken;

enum spw_next { SPW_EMPTY = 0, SPW_GOT = 1, SPW_CORRUPT = 2 };

/* Copy a record's words, each once, and judge the copies. */
static inline int consumer_read(spw_lane *l, uint32_t slot, uint32_t generation, spw_taken *t) {
    spw_slot *s = &l->slots[slot];
    t->slot = slot;
    t->generation = generation;
    t->kind = spw_peek(&s->kind);
    t->flags = spw_peek(&s->flags);
    t->pipe = spw_peek(&s->pipe);
    t->header_length = spw_peek(&s->header_length);
    t->serial = spw_peek(&s->serial);
    t->length = spw_peek(&s->length);
    t->offset = spw_peek(&s->offset);
    if (t->header_length > t->length) return 0;
    if (!t->offset) return t->length <= SPW_INLINE;
    if (t->offset >= l->arena_at && t->offset - l->arena_at < l->arena_size) return t->length <= l->arena_size - (t->offset - l->arena_at);
    if (t->offset >= l->extent_at && t->offset - l->extent_at < l->extent_size)
        return t->offset % 4096 == 0 && t->length && t->length <= l->extent_size - (t->offset - l->extent_at);
    return 0;
}

static inline void consumer_free(spw_lane *l, uint32_t slot, uint32_t generation) {
    spw_store(&l->slots[slot].state, spw_word(generation, SPW_FREE));
    spw_store(&l->control->releases, spw_peek(&l->control->releases) + 1);
}

/* Where the next index entry is. 0: there is none. */
static inline int consumer_front(spw_lane *l, uint64_t *front) {
    spw_control *c = l->control;
    for (;;) {
        uint64_t head = spw_load(&c->head), tail = spw_load(&c->tail);
        *front = head;
        if (head == tail) return 0;
        if (tail - head <= SPW_SLOTS) return 1;
        if (spw_load(&c->head) != head) continue; /* the producer has just moved it, and written on */
        /* More entries than there are places: one of the two is garbage. Every place is looked at once. */
        if (spw_cas(&c->head, head, tail - SPW_SLOTS)) spw_put(&c->corrupt, c->corrupt + 1);
    }
}

/* Step over the entry at `front`. 0: the producer did it first.
 * If the index ring was full, a producer may sleep until there is a place in it, and nobody else will tell it. */
static inline int consumer_step(spw_lane *l, uint64_t front) {
    if (!spw_cas(&l->control->head, front, front + 1)) return 0;
    spw_fence_after_cas();
    if (spw_load(&l->control->tail) - front >= SPW_SLOTS) l->crowded = 1;
    return 1;
}

/* The next record in order that was not taken back; it is not claimed yet. */
static inline enum spw_next consumer_next(spw_lane *l, spw_taken *t) {
    spw_control *c = l->control;
    for (;;) {
        uint64_t front;
        if (!consumer_front(l, &front)) return SPW_EMPTY;
        uint64_t entry = spw_peek(&l->index[front % SPW_SLOTS]);
        uint32_t slot = (uint32_t)entry, generation = (uint32_t)(entry >> 32);
        if (!consumer_step(l, front)) continue;
        if (slot >= SPW_SLOTS) { spw_put(&c->corrupt, c->corrupt + 1); return SPW_CORRUPT; }
        if (spw_load(&l->slots[slot].state) != spw_word(generation, SPW_PUBLISHED)) {
            spw_put(&c->skipped, c->skipped + 1);
            continue;
        }
        if (consumer_read(l, slot, generation, t)) return SPW_GOT;
        if (spw_cas(&l->slots[slot].state, spw_word(generation, SPW_PUBLISHED), spw_word(generation, SPW_CLAIMED))) {
            spw_put(&c->corrupt, c->corrupt + 1);
            consumer_free(l, slot, generation);
            return SPW_CORRUPT;
        }
    }
}

/* `inherited`: a predecessor may have claimed it already. */
static inline int consumer_claim(spw_lane *l, uint32_t slot, uint32_t generation, int inherited) {
    uint64_t *state = &l->slots[slot].state;
    return spw_cas(state, spw_word(generation, SPW_PUBLISHED), spw_word(generation, SPW_CLAIMED))
        || (inherited && spw_load(state) == spw_word(generation, SPW_CLAIMED));
}

/* The next record, claimed, if it is an ordinary message that lies in its slot, and answers the question of that serial
 * (0: answers nothing). 0: it is not, or there is none; ask consumer_next. */
static inline int consumer_next_plain(spw_lane *l, uint64_t serial, spw_taken *t) {
    uint64_t front;
    if (!consumer_front(l, &front)) return 0;
    uint64_t entry = spw_peek(&l->index[front % SPW_SLOTS]);
    uint32_t slot = (uint32_t)entry, generation = (uint32_t)(entry >> 32);
    if (slot >= SPW_SLOTS || spw_load(&l->slots[slot].state) != spw_word(generation, SPW_PUBLISHED)) return 0;
    if (!consumer_read(l, slot, generation, t) || t->offset || t->kind || t->flags || t->serial != serial) return 0;
    return consumer_step(l, front) && consumer_claim(l, slot, generation, 0);
}

/* Whether a record that was inherited is still to be had: its sender may have taken it back since. */
static inline int consumer_alive(spw_lane *l, uint32_t slot, uint32_t generation) {
    uint64_t word = spw_load(&l->slots[slot].state);
    return word == spw_word(generation, SPW_PUBLISHED) || word == spw_word(generation, SPW_CLAIMED);
}

static inline int consumer_ready(spw_lane *l) {
    spw_control *c = l->control;
    for (;;) {
        uint64_t front;
        if (!consumer_front(l, &front)) return 0;
        uint64_t entry = spw_peek(&l->index[front % SPW_SLOTS]);
        uint32_t slot = (uint32_t)entry;
        if (slot < SPW_SLOTS && spw_load(&l->slots[slot].state) == spw_word((uint32_t)(entry >> 32), SPW_PUBLISHED)) return 1;
        if (!consumer_step(l, front)) continue;
        if (slot < SPW_SLOTS) spw_put(&c->skipped, c->skipped + 1);
        else spw_put(&c->corrupt, c->corrupt + 1);
    }
}

typedef struct { uint64_t position; uint32_t slot, generation; } spw_unfinished;

static int spw_by_position(const void *left, const void *right) {
    uint64_t a = ((const spw_unfinished *)left)->position, b = ((const spw_unfinished *)right)->position;
    return a < b ? -1 : a > b;
}

/* Become the consumer of a lane that another process may have consumed from before: what it took and did not
 * finish, oldest first. Its leases end. Returns the number found, written to a malloc'ed array; -1: no memory. */
static inline int64_t consumer_adopt(spw_lane *l, spw_unfinished **found) {
    uint64_t head = spw_load(&l->control->head);
    uint32_t high = spw_load(&l->control->high_water);
    int64_t count = 0;
    if (high > SPW_SLOTS) high = SPW_SLOTS;
    *found = malloc((high + 1) * sizeof **found);
    if (!*found) return -1;
    for (uint32_t slot = 0; slot < high; slot++) {
        uint64_t word = spw_load(&l->slots[slot].state);
        uint32_t state = spw_state_of(word), generation = spw_generation_of(word);
        uint64_t position = spw_peek(&l->slots[slot].position);
        if (state == SPW_LEASED) consumer_free(l, slot, generation);
        else if (state == SPW_CLAIMED || (state == SPW_PUBLISHED && position < head))
            (*found)[count++] = (spw_unfinished){position, slot, generation};
    }
    qsort(*found, (size_t)count, sizeof **found, spw_by_position);
    spw_store(&l->control->releases, spw_peek(&l->control->releases) + 1); /* the predecessor may have died between free and count */
    return count;
}
#endif
