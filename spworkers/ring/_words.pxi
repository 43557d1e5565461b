cdef class Words:
    """Words of 64 bits in memory that others read at any time: whoever has this is their one writer.

    A memoryview of words does the same; but it takes each of them for a number of any size and format first, and what is
    counted with each request is to cost less than that.
    """

    cdef Py_buffer view
    cdef uint64_t *at
    cdef Py_ssize_t count
    cdef bint held

    def __cinit__(self, memory not None):
        PyObject_GetBuffer(memory, &self.view, PyBUF_WRITABLE)
        self.held = True
        if <size_t>self.view.buf % 8:
            raise InternalError("words lie at multiples of 8 bytes")
        self.at, self.count = <uint64_t *>self.view.buf, self.view.len // 8

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.view)

    def __len__(self):
        return self.count

    cdef int check(self, Py_ssize_t index) except -1:
        if not 0 <= index < self.count:
            raise InternalError(f"there is no word {index} of {self.count}")
        return 0

    def add(self, Py_ssize_t index, /):
        """One more."""
        self.check(index)
        spw_put(&self.at[index], self.at[index] + 1)

    def stamp(self, Py_ssize_t index, uint64_t value, Py_ssize_t moment, /):
        """A word, and in another one the moment of that, in nanoseconds of `time.monotonic_ns`."""
        cdef timespec t
        self.check(index)
        self.check(moment)
        clock_gettime(CLOCK_MONOTONIC, &t)
        spw_put(&self.at[index], value)
        spw_put(&self.at[moment], <uint64_t>t.tv_sec * 1000000000 + <uint64_t>t.tv_nsec)
