/*
 * Records that can be taken back: index ring of (slot, generation), slot states moved by compare-and-swap.
 *
 *   producer: FREE -> WRITING -> PUBLISHED, new generation; index entry; tail. May at any time try PUBLISHED -> FREE (revoke)
 *   consumer: moves head over the index entry (CAS), later tries PUBLISHED -> CLAIMED of that generation: no success means that it was
 *             revoked; CLAIMED -> FREE when it is done with it. It may keep a record unclaimed for as long as it likes (no peer)
 *   room:     fewer than WINDOW records that are neither revoked nor released, AND an index entry to spare. Revoked records keep
 *             their index entry; a producer that needs one moves head over those in front itself, and a consumer that
 *             moves head while the index ring is full wakes a waiting producer.
 *
 * Every record is revoked or claimed or still there, no two of it; claimed in the order of publishing; what is claimed is what was
 * published. When nothing can move any more, no producer sleeps while there is room. Waits are sequentially consistent here: ring.pml
 * looks after the fences.
 *
 * -DNO_GENERATION   compare-and-swap looks at the state alone: a stale entry must claim somebody else's record
 * -DNO_CAS_HEAD     the consumer moves head by a plain store: must pass over an entry, or read one twice
 * -DNO_WAKE_ON_POP  only a claim or a release looks for a waiting producer: it must sleep for ever behind entries of revoked records
 */
#ifndef RECORDS
#define RECORDS 4
#endif
#ifndef WINDOW
#define WINDOW 2
#endif
#ifndef CAPACITY
#define CAPACITY 2
#endif
#define FREE 0
#define WRITING 1
#define PUBLISHED 2
#define CLAIMED 3
#define word(generation, state) ((generation) * 4 + (state))

byte slot_word[WINDOW];
byte payload[WINDOW];
byte entry_slot[CAPACITY];
byte entry_generation[CAPACITY];
byte entry_record[CAPACITY]; /* for the assertions only: which record this entry was made for */
byte tail, head, used;       /* `used`: published and neither revoked nor released */
bit send_waits, send_bell, sleeping;
bit revoked[RECORDS + 1];
bit claimed[RECORDS + 1];
byte unclaimed; /* a record that the consumer keeps for a peer that never comes */

#ifdef NO_GENERATION
#define same(index, generation, state) (slot_word[index] % 4 == state)
#else
#define same(index, generation, state) (slot_word[index] == word(generation, state))
#endif
#define front (head % CAPACITY)
#define front_is_live same(entry_slot[front], entry_generation[front], PUBLISHED)

inline wake_producer() {
  atomic {
    if
    :: send_waits -> send_waits = 0; send_bell = 1
    :: else
    fi
  }
}

inline revoke(record, index, generation) {
  atomic {
    if
    :: same(index, generation, PUBLISHED) ->
       slot_word[index] = word(slot_word[index] / 4, FREE);
       revoked[record] = 1;
       used--
    :: else
    fi
  }
}

/* Is there room? Helps the consumer over revoked entries when the index ring is full. */
inline look_for_room() {
  room = 0;
  do
  :: used >= WINDOW -> break
  :: used < WINDOW ->
     old = head;
     if
     :: tail - old < CAPACITY -> room = 1; break
     :: else ->
        if
        :: front_is_live -> break
        :: else ->
           atomic {
             if
             :: head == old -> head++
             :: else
             fi
           }
        fi
     fi
  od;
  old = 0
}

proctype Producer() {
  byte record = 1, index, generation, last_index, last_generation, old;
  bit room;
  do
  :: record <= RECORDS ->
     look_for_room();
     if
     :: room ->
        used++;
        index = 0;
        do
        :: slot_word[index] % 4 == FREE -> break
        :: else -> index++; assert(index < WINDOW)
        od;
        generation = slot_word[index] / 4 + 1;
        slot_word[index] = word(generation, WRITING);
        payload[index] = record;
        slot_word[index] = word(generation, PUBLISHED);
        entry_slot[tail % CAPACITY] = index;
        entry_generation[tail % CAPACITY] = generation;
        entry_record[tail % CAPACITY] = record;
        tail++;
        if
        :: revoke(record, index, generation)
        :: record > 1 -> revoke(record - 1, last_index, last_generation)
        :: skip
        fi;
        last_index = index;
        last_generation = generation;
        record++
     :: else ->
        send_bell = 0;
        send_waits = 1;
        look_for_room();
        if
        :: room -> send_waits = 0
        :: else ->
           sleeping = 1;
           end_full:
           send_bell ->
           sleeping = 0
        fi
     fi
  :: else -> break
  od
}

proctype Consumer() {
  byte index, generation, record, before, old;
  bit mine, moved, was_full;
  end_empty:
  do
  :: atomic { head != tail -> old = head }
     index = entry_slot[old % CAPACITY];
     generation = entry_generation[old % CAPACITY];
     record = entry_record[old % CAPACITY];
#ifdef NO_CAS_HEAD
     head = old + 1;
     moved = 1;
#else
     atomic {
       moved = head == old;
       head = head + moved
     }
#endif
     /* Looked at after the move: before it the producer might fill the ring, and fall asleep, in between. */
     was_full = tail - old >= CAPACITY;
     old = 0;
#ifndef NO_WAKE_ON_POP
     if
     :: moved && was_full -> wake_producer()
     :: else
     fi;
#endif
     was_full = 0;
     if
     :: moved && !unclaimed -> unclaimed = record /* for want of a peer */
     :: moved ->
        atomic {
          mine = same(index, generation, PUBLISHED);
          if
          :: mine -> slot_word[index] = word(slot_word[index] / 4, CLAIMED)
          :: else
          fi
        }
        if
        :: mine ->
           assert(payload[index] == record && record > before);
           assert(!claimed[record]);
           claimed[record] = 1;
           before = record;
           atomic { slot_word[index] = word(slot_word[index] / 4, FREE); used-- }
           wake_producer();
           mine = 0
        :: else
        fi
     :: !moved
     fi
  od
}

proctype Judge() {
  byte n = 1;
  timeout ->
  assert(head == tail);
  assert(!sleeping || used >= WINDOW);
  do
  :: n <= tail -> assert(revoked[n] + claimed[n] == 1 || (n == unclaimed && !revoked[n] && !claimed[n])); n++
  :: else -> break
  od
}

init {
  atomic {
    run Producer();
    run Consumer();
    run Judge()
  }
}
