/* Objects and memory that a process shares with those that it forks. */
#ifndef SPW_SHARING_H
#define SPW_SHARING_H

#include <Python.h>
#include <stdlib.h>

/* From 3.12 on an interpreter does not count references to an object that is immortal (PEP 683). In 3.14 their mark has
   another form, which was not tried. */
#if PY_VERSION_HEX >= 0x030C0000 && PY_VERSION_HEX < 0x030E0000 && !defined(Py_GIL_DISABLED)

typedef struct {
    Py_ssize_t count;
} spw_immortals;

static int spw_reach(PyObject *op, void *arg);

static void spw_make_immortal(PyObject *op, spw_immortals *made) {
    if (op == NULL || _Py_IsImmortal(op))
        return;
    op->ob_refcnt = _Py_IMMORTAL_REFCNT;
    made->count++;
    if (PyCode_Check(op)) { /* which has no tp_traverse */
        PyCodeObject *code = (PyCodeObject *)op;
        PyObject *parts[] = {
            code->co_consts, code->co_names, code->co_exceptiontable, code->co_localsplusnames, code->co_localspluskinds,
            code->co_filename, code->co_name, code->co_qualname, code->co_linetable,
        };
        for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
            spw_make_immortal(parts[i], made);
    } else if (PyObject_IS_GC(op) && !PyObject_GC_IsTracked(op) && Py_TYPE(op)->tp_traverse != NULL) {
        Py_TYPE(op)->tp_traverse(op, spw_reach, made); /* a tuple of texts, say: the collector does not know it */
    }
}

static int spw_reach(PyObject *op, void *arg) {
    spw_make_immortal(op, (spw_immortals *)arg);
    return 0;
}

static int spw_each(PyObject *op, void *arg) {
    if (_Py_IsImmortal(op)) /* by an earlier call, or by birth */
        return 1;
    spw_make_immortal(op, (spw_immortals *)arg);
    Py_TYPE(op)->tp_traverse(op, spw_reach, arg);
    return 1;
}

/* Everything that the collector knows, and what that refers to. The number of objects. */
static Py_ssize_t spw_make_all_immortal(void) {
    spw_immortals made = {0};
    PyUnstable_GC_VisitObjects(spw_each, &made);
    return made.count;
}

#else

static Py_ssize_t spw_make_all_immortal(void) { return 0; }

#endif

/* Fill what earlier objects have left free in the C library's heap, so that what is allocated later lies together behind
   it, on pages that nobody shares. At most `most` bytes; where the heap is another one, none. */
static size_t spw_fill_heap(size_t most) {
    size_t filled = 0;
#ifdef __GLIBC__
    char *highest = malloc(64 << 10); /* behind everything, unless there is a hole as large */
    if (highest == NULL)
        return 0;
    for (size_t size = 16 << 10; size >= 24 && filled < most; size -= size > 1032 ? size / 8 & ~(size_t)15 : 16) {
        while (filled < most) {
            char *block = malloc(size);
            if (block == NULL)
                break;
            if (block > highest) { /* no hole of this size is left */
                highest = block;
                break;
            }
            filled += size;
        }
    }
#endif
    return filled;
}

#endif
