/*
 * One lane of a ring: its words, its bells, its producer, and what a consumer does under its side's lock.
 *
 *   producer: write the slot; publish (tail); FENCE; does the consumer wait? then take its flag (exchange) and ring its bell
 *   consumer: empty? clear the bell; set the flag; FENCE; look again: something -> take the flag back (exchange; if it was still
 *             set, ring the own bell, so that whoever polls it sees it readable), nothing -> poll the bell
 *   the other way about for room: the consumer frees (head); FENCE; does the producer wait? ... and the producer arms likewise.
 *
 * Slots carry the number of their record, so that a record seen before it was written is found as well.
 *
 * -DWINDOW=n -DRECORDS=n  how many records the lane accepts, and how many are sent
 * -DNO_FENCE_x   leave out one fence (PUBLISH, ARM_RECV, FREE, ARM_SEND), or all (NO_FENCE): each must lose a wake-up
 * -DCLEAR_LATE   clear the bell after the last look: must lose a wake-up
 * -DHUSH_ONCE    a consumer whose flag is still set does not clear the bell: a ring that comes late must keep it readable for ever
 * -DPATIENT     a consumer rings for room only when no more than half of the window is left to take, and when it finds nothing
 * -DHALF_BEFORE  with -DPATIENT: it judges that before it frees the place: with a window of one it never rings
 * -DNO_RELEASE   with -DPSO: publish by a plain store: the consumer must see a slot that is not written yet
 */
#ifndef CONSUMERS
#define CONSUMERS 1
#endif
#ifndef RECORDS
#define RECORDS 3
#endif
#ifndef WINDOW
#define WINDOW 2
#endif
#define DEPTH 4
#define PROCS (1 + CONSUMERS)
#define PRODUCER 0
#define CONSUMER 1

#define TAIL 0
#define HEAD 1
#define RECV_WAITS 2
#define SEND_WAITS 3
#define LOCK 4
#define SLOT 5
#define WORDS (SLOT + WINDOW)

#include "memory.pml"

bit recv_bell, send_bell; /* readable or not: more does the count of an eventfd not say to somebody who polls it */
bit doomed[2];            /* the side (0 producer, 1 consumer) is to die */
bit running[2];           /* the side runs and has not come to its end */

#ifdef NO_FENCE
#define NO_FENCE_PUBLISH
#define NO_FENCE_ARM_RECV
#define NO_FENCE_FREE
#define NO_FENCE_ARM_SEND
#endif
#ifdef NO_FENCE_PUBLISH
#define fence_publish(me) skip
#else
#define fence_publish(me) fence(me)
#endif
#ifdef NO_FENCE_ARM_RECV
#define fence_arm_recv(me) skip
#else
#define fence_arm_recv(me) fence(me)
#endif
#ifdef NO_FENCE_FREE
#define fence_free(me) skip
#else
#define fence_free(me) fence(me)
#endif
#ifdef NO_FENCE_ARM_SEND
#define fence_arm_send(me) skip
#else
#define fence_arm_send(me) fence(me)
#endif
#ifdef CLEAR_LATE
#define clear_early(bell) skip
#define clear_late(bell) bell = 0
#else
#define clear_early(bell) bell = 0
#define clear_late(bell) skip
#endif

/* Rings if the other side waits. A plain look comes first: the exchange, a locked operation, is paid only for a sleeper. */
inline wake(me, flag_word, bell) {
  load(me, flag_word, flag);
  if
  :: flag -> disarm(me, flag_word, bell)
  :: else
  fi
}

/* Takes the flag, and rings if it was there to be taken; the side itself does so when it finds something after all. */
inline disarm(me, flag_word, bell) {
  exchange(me, flag_word, 0, flag);
  if
  :: flag -> bell = 1
  :: else
  fi;
  flag = 0
}

proctype Producer() {
  byte cursor, flag, head, tail;
  load(PRODUCER, TAIL, tail);
  {
    do
    :: tail < RECORDS ->
       load(PRODUCER, HEAD, head);
       if
       :: tail - head < WINDOW ->
          store(PRODUCER, SLOT + tail % WINDOW, tail + 1);
          store_release(PRODUCER, TAIL, tail + 1);
          fence_publish(PRODUCER);
          wake(PRODUCER, RECV_WAITS, recv_bell);
          tail++
       :: else ->
          clear_early(send_bell);
          store(PRODUCER, SEND_WAITS, 1);
          fence_arm_send(PRODUCER);
          load(PRODUCER, HEAD, head);
          if
          :: tail - head < WINDOW -> disarm(PRODUCER, SEND_WAITS, send_bell)
          :: else ->
             clear_late(send_bell);
             end_full:
             send_bell
          fi
       fi
    :: else -> break
    od
  } unless { doomed[0] };
  running[0] = 0
}

inline look(me) {
  load(me, HEAD, head);
  load(me, TAIL, tail)
}

/* After a look that found something. */
inline take(me) {
  load(me, SLOT + head % WINDOW, value);
  assert(value == head + 1);
  value = 0;
#ifdef HALF_BEFORE
  plenty = tail - head > WINDOW / 2;
#endif
  head++;
  store_release(me, HEAD, head);
  fence_free(me);
#ifdef PATIENT
#ifndef HALF_BEFORE
  load(me, TAIL, tail);
  plenty = tail - head > WINDOW / 2;
#endif
  if
  :: plenty
  :: else -> wake(me, SEND_WAITS, send_bell)
  fi;
  plenty = 0
#else
  wake(me, SEND_WAITS, send_bell)
#endif
}

/* After a look that found nothing. Sets `again` when there is something after all; poll the bell when there is not. */
inline arm(me) {
#ifdef HUSH_ONCE
  load(me, RECV_WAITS, flag);
  if
  :: flag
  :: else -> clear_early(recv_bell)
  fi;
  flag = 0;
#else
  clear_early(recv_bell);
#endif
  store(me, RECV_WAITS, 1);
  fence_arm_recv(me);
  load(me, TAIL, tail);
  if
  :: head != tail -> disarm(me, RECV_WAITS, recv_bell); again = 1
  :: else -> clear_late(recv_bell); again = 0
  fi
}
