/*
 * Shared memory as a machine with store buffers shows it, and eventfds: the ground that the other models stand on.
 *
 * Every process owns a FIFO of stores that only it can see (loads look there first); a drainer moves them to `mem` whenever it likes.
 * That is TSO (x86, SPARC). With -DPSO stores to different words may overtake each other, except that a release store never
 * overtakes an earlier one: the store half of a weaker machine (ARM, POWER). Loads are in order in both: that a consumer loads the
 * tail with acquire before it reads the slot is checked by reading ring code, not here.
 *
 * An eventfd is a plain variable: system calls are not counted as fences, which is the pessimistic reading.
 *
 * The including file defines PROCS (how many processes have a buffer), WORDS (words of shared memory), DEPTH (longest buffer).
 */
typedef Buffer {
  byte size;
  byte word[DEPTH];
  byte value[DEPTH];
  bit release[DEPTH]
};

byte mem[WORDS];
Buffer buffer[PROCS];

inline push(me, w, v, r) {
  atomic {
    buffer[me].size < DEPTH ->
    buffer[me].word[buffer[me].size] = w;
    buffer[me].value[buffer[me].size] = v;
    buffer[me].release[buffer[me].size] = r;
    buffer[me].size++
  }
}

inline store(me, w, v) { push(me, w, v, 0) }

#ifdef NO_RELEASE
inline store_release(me, w, v) { push(me, w, v, 0) }
#else
inline store_release(me, w, v) { push(me, w, v, 1) }
#endif

inline load(me, w, into) {
  d_step {
    into = mem[w];
    cursor = 0;
    do
    :: cursor < buffer[me].size ->
       if
       :: buffer[me].word[cursor] == w -> into = buffer[me].value[cursor]
       :: else
       fi;
       cursor++
    :: else -> break
    od;
    cursor = 0
  }
}

/* Waits until the drainer has emptied the buffer of `me`. */
inline fence(me) { buffer[me].size == 0 }

/* Read-modify-writes are sequentially consistent: the buffer is empty before, and the write is in memory at once. */
inline exchange(me, w, v, into) {
  atomic { buffer[me].size == 0 -> into = mem[w]; mem[w] = v }
}

inline compare_exchange(me, w, expected, v, into) {
  atomic {
    buffer[me].size == 0 ->
    if
    :: mem[w] == expected -> mem[w] = v; into = 1
    :: else -> into = 0
    fi
  }
}

inline fetch_or(me, w, bits) {
  atomic { buffer[me].size == 0 -> mem[w] = mem[w] | bits }
}

/* The same as a relaxed operation of a weakly ordered machine: it passes the stores that still wait in the buffer. */
inline fetch_or_relaxed(me, w, bits) {
  atomic { mem[w] = mem[w] | bits }
}

/* A mutex of one side's threads: taken by a read-modify-write, given back by a release store. */
inline lock(me, w) {
  atomic { buffer[me].size == 0 && mem[w] == 0 -> mem[w] = 1 }
}

inline unlock(me, w) { store_release(me, w, 0) }

inline remove(me, index) {
  mem[buffer[me].word[index]] = buffer[me].value[index];
  cursor = index;
  do
  :: cursor + 1 < buffer[me].size ->
     buffer[me].word[cursor] = buffer[me].word[cursor + 1];
     buffer[me].value[cursor] = buffer[me].value[cursor + 1];
     buffer[me].release[cursor] = buffer[me].release[cursor + 1];
     cursor++
  :: else -> break
  od;
  buffer[me].size--;
  buffer[me].word[buffer[me].size] = 0;
  buffer[me].value[buffer[me].size] = 0;
  buffer[me].release[buffer[me].size] = 0;
  cursor = 0
}

#ifdef PSO
/* May the store at `index` go before those in front of it? Not past one to the same word, and a release store past none. */
inline may_overtake(me, index, into) {
  into = 1;
  cursor = 0;
  do
  :: cursor < index ->
     if
     :: buffer[me].word[cursor] == buffer[me].word[index] || buffer[me].release[index] -> into = 0
     :: else
     fi;
     cursor++
  :: else -> break
  od;
  cursor = 0
}
#endif

proctype Drainer(byte me) {
  byte cursor;
#ifdef PSO
  bit allowed;
  byte index;
  end_idle:
  do
  :: atomic {
       buffer[me].size > 0 ->
       index = 0;
       do
       :: index + 1 < buffer[me].size -> index++
       :: break
       od;
       may_overtake(me, index, allowed);
       if
       :: allowed -> remove(me, index)
       :: else
       fi;
       index = 0;
       allowed = 0
     }
  od
#else
  end_idle:
  do
  :: atomic { buffer[me].size > 0 -> remove(me, 0) }
  od
#endif
}
