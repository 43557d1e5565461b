"""The supervisor: one small process per program that forks, watches and replaces I/O processes and workers.

    the user's process                              the supervisor                      its children
    client.py    get_supervisor, claim              main.py     set-up, poll loop       boot.py   what a role is given
    handle.py    what can be asked for        ◀──▶  service.py  who asks for what  ◀──▶ child.py  from fork to role
    control.py   the thread that listens            nursery.py  starts, deaths, ends
    link.py      one channel of that thread         record.py   what is known of one child
    life.py      one process, exec to burial        peer.py     one channel of its loop
    recovery.py  what follows its death             sharing.py forking.py   what its children share and leave out
    launch.py    the exec                           store.py inproc.py tickets.py   what it holds for them

    both sides: loop.py (poll), watch.py (ends of processes), system.py (what only the operating system does),
    brood.py (whom it takes along), claims.py (both ends of the claim socket), surroundings.py (what goes along with a
    spawn)

Nothing is imported here: a supervisor loads its own side only.
"""
