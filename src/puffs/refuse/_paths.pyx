# cython: language_level=3, boundscheck=False, wraparound=False
"""Compiled: what becomes of attributes as programs for fusepy and mfusepy tell them.

It is made here where all numbers are whole ones that fit (times may be floats where they are
seconds). Anything else `attributes` has a look at.
"""

from cpython.dict cimport PyDict_CheckExact
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.long cimport PyLong_CheckExact
from cpython.object cimport PyObject
from libc.math cimport floor, isfinite
from libc.stdint cimport int64_t, uint32_t

from puffs.attach.fuse._compiled cimport Wire

from puffs.server.attr import Attr
from puffs.kernel.police import TYPES

cdef extern from "Python.h":
    PyObject *PyDict_GetItemWithError(object dict, object key) except? NULL
    long long PyLong_AsLongLongAndOverflow(object number, int *overflow) except? -1
    object PyByteArray_FromStringAndSize(const char *string, Py_ssize_t length)
    object PyType_GenericAlloc(object type, Py_ssize_t count)

cdef enum:
    NS = 1_000_000_000

cdef int64_t LARGEST = 0x7FFFFFFFFFFFFFFF, LARGEST_32 = 0xFFFFFFFF
cdef double FARTHEST = 9e18  # seconds that fit in 64 bits
cdef uint32_t KNOWN_TYPES = sum(1 << kind for kind in TYPES)


cdef class Unusual(Exception):
    """A number that is not as most are."""


cdef int64_t whole(dict told, str name, int64_t most) except -1:
    """A number from 0 to `most`."""
    cdef int overflow = 0
    found = PyDict_GetItemWithError(told, name)
    if found is NULL:
        return 0
    if not PyLong_CheckExact(<object> found):
        raise Unusual
    number = PyLong_AsLongLongAndOverflow(<object> found, &overflow)
    if overflow or not 0 <= number <= most:
        raise Unusual
    return number


cdef int time(
    dict told, str name, bint use_ns, int64_t *seconds, uint32_t *part
) except -1:
    """A time, in nanoseconds or in seconds."""
    cdef double value, below
    found = PyDict_GetItemWithError(told, name)
    seconds[0], part[0] = 0, 0
    if found is NULL:
        return 0
    if not use_ns and PyFloat_CheckExact(<object> found):
        value = PyFloat_AS_DOUBLE(<object> found)
        below = floor(value)
        if not isfinite(value) or not -FARTHEST < below < FARTHEST:
            raise Unusual
        seconds[0], part[0] = <int64_t> below, <uint32_t> ((value - below) * 1e9)
        return 0
    number = whole(told, name, LARGEST)
    if use_ns:
        seconds[0], part[0] = number // NS, <uint32_t> (number % NS)
    else:
        seconds[0] = number
    return 0


def reading(plain, bint use_ns, bint use_ino):
    """What makes an `Attr` of what is told, or has `plain` make it: see `attributes.attributes`."""

    def attr_of(told):
        cdef Wire wire
        if not PyDict_CheckExact(told):
            return plain(told)
        try:
            wire.size = whole(told, "st_size", LARGEST)
            wire.blocks = whole(told, "st_blocks", LARGEST)
            time(told, "st_atime", use_ns, &wire.atime, &wire.atimensec)
            time(told, "st_mtime", use_ns, &wire.mtime, &wire.mtimensec)
            time(told, "st_ctime", use_ns, &wire.ctime, &wire.ctimensec)
            wire.mode = <uint32_t> whole(told, "st_mode", LARGEST_32)
            wire.nlink = <uint32_t> whole(told, "st_nlink", LARGEST_32)
            wire.uid = <uint32_t> whole(told, "st_uid", LARGEST_32)
            wire.gid = <uint32_t> whole(told, "st_gid", LARGEST_32)
            wire.rdev = <uint32_t> whole(told, "st_rdev", LARGEST_32)
            wire.blksize = <uint32_t> whole(told, "st_blksize", LARGEST_32)
            ino = whole(told, "st_ino", LARGEST) if use_ino else 0
        except Unusual:
            return plain(told)
        wire.flags = 0
        if not KNOWN_TYPES >> (wire.mode >> 12 & 15) & 1:
            return plain(told)
        attr = PyType_GenericAlloc(Attr, 0)
        attr.wire = PyByteArray_FromStringAndSize(<char *> &wire, sizeof(wire))
        attr.ino = ino
        attr.btime_ns = None
        return attr

    return attr_of
