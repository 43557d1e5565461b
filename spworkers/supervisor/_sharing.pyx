# cython: language_level=3
"""What a process shares with those that it forks, as far as only C can see to it."""

cdef extern from "sharing.h":
    Py_ssize_t spw_make_all_immortal()
    size_t spw_fill_heap(size_t most)


def make_immortal():
    """Have nobody count references to the objects that exist now: those who are forked later do not write to them.

    None of them is ever freed, in this process and in its children. From Python 3.12 on (PEP 683); before, and with
    interpreters whose objects we do not know, it does nothing.

    Returns:
        How many there are that were none of these before.
    """
    return spw_make_all_immortal()


def fill_heap(size_t most):
    """Take what lies free between others in the C library's heap: what is allocated from now on lies behind all of them.

    Args:
        most: bytes, at most.

    Returns:
        How many they are; 0 where that heap is not glibc's.
    """
    return spw_fill_heap(most)
