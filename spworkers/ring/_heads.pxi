# The heads of calls and answers, as docs/call-format.md has them: a mark of two bytes, an id, of a call its patience.

cdef enum:
    MARK = 2
    ID = 8
    PATIENCE = 4
    ANSWER_HEAD = MARK + ID
    CALL_HEAD = ANSWER_HEAD + PATIENCE


cdef inline int _check_mark(bytes mark) except -1:
    if PyBytes_GET_SIZE(mark) != MARK:
        raise BadValueError(f"a mark is {MARK} bytes, not {mark!r}")
    return 0


cdef inline void _put_call_head(uint8_t *at, const uint8_t *mark, uint64_t call_id, uint32_t patience) noexcept:
    memcpy(at, mark, MARK)
    _put_be64(at + MARK, call_id)
    _put_be32(at + ANSWER_HEAD, patience)


def call_bytes(bytes mark not None, uint64_t call_id, uint32_t patience, bytes content not None, /):
    """A call: mark, id and patience in milliseconds, and what is behind them."""
    cdef Py_ssize_t length = PyBytes_GET_SIZE(content)
    _check_mark(mark)
    whole = PyBytes_FromStringAndSize(NULL, CALL_HEAD + length)
    cdef uint8_t *at = <uint8_t *>PyBytes_AS_STRING(whole)
    _put_call_head(at, <const uint8_t *>PyBytes_AS_STRING(mark), call_id, patience)
    memcpy(at + CALL_HEAD, PyBytes_AS_STRING(content), length)
    return whole


def answer_bytes(bytes mark not None, uint64_t call_id, bytes content not None, /):
    """An answer, or a cancellation: mark and id, and what is behind them."""
    cdef Py_ssize_t length = PyBytes_GET_SIZE(content)
    _check_mark(mark)
    whole = PyBytes_FromStringAndSize(NULL, ANSWER_HEAD + length)
    cdef uint8_t *at = <uint8_t *>PyBytes_AS_STRING(whole)
    memcpy(at, PyBytes_AS_STRING(mark), MARK)
    _put_be64(at + MARK, call_id)
    memcpy(at + ANSWER_HEAD, PyBytes_AS_STRING(content), length)
    return whole


def call_head_of(bytes body not None, /):
    """(id, patience in milliseconds) of a call."""
    if PyBytes_GET_SIZE(body) < CALL_HEAD:
        raise BadValueError(f"a call is at least {CALL_HEAD} bytes, not {body!r}")
    cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(body)
    return _be64(at + MARK), _be32(at + ANSWER_HEAD)
