/*
 * Blocking calls on a lane: when nothing can move any more, every record was taken. A lost wake-up would stop a sleeper for ever.
 *
 * -DCONSUMERS=2  two threads share the consuming side, under a lock that is never held while waiting, and poll the same bell
 * -DCRASH        one side may be killed at any step; the supervisor then rings both bells and starts a successor
 * -DNO_DEATH_BELLS  with -DCRASH: it does not ring: must lose a wake-up
 * and those of lane.pml
 */
#include "lane.pml"

proctype Consumer(byte me) {
  byte cursor, flag, head, tail, value;
  bit again, plenty;
  {
    do
    :: lock(me, LOCK);
       look(me);
       if
       :: head != tail -> take(me); unlock(me, LOCK)
       :: else ->
          arm(me);
          unlock(me, LOCK);
          if
          :: again
          :: else ->
             end_empty:
             recv_bell
          fi
       fi
    od
  } unless { doomed[1] };
  running[1] = 0
}

#ifdef CRASH
proctype Supervisor() {
  byte side;
  if
  :: side = 0
  :: side = 1
  :: goto done
  fi;
  if
  :: atomic { running[side] -> doomed[side] = 1 }
  :: else -> goto done
  fi;
  !running[side];
  buffer[side].size == 0; /* what a dead processor had stored becomes visible all the same */
  mem[LOCK] = 0;          /* the lock is the process's own: its successor has another */
  doomed[side] = 0;
  running[side] = 1;
#ifndef NO_DEATH_BELLS
  recv_bell = 1;
  send_bell = 1;
#endif
  if
  :: side == 0 -> run Producer()
  :: else -> run Consumer(CONSUMER)
  fi;
  done:
  skip
}
#endif

proctype Judge() {
  timeout ->
  assert(mem[TAIL] == RECORDS && mem[HEAD] == RECORDS)
}

init {
  byte n;
  atomic {
    do
    :: n < PROCS -> run Drainer(n); n++
    :: else -> break
    od;
    running[0] = 1;
    running[1] = 1;
    run Producer();
    n = 0;
    do
    :: n < CONSUMERS -> run Consumer(CONSUMER + n); n++
    :: else -> break
    od;
#ifdef CRASH
    run Supervisor();
#endif
    run Judge()
  }
}
