# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=True
"""The loop of a reader, and handlers for the requests that come most often, compiled.

A handler here takes the place of a plain one in the dispatch table, and may be called like it. It
does what the plain one does where everything is as usual: the reply is of the exact type, the node
is known. Whatever else comes it hands over: to the plain handler before the operation is called, or
to the function of `replies` that comes after it. So each rule stands in one place, in Python. What
is written twice is how a few messages look in memory, which `abi` says and tests compare.

A handler belongs to one channel, and so to one thread.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.errno cimport ECONNABORTED, errno
from libc.stdint cimport int32_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

import os

from puffs.attach.fuse.abi import FUSE_GETATTR_FH, Opcode
from puffs.attach.fuse.channel import Channel
from puffs.attach.fuse.handlers.data import BufferKept
from puffs.kernel.police import TYPES
from puffs.server.attr import TYPE_BYTE, Attr
from puffs.server.types import Entry

cdef extern from "sys/uio.h" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len
    ssize_t writev(int fd, const iovec *vector, int count)

cdef extern from "unistd.h" nogil:
    ssize_t read(int fd, void *buffer, size_t size)
    ssize_t write(int fd, const void *buffer, size_t size)

cdef packed struct InHeader:
    uint32_t len
    uint32_t opcode
    uint64_t unique
    uint64_t nodeid
    uint32_t uid
    uint32_t gid
    uint32_t pid
    uint16_t total_extlen
    uint16_t padding

cdef packed struct OutHeader:
    uint32_t len
    int32_t error
    uint64_t unique

cdef packed struct GetattrIn:
    uint32_t getattr_flags
    uint32_t dummy
    uint64_t fh

cdef packed struct DataIn:  # the members of fuse_read_in and fuse_write_in that are looked at
    uint64_t fh
    uint64_t offset
    uint32_t size

cdef packed struct WriteReply:
    OutHeader header
    uint32_t size
    uint32_t padding

cdef packed struct AttrReply:
    OutHeader header
    uint64_t attr_valid
    uint32_t attr_valid_nsec
    uint32_t dummy
    uint64_t ino
    unsigned char wire[80]

cdef packed struct EntryReply:
    OutHeader header
    uint64_t nodeid
    uint64_t generation
    uint64_t entry_valid
    uint64_t attr_valid
    uint32_t entry_valid_nsec
    uint32_t attr_valid_nsec
    uint64_t ino
    unsigned char wire[80]

cdef packed struct ForgetOne:
    uint64_t nodeid
    uint64_t nlookup

SIZES = {
    "fuse_in_header": sizeof(InHeader),
    "fuse_out_header": sizeof(OutHeader),
    "fuse_getattr_in": sizeof(GetattrIn),
    "fuse_write_out": sizeof(WriteReply) - sizeof(OutHeader),
    "fuse_attr_out": sizeof(AttrReply) - sizeof(OutHeader),
    "fuse_entry_out": sizeof(EntryReply) - sizeof(OutHeader),
    "fuse_forget_one": sizeof(ForgetOne),
}
"""How long the structs are here, by the names that `abi` has for them."""

cdef enum:
    WRITE_IN_SIZE = 40
    BATCH_FORGET_IN_SIZE = 8
    WIRE_SIZE = 80
    SHORT = 65536  # data of which a copy takes less than it takes to let other threads run

cdef uint32_t GETATTR_FH = FUSE_GETATTR_FH
cdef int TYPE_AT = TYPE_BYTE
cdef uint32_t KNOWN_TYPES = sum(1 << kind for kind in TYPES)


cdef class Current:
    """What a channel knows of the request that is under way: its header, unpacked when asked for."""

    cdef InHeader now
    cdef object other  # in place of it: an operation goes on whose request has left the buffer
    cdef object kept_cred
    cdef InHeader kept_for

    @property
    def header(self):
        if self.other is not None:
            return self.other
        now = &self.now
        return (now.len, now.opcode, now.unique, now.nodeid, now.uid, now.gid, now.pid,
                now.total_extlen, now.padding)

    @header.setter
    def header(self, header):
        self.other = header

    cdef inline void take(self, const InHeader *header) noexcept:
        self.now = header[0]
        self.other = None

    cdef object caller(self):
        """The caller: the same object as long as it is the same caller."""
        now, kept = &self.now, &self.kept_for
        if (
            self.kept_cred is None
            or now.pid != kept.pid
            or now.uid != kept.uid
            or now.gid != kept.gid
        ):
            self.kept_cred = self.cred()
            kept[0] = now[0]
        return self.kept_cred


class CompiledChannel(Current, Channel):
    """A channel for the loop below."""


cdef class Handler:
    """Serves one opcode, as a plain handler does."""

    cdef Current channel
    cdef object buffer, plain, nodes, file_of
    cdef unsigned char *request
    cdef int fd

    def __init__(self, serving, plain):
        self.channel = serving.channel
        self.buffer = serving.channel.buffer
        self.plain = plain
        self.nodes = serving.mount.vnodes.by_nodeid
        self.file_of = serving.files.file
        # It stays where it is: while `channel.view` looks at it, it cannot be resized.
        self.request = <unsigned char *> PyByteArray_AS_STRING(self.buffer)
        self.fd = serving.channel.fd

    def __call__(self, unique, nodeid, Py_ssize_t length):
        self.channel.take(<InHeader *> self.request)
        self.serve(length)

    cdef int serve(self, Py_ssize_t length) except -1:
        """Serve the request in the buffer, which `channel` has taken the header of."""
        raise NotImplementedError

    cdef inline void *body(self) noexcept:
        return self.request + sizeof(InHeader)

    cdef int hand_over(self, Py_ssize_t length) except -1:
        self.plain(self.channel.now.unique, self.channel.now.nodeid, length)
        return 0

    cdef int send(self, void *message, size_t size, uint64_t unique) except -1:
        """Write a whole reply, and its header first of all."""
        header = <OutHeader *> message
        header.len, header.error, header.unique = <uint32_t> size, 0, unique
        if write(self.fd, message, size) < 0:
            self.refused(unique)
        return 0

    cdef int refused(self, uint64_t unique) except -1:
        code = errno
        self.channel.refused(OSError(code, os.strerror(code)), unique)
        return 0


cdef inline bint copy_wire(object attr, unsigned char *wire) except -1:
    """Copy the image of attributes. False if they are none that can be sent as they are."""
    if type(attr) is not Attr:
        return False
    image = attr.wire
    if PyByteArray_GET_SIZE(image) != WIRE_SIZE:
        return False
    memcpy(wire, PyByteArray_AS_STRING(image), WIRE_SIZE)
    return KNOWN_TYPES >> (wire[TYPE_AT] >> 4) & 1


cdef class Getattr(Handler):
    cdef object operation, then
    cdef AttrReply reply

    def __init__(self, serving, plain):
        super().__init__(serving, plain)
        self.operation, self.then = serving.mount.ops["getattr"], serving.reply.attr
        self.reply.dummy = 0
        lifetimes = serving.reply.lifetimes
        self.reply.attr_valid, self.reply.attr_valid_nsec = lifetimes.attr, lifetimes.attr_nsec

    cdef int serve(self, Py_ssize_t length) except -1:
        asked, unique = <GetattrIn *> self.body(), self.channel.now.unique
        vnode = self.nodes[self.channel.now.nodeid]
        file = self.file_of[asked.fh] if asked.getattr_flags & GETATTR_FH else None
        attr = self.operation(vnode.cookie, file)
        if not copy_wire(attr, self.reply.wire):
            self.then(attr, unique, vnode)
            return 0
        self.reply.ino = attr.ino or vnode.ino
        return self.send(&self.reply, sizeof(self.reply), unique)


cdef class Lookup(Handler):
    cdef object operation, then, adopt, forget
    cdef EntryReply reply

    def __init__(self, serving, plain):
        super().__init__(serving, plain)
        vnodes = serving.mount.vnodes
        self.operation, self.then = serving.mount.ops["lookup"], serving.reply.found
        self.adopt, self.forget = vnodes.adopt, vnodes.forget
        lifetimes = serving.reply.lifetimes
        self.reply.entry_valid, self.reply.entry_valid_nsec = lifetimes.name, lifetimes.name_nsec
        self.reply.attr_valid, self.reply.attr_valid_nsec = lifetimes.attr, lifetimes.attr_nsec

    cdef int serve(self, Py_ssize_t length) except -1:
        cdef Py_ssize_t size = max(length - <Py_ssize_t> sizeof(InHeader) - 1, 0)
        raw = <char *> self.body()
        if raw[0] == b"." and (size == 1 or (size == 2 and raw[1] == b".")):
            return self.hand_over(length)
        unique = self.channel.now.unique
        name = PyUnicode_DecodeUTF8(raw, size, b"surrogateescape")
        parent = self.nodes[self.channel.now.nodeid]
        above = parent.cookie
        entry = self.operation(above, name, self.channel.caller())
        if (
            type(entry) is not Entry
            or entry.name_ttl is not None
            or entry.attr_ttl is not None
            or not copy_wire(entry.attr, self.reply.wire)
            or not usable(entry.node, above)
        ):
            self.then(entry, unique, parent, name)
            return 0
        self.found(entry.attr, unique, self.adopt(entry.node, parent, name))

    cdef int found(self, object attr, uint64_t unique, object vnode) except -1:
        """Tell the kernel of a vnode that was counted for it; count back if it cannot be."""
        told = False
        reply = &self.reply
        reply.nodeid = vnode.nodeid
        try:
            reply.generation = vnode.generation
            ino = attr.ino or vnode.ino
            reply.ino = vnode.ino = ino
            if not vnode.type:
                vnode.type = attr.type
            reply.header.len, reply.header.error = sizeof(EntryReply), 0
            reply.header.unique = unique
            if write(self.fd, reply, sizeof(EntryReply)) < 0:
                self.refused(unique)
            else:
                told = True
        finally:
            if not told:
                self.forget(reply.nodeid, 1)


cdef bint usable(object cookie, object above) except -1:
    """Whether there is nothing to say against a cookie; `police.node` is to say it."""
    if cookie is None:
        return False
    try:
        hash(cookie)
    except TypeError:
        return False
    return not cookie == above


cdef class Forget(Handler):
    cdef object forget

    def __init__(self, serving, plain):
        super().__init__(serving, plain)
        self.forget = serving.mount.vnodes.forget

    cdef int serve(self, Py_ssize_t length) except -1:
        self.forget(self.channel.now.nodeid, (<uint64_t *> self.body())[0])


cdef class BatchForget(Forget):
    cdef int serve(self, Py_ssize_t length) except -1:
        begin = <char *> self.body() + BATCH_FORGET_IN_SIZE
        one, end = <ForgetOne *> begin, <ForgetOne *> (<char *> self.request + length)
        for _ in range((<uint32_t *> self.body())[0]):
            if one + 1 > end:  # it says that there were more
                break
            self.forget(one.nodeid, one.nlookup)
            one += 1


cdef class Read(Handler):
    cdef object operation, then

    def __init__(self, serving, plain):
        super().__init__(serving, plain)
        self.operation, self.then = serving.mount.ops["read"], serving.reply.data

    cdef int serve(self, Py_ssize_t length) except -1:
        cdef Py_buffer seen
        asked, unique = <DataIn *> self.body(), self.channel.now.unique
        size = asked.size
        cookie = self.nodes[self.channel.now.nodeid].cookie
        data = self.operation(cookie, asked.offset, size, self.file_of[asked.fh])
        if type(data) is bytes and PyBytes_GET_SIZE(data) <= size:
            return self.write_data(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), unique)
        if type(data) is not memoryview or not data.contiguous or data.nbytes > size:
            self.then(data, unique, size, cookie)
            return 0
        PyObject_GetBuffer(data, &seen, PyBUF_SIMPLE)
        try:
            return self.write_data(seen.buf, seen.len, unique)
        finally:
            PyBuffer_Release(&seen)

    cdef int write_data(self, void *data, size_t size, uint64_t unique) except -1:
        cdef OutHeader header
        cdef iovec vector[2]
        cdef ssize_t done
        header.len, header.error, header.unique = <uint32_t> (sizeof(header) + size), 0, unique
        vector[0].iov_base, vector[0].iov_len = &header, sizeof(header)
        vector[1].iov_base, vector[1].iov_len = data, size
        if size <= SHORT:
            done = writev(self.fd, vector, 2)
        else:
            with nogil:
                done = writev(self.fd, vector, 2)
        if done < 0:
            self.refused(unique)
        return 0


cdef class Lent:
    """Data in the request buffer, lent to the file server while its operation runs."""

    cdef object owner
    cdef char *data
    cdef Py_ssize_t size
    cdef int views

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.data, self.size, 0, flags)
        self.views += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.views -= 1


cdef class Write(Handler):
    cdef object operation, then
    cdef Lent lent
    cdef Py_ssize_t room
    cdef WriteReply reply

    def __init__(self, serving, plain):
        super().__init__(serving, plain)
        self.operation, self.then = serving.mount.ops["write"], serving.reply.written
        self.lent = Lent()
        self.lent.owner = self.buffer
        self.lent.data = <char *> self.body() + WRITE_IN_SIZE
        self.room = len(self.buffer) - sizeof(InHeader) - WRITE_IN_SIZE
        self.reply.padding = 0

    cdef int serve(self, Py_ssize_t length) except -1:
        asked, unique = <DataIn *> self.body(), self.channel.now.unique
        size = asked.size
        cookie = self.nodes[self.channel.now.nodeid].cookie
        file = self.file_of[asked.fh]
        self.lent.size = min(<Py_ssize_t> size, self.room)
        data = memoryview(self.lent)
        raised = None
        try:
            done = self.operation(cookie, asked.offset, data, file)
            if type(done) is int and done == size:
                self.reply.size = size
                self.send(&self.reply, sizeof(self.reply), unique)
            else:
                self.then(done, unique, size, cookie)
        except BaseException as exc:
            raised = exc
        # A view that the file server has kept is dead from here on: using it raises. What was made
        # of it lives, and goes on showing this buffer.
        try:
            data.release()
        except BufferError:
            raise BufferKept from raised
        if self.lent.views:
            raise BufferKept from raised
        if raised is not None:
            raise raised


def run(reader, Current channel, list handlers, enough):
    """Serve by `handlers`, which may be changed meanwhile but for their number.

    Returns None when it is `enough`, or what the reader says that it is to come back with
    (`Reader.not_read`, `Reader.raised`).
    """
    cdef int fd = channel.fd
    cdef object buffer = channel.buffer
    cdef void *start = PyByteArray_AS_STRING(buffer)
    cdef size_t room = PyByteArray_GET_SIZE(buffer)
    cdef size_t known = len(handlers)
    cdef ssize_t length
    cdef object handler
    head = &channel.now
    while True:
        PyErr_CheckSignals()  # as the interpreter does between any two steps of a plain loop
        with nogil:
            length = read(fd, start, room)
        if length < <ssize_t> sizeof(InHeader):
            # Who closes the other side of a connection that is no device has ended it.
            code = errno if length < 0 else ECONNABORTED
            outcome = reader.not_read(OSError(code, os.strerror(code)))
            if outcome is not None:
                return outcome
            continue
        channel.take(<InHeader *> start)
        handler = handlers[head.opcode if head.opcode < known else 0]
        try:
            if isinstance(handler, Handler):
                (<Handler> handler).serve(length)
            else:
                handler(head.unique, head.nodeid, length)
        except BaseException as exc:
            outcome = reader.raised(channel.header, exc)
            if outcome is not None:
                return outcome
        if enough is not None and enough.now:
            return None


HANDLERS = {
    Opcode.LOOKUP: Lookup,
    Opcode.FORGET: Forget,
    Opcode.BATCH_FORGET: BatchForget,
    Opcode.GETATTR: Getattr,
    Opcode.READ: Read,
    Opcode.WRITE: Write,
}
"""The kinds of handlers that there are, by opcode. Each is made of what the handlers of a channel
share, and of the plain one."""
