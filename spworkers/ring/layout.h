/* The shared memory of one socket, word by word.
 *
 *   Region (one memfd)
 *   ├── board            what all contexts of the socket share: ready bits, gauges, counters
 *   ├── segment 0 … 1023 one per context
 *   │     ├── lane 0     user → I/O process
 *   │     └── lane 1     I/O process → user
 *   └── extents          bodies beyond the byte budget, mapped while they are in use
 *
 *   Lane: control words │ index ring of (slot, generation) │ slot table │ arena
 *
 * The file is sparse: a word that nobody touched costs no memory.
 */
#ifndef SPW_LAYOUT_H
#define SPW_LAYOUT_H
#include <stdint.h>
#include <stddef.h>

#define SPW_MAGIC 0x31676e6972775053ull /* "SPwring1" */
#define SPW_CONTEXTS 1024u
#define SPW_COUNTERS 256u
#define SPW_CONGESTED 1024u

#define SPW_SLOTS 65536u      /* twice the widest window: leases hold slots, not window places */
#define SPW_MAX_WINDOW 32768u
#define SPW_SLOT_SIZE 256u
#define SPW_INLINE 192u       /* payloads up to here lie in the slot itself */
#define SPW_CACHE_LINE 64

#define SPW_BOARD_SIZE (64u << 10)
#define SPW_FIRST_SEGMENT (1ull << 20)
#define SPW_CONTROL_SIZE 4096u
#define SPW_INDEX_SIZE ((uint64_t)SPW_SLOTS * 8u)
#define SPW_TABLE_SIZE ((uint64_t)SPW_SLOTS * SPW_SLOT_SIZE)
#define SPW_EXTENT_ROOM (64ull << 30) /* address room in the file for each lane's oversize bodies */

enum spw_state { SPW_FREE = 0, SPW_WRITING = 1, SPW_PUBLISHED = 2, SPW_CLAIMED = 3, SPW_LEASED = 4 };
enum spw_flag { SPW_BY_DEMAND = 1 };
/* What a producer that found no room wants: to be told at once, when half of what there was has been taken, or when
 * as much has been given back as it says in `enough`. */
enum spw_wish { SPW_NOBODY = 0, SPW_HURRIED = 1, SPW_PATIENT = 2, SPW_COUNTING = 3 };

typedef struct {
    /* written by the producer */
    _Alignas(SPW_CACHE_LINE) uint64_t tail; /* index entries ever written */
    uint32_t high_water;                    /* slots ever used: scans end here */
    uint32_t window;
    /* written by the consumer; the producer helps it over stale entries */
    _Alignas(SPW_CACHE_LINE) uint64_t head;
    /* written by the consumer: changes whenever a slot comes back, so a full producer knows when a sweep pays */
    _Alignas(SPW_CACHE_LINE) uint64_t releases;
    uint64_t skipped; /* stale generations passed over */
    uint64_t corrupt; /* records whose words made no sense */
    uint32_t under_way; /* records that a pipe has and the kernel does not take: they are in nobody's queue any more */
    _Alignas(SPW_CACHE_LINE) uint32_t consumer_waits;
    _Alignas(SPW_CACHE_LINE) uint32_t producer_waits; /* enum spw_wish */
    uint64_t enough;                                  /* `releases` from which on one that is COUNTING is told */
    _Alignas(SPW_CACHE_LINE) uint64_t demand; /* epoch of the producer << 32 | receivers that wait */
    _Alignas(SPW_CACHE_LINE) uint32_t closed;
} spw_control;

typedef struct {
    uint64_t state; /* generation << 32 | enum spw_state: the only truth about who owns the slot */
    uint64_t position; /* its place in the index ring: orders records, and tells an orphan from a publication */
    uint32_t kind;
    uint32_t flags;
    uint32_t pipe;
    uint32_t header_length;
    uint64_t serial;
    uint64_t length; /* header ‖ body */
    uint64_t offset; /* 0: in place; else from the region's start */
    uint64_t block;  /* bytes of the block at offset */
    uint8_t payload[SPW_INLINE];
} spw_slot;

_Static_assert(sizeof(spw_slot) == SPW_SLOT_SIZE, "a slot is four cache lines");

typedef struct {
    uint64_t magic;
    uint64_t budget;       /* bytes of bodies a lane may hold in its arena */
    uint64_t arena;        /* bytes of the arena: twice the budget, so that fragmentation seldom matters */
    uint64_t segment_size;
    uint64_t extents;      /* where the extents begin */
    uint64_t file_size;
    _Alignas(SPW_CACHE_LINE) uint32_t io_waits;
    uint32_t rung_from; /* the processor, and 1, from which the bell was rung last; 0: unknown */
    _Alignas(SPW_CACHE_LINE) int32_t ready_pipes; /* take a message at once */
    int32_t pipes;                                /* attached */
    uint32_t generation;                          /* of the I/O process */
    _Alignas(SPW_CACHE_LINE) uint64_t bits[SPW_CONTEXTS / 64];
    _Alignas(SPW_CACHE_LINE) uint64_t congested[SPW_CONGESTED / 64]; /* by pipe id modulo SPW_CONGESTED */
    _Alignas(SPW_CACHE_LINE) uint64_t counters[SPW_COUNTERS];
} spw_board;

_Static_assert(sizeof(spw_board) <= SPW_BOARD_SIZE, "the board fits its room");

static inline uint64_t spw_lane_size(uint64_t arena) {
    return SPW_CONTROL_SIZE + SPW_INDEX_SIZE + SPW_TABLE_SIZE + arena;
}
#endif
