/*
 * A program that polls fileno() and calls recv(timeout=0) when, and as often as, it likes, and may stop at any moment.
 *
 * When nothing moves any more: if the ring holds a record, the bell is readable. If the program then asks once more and finds
 * nothing, the bell is not readable afterwards.
 *
 * -DCONSUMERS=2  a second thread waits in a blocking recv() at the same time
 * -DEXACT        demand that the bell is not readable when the ring is empty, without asking once more: this must FAIL. The
 *                producer takes the flag, the program takes the record, the producer rings. Nothing is lost by it, but a program
 *                may be told once that something is there when nothing is, as with every readiness call.
 * -DLAZY         fileno() arms only an empty ring: must leave the bell silent over a record
 * and those of lane.pml
 */
#include "lane.pml"

/*
 * fileno(): from now on one of three holds: the flag is set, the bell is readable, or the producer is about to ring. It has to arm
 * even when the ring holds something: the producer did not ring for what came while nobody waited.
 */
inline ask_for_fileno(me) {
  lock(me, LOCK);
  look(me);
#ifdef LAZY
  if
  :: head != tail
  :: else -> arm(me)
  fi;
#else
  arm(me);
#endif
  unlock(me, LOCK)
}

bit settle; /* the judge asks for one more recv(timeout=0) */

/* recv(timeout=0) of a socket whose fileno() was asked for: it arms when it leaves the ring empty, too. */
inline receive_now(me) {
  lock(me, LOCK);
  look(me);
  if
  :: head != tail ->
     take(me);
     if
     :: head == tail -> arm(me)
     :: else
     fi
  :: else -> arm(me)
  fi;
  unlock(me, LOCK)
}

proctype Selector(byte me) {
  byte cursor, flag, head, tail, value;
  bit again, plenty;
  ask_for_fileno(me);
  do
  :: receive_now(me)
  :: break
  od;
  end_elsewhere:
  settle ->
  receive_now(me)
}

#if CONSUMERS == 2
proctype Receiver(byte me) {
  byte cursor, flag, head, tail, value;
  bit again, done;
  do
  :: lock(me, LOCK);
     look(me);
     if
     :: head != tail -> take(me); done = 1
     :: else -> arm(me)
     fi;
     unlock(me, LOCK);
     if
     :: done -> break
     :: else ->
        if
        :: again
        :: else ->
           end_empty:
           recv_bell
        fi
     fi
  od
}
#endif

proctype Judge() {
  timeout ->
  assert(mem[TAIL] == mem[HEAD] || recv_bell);
#ifdef EXACT
  assert(mem[TAIL] != mem[HEAD] || !recv_bell);
#endif
  settle = 1;
  timeout ->
  assert((mem[TAIL] != mem[HEAD]) == recv_bell)
}

init {
  byte n;
  atomic {
    do
    :: n < PROCS -> run Drainer(n); n++
    :: else -> break
    od;
    run Producer();
    run Selector(CONSUMER);
#if CONSUMERS == 2
    run Receiver(CONSUMER + 1);
#endif
    run Judge()
  }
}
