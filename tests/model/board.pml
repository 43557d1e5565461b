/*
 * The board: several producers (contexts, in threads and processes of their own), one I/O process, one bell.
 *
 *   producer:    write the slot; publish (tail of its own lane); OR its bit into the bitmap (a full FENCE too); does the I/O process
 *                wait? then take its flag and ring its bell
 *   I/O process: exchange the bitmap for 0; drain the lanes that it names (or leave off after a while, and put the bit back);
 *                then clear the bell; set the flag; FENCE; look at the bitmap: something -> take the flag back and go round again,
 *                or ring the own bell and go back to the event loop; nothing -> poll the bell
 *
 * With -DEDGE the bell is told by its edge, as epoll does: a ring is had once, and nobody clears the bell. There the I/O process, between
 * its work and its sleep, may watch for a while: it takes rings from the kernel and looks at the bitmap, its flag not set. It sets it
 * for the sleep only, and takes it back when it wakes.
 *
 * When nothing can move any more, every record of every lane was taken.
 *
 * -DNO_FENCE_PUBLISH  the OR is relaxed and no fence follows: the bit may be seen before the record
 * -DNO_FENCE_ARM      no fence between setting the flag and the last look       (-DNO_FENCE: both) each must lose a record
 * -DCLEAR_LATE        clear the bell after the last look: must lose a record
 * -DNO_LOOK           with -DEDGE: after the flag is set, no look at the bitmap: must lose a record
 * -DCRASH             producer 0, or the I/O process, may be killed at any step. Whoever finds out (the supervisor) marks the lanes
 *                     that the dead process may have left in between, and rings; a successor starts
 * -DNO_SWEEP          with -DCRASH: only the bell is rung: must lose a record (published, but its bit not set; or the bit taken,
 *                     but the lane not drained)
 */
#ifndef PRODUCERS
#define PRODUCERS 2
#endif
#ifndef RECORDS
#define RECORDS 2
#endif
#define DEPTH 4
#define PROCS (PRODUCERS + 1)
#define IO PRODUCERS
#define ALL ((1 << PRODUCERS) - 1)

#define BITS 0
#define IO_WAITS 1
#define TAIL 2
#define SLOT (TAIL + PRODUCERS)
#define WORDS (SLOT + PRODUCERS * RECORDS)

#include "memory.pml"

bit io_bell;
byte head[PRODUCERS]; /* how far the I/O process has read each lane; its successor finds it in shared memory */
bit doomed[PROCS];
bit running[PROCS];

#ifdef NO_FENCE
#define NO_FENCE_PUBLISH
#define NO_FENCE_ARM
#endif
#ifdef NO_FENCE_PUBLISH
#define mark(me, bits) fetch_or_relaxed(me, BITS, bits)
#else
#define mark(me, bits) fetch_or(me, BITS, bits)
#endif
#ifdef NO_FENCE_ARM
#define fence_arm(me) skip
#else
#define fence_arm(me) fence(me)
#endif
#ifdef CLEAR_LATE
#define clear_early skip
#define clear_late io_bell = 0
#else
#define clear_early io_bell = 0
#define clear_late skip
#endif

proctype Producer(byte me) {
  byte cursor, flag, tail;
  load(me, TAIL + me, tail);
  {
    do
    :: tail < RECORDS ->
       store(me, SLOT + me * RECORDS + tail, tail + 1);
       store_release(me, TAIL + me, tail + 1);
       mark(me, 1 << me);
       load(me, IO_WAITS, flag);
       if
       :: flag ->
          exchange(me, IO_WAITS, 0, flag);
          if
          :: flag -> io_bell = 1
          :: else
          fi
       :: else
       fi;
       flag = 0;
       tail++
    :: else -> break
    od
  } unless { doomed[me] };
  running[me] = 0
}

inline drain(lane) {
  load(IO, TAIL + lane, tail);
  do
  :: head[lane] != tail ->
     load(IO, SLOT + lane * RECORDS + head[lane], value);
     assert(value == head[lane] + 1);
     value = 0;
     head[lane]++
  :: head[lane] != tail -> /* enough for one round: others wait */
     fetch_or(IO, BITS, 1 << lane);
     break
  :: head[lane] == tail ->
     break
  od;
  tail = 0
}

proctype Hub() {
  byte cursor, flag, tail, value, bits, lane;
  {
    do
    :: exchange(IO, BITS, 0, bits);
       do
       :: lane < PRODUCERS ->
          if
          :: bits & (1 << lane) -> drain(lane)
          :: else
          fi;
          lane++
       :: else -> break
       od;
       lane = 0;
#ifdef EDGE
       if
       :: io_bell = 0; /* watches: the kernel tells of a ring, or of none, */
          load(IO, BITS, bits); /* and it goes round again if there is something; else it comes here again */
          bits = 0
       :: store(IO, IO_WAITS, 1);
          fence_arm(IO);
#ifndef NO_LOOK
          load(IO, BITS, bits);
#endif
          if
          :: bits -> bits = 0
          :: else ->
             end_asleep:
             io_bell -> io_bell = 0
          fi;
          exchange(IO, IO_WAITS, 0, flag);
          flag = 0
       fi
#else
       clear_early;
       store(IO, IO_WAITS, 1);
       fence_arm(IO);
       load(IO, BITS, bits);
       if
       :: bits ->
          exchange(IO, IO_WAITS, 0, flag);
          bits = 0;
          if
          :: flag = 0 /* goes round again at once */
          :: if
             :: flag -> io_bell = 1; flag = 0
             :: else /* a producer took the flag: it will ring */
             fi;
             end_loop:
             io_bell
          fi
       :: else ->
          clear_late;
          end_idle:
          io_bell
       fi
#endif
    od
  } unless { doomed[IO] };
  running[IO] = 0
}

#ifdef CRASH
proctype Supervisor() {
  byte who;
  if
  :: who = 0
  :: who = IO
  :: goto done
  fi;
  if
  :: atomic { running[who] -> doomed[who] = 1 }
  :: else -> goto done
  fi;
  !running[who];
  buffer[who].size == 0;
  doomed[who] = 0;
  running[who] = 1;
#ifndef NO_SWEEP
  atomic {
    if
    :: who == IO -> mem[BITS] = ALL
    :: else -> mem[BITS] = mem[BITS] | (1 << who)
    fi
  }
#endif
  io_bell = 1;
  if
  :: who == IO -> run Hub()
  :: else -> run Producer(who)
  fi;
  done:
  skip
}
#endif

proctype Judge() {
  byte n;
  timeout ->
  do
  :: n < PRODUCERS -> assert(mem[TAIL + n] == RECORDS && head[n] == RECORDS); n++
  :: else -> break
  od
}

init {
  byte n;
  atomic {
    do
    :: n < PROCS -> running[n] = 1; run Drainer(n); n++
    :: else -> break
    od;
    n = 0;
    do
    :: n < PRODUCERS -> run Producer(n); n++
    :: else -> break
    od;
    run Hub();
#ifdef CRASH
    run Supervisor();
#endif
    run Judge()
  }
}
