/*
 * Threads of one side that share a bell and wait for DIFFERENT things: room for a message and the hand-off of another, or
 * a record and the end of a cancelled call.
 *
 * A bell that is rung once and cleared by the first who wakes (it found nothing for itself, armed again) is lost to a second one
 * whom the system has woken but not yet let look: poll() looks anew, finds it silent and goes on sleeping. So whoever takes a ring
 * away passes it on: each sleeper has a bell of its own beside the shared one, and polls both.
 *
 * When nothing can move any more, nobody sleeps over what it waits for. Memory is sequentially consistent here: ring.pml looks after the
 * fences.
 *
 * -DWAITERS=n  how many threads; each waits for a thing of its own
 * -DSTEAL      rings are not passed on: somebody must sleep for ever
 */
#ifndef WAITERS
#define WAITERS 2
#endif

bit ready[WAITERS];    /* what waiter n waits for has come about */
bit asleep[WAITERS];   /* it polls */
bit own_bell[WAITERS];
bit bell, waits, mutex, taken;

inline disarm() {
  atomic { taken = waits; waits = 0 }
  if
  :: taken -> bell = 1; taken = 0
  :: else
  fi
}

/* Clears the shared bell; a ring that it takes away goes on to all who sleep. */
inline hush() {
  atomic { rang = bell; bell = 0 }
#ifndef STEAL
  do
  :: n < WAITERS ->
     if
     :: rang && asleep[n] -> own_bell[n] = 1
     :: else
     fi;
     n++
  :: else -> break
  od;
  n = 0;
#endif
  rang = 0
}

proctype Waiter(byte me) {
  bit rang;
  byte n;
  do
  :: atomic { !mutex -> mutex = 1 }
     asleep[me] = 0;
     own_bell[me] = 0;
     if
     :: ready[me] -> mutex = 0; break
     :: else
     fi;
     hush();
     waits = 1;
     if
     :: ready[me] -> disarm(); mutex = 0
     :: else ->
        asleep[me] = 1;
        mutex = 0;
        end_waiting:
        bell || own_bell[me]
     fi
  od
}

/* The other process: brings about what the waiters wait for, in any order, or never, and rings if somebody waits. */
proctype Other(byte whose) {
  bit took;
  if
  :: ready[whose] = 1
  :: goto nothing
  fi;
  atomic { took = waits; waits = 0 }
  if
  :: took -> bell = 1
  :: else
  fi;
  nothing:
  skip
}

/* A thread of this side that ends the wait of waiter 0 (a close, a cancellation): it rings in any case. */
proctype Canceller() {
  ready[0] = 1;
  atomic { !mutex -> mutex = 1 }
  waits = 0;
  bell = 1;
  mutex = 0
}

proctype Judge() {
  byte n;
  timeout ->
  do
  :: n < WAITERS -> assert(!ready[n] || !asleep[n]); n++
  :: else -> break
  od
}

init {
  byte n = 1;
  atomic {
    run Waiter(0);
    if
    :: run Canceller()
    :: run Other(0)
    fi;
    do
    :: n < WAITERS -> run Waiter(n); run Other(n); n++
    :: else -> break
    od;
    run Judge()
  }
}
