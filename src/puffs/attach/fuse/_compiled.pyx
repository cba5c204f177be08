# cython: language_level=3, boundscheck=False, wraparound=False
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
from libc.errno cimport EAGAIN, ECONNABORTED, ENOENT, ENOSYS, errno
from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy
from posix.stat cimport S_IFDIR, S_IFREG
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

import os

from puffs.attach.fuse.abi import (
    FATTR_ATIME,
    FATTR_ATIME_NOW,
    FATTR_FH,
    FATTR_GID,
    FATTR_LOCKOWNER,
    FATTR_MODE,
    FATTR_MTIME,
    FATTR_MTIME_NOW,
    FATTR_SIZE,
    FATTR_UID,
    FOPEN_DIRECT_IO,
    FUSE_GETATTR_FH,
    FUSE_WRITEBACK_CACHE,
    FUSE_WRITE_KILL_SUIDGID,
    Opcode,
)
from puffs.attach.fuse.channel import Channel
from puffs.attach.fuse.dispatch import Refusal
from puffs.attach.fuse.files import NO_FH
from puffs.attach.fuse.handlers.data import BufferKept
from puffs.attach.fuse.handlers.names import OF_CREATE, longest_lookup
from puffs.attach.fuse.replies import UNKNOWN_INO
from puffs.kernel.police import TYPES, attributes, created, filename
from puffs.server.attr import TYPE_BYTE, Attr, Changes
from puffs.server.errors import MAX_ERRNO, Absent, ProtocolFault
from puffs.server.types import Entry, Open as Hints

cdef extern from "poll.h" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    short POLLIN
    int poll(pollfd *waiting, unsigned long count, int milliseconds)

cdef extern from "sys/timerfd.h" nogil:
    struct itimerspec:
        timespec it_interval
        timespec it_value
    int TFD_CLOEXEC, TFD_NONBLOCK
    int timerfd_create(int clock, int flags)
    int timerfd_settime(int fd, int flags, const itimerspec *value, itimerspec *before)

cdef extern from "sys/uio.h" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len
    ssize_t writev(int fd, const iovec *vector, int count)

cdef extern from "unistd.h" nogil:
    int close(int fd)
    ssize_t read(int fd, void *buffer, size_t size)
    ssize_t write(int fd, const void *buffer, size_t size)

cdef extern from "string.h" nogil:
    size_t strnlen(const char *string, size_t most)
    void *memchr(const void *bytes, int byte, size_t size)

SIZES = {
    "fuse_in_header": sizeof(InHeader),
    "fuse_out_header": sizeof(OutHeader),
    "fuse_getattr_in": sizeof(GetattrIn),
    "fuse_write_out": sizeof(WriteReply) - sizeof(OutHeader),
    "fuse_attr_out": sizeof(AttrReply) - sizeof(OutHeader),
    "fuse_setattr_in": sizeof(SetattrIn),
    "fuse_open_in": sizeof(OpenIn),
    "fuse_create_in": sizeof(CreateIn),
    "fuse_mkdir_in": sizeof(MkdirIn),
    "fuse_release_in": sizeof(ReleaseIn),
    "fuse_flush_in": sizeof(FlushIn),
    "fuse_entry_out": sizeof(EntryOut),
    "fuse_open_out": sizeof(OpenOut),
    "fuse_dirent": sizeof(Dirent),
    "fuse_forget_one": sizeof(ForgetOne),
}
"""How long the structs are here, by the names that `abi` has for them."""
WIRE = sizeof(Wire)
"""The same of the image of attributes."""

cdef enum:
    BATCH_FORGET_IN_SIZE = 8
    SHORT = 65536  # data of which a copy takes less than it takes to let other threads run

cdef uint32_t GETATTR_FH = FUSE_GETATTR_FH
cdef uint32_t KILL_SUIDGID = FUSE_WRITE_KILL_SUIDGID, DIRECT_IO = FOPEN_DIRECT_IO
cdef uint32_t MODE = FATTR_MODE, UID = FATTR_UID, GID = FATTR_GID, SIZE = FATTR_SIZE, FH = FATTR_FH
cdef uint32_t ATIME = FATTR_ATIME, ATIME_NOW = FATTR_ATIME_NOW
cdef uint32_t MTIME = FATTR_MTIME, MTIME_NOW = FATTR_MTIME_NOW
cdef uint32_t OF_NO_CHANGE = FATTR_FH | FATTR_LOCKOWNER
cdef uint32_t PLAIN_CHANGES = (
    MODE | UID | GID | SIZE | ATIME | ATIME_NOW | MTIME | MTIME_NOW | OF_NO_CHANGE
)
cdef uint32_t OF_CREATE_FLAGS = OF_CREATE
cdef uint64_t NO_INO = UNKNOWN_INO
cdef uint64_t WRITEBACK = FUSE_WRITEBACK_CACHE
cdef int TYPE_AT = TYPE_BYTE
cdef int LAST_ERRNO = MAX_ERRNO
cdef uint32_t LOOKUP = Opcode.LOOKUP, FORGET = Opcode.FORGET, BATCH_FORGET = Opcode.BATCH_FORGET
cdef tuple SPECIAL = (ProtocolFault, Refusal, Absent)
cdef uint32_t KNOWN_TYPES = sum(1 << kind for kind in TYPES)


cdef class Current:
    """What a channel knows of the request that is under way: its header, unpacked when asked for."""

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

    cdef void take(self, const InHeader *header) noexcept:
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

    cdef object maker(self, uint32_t umask):
        """The caller who makes a file, with his umask: the same object as long as both are."""
        now, kept = &self.now, &self.maker_for
        if (
            self.kept_maker is None
            or self.kept_umask != umask
            or now.pid != kept.pid
            or now.uid != kept.uid
            or now.gid != kept.gid
        ):
            self.kept_maker, self.kept_umask = self.cred_with_umask(umask), umask
            kept[0] = now[0]
        return self.kept_maker


class CompiledChannel(Current, Channel):
    """A channel for the loop below."""


cdef class Handler:
    """Serves one opcode, as a plain handler does."""

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

    cdef void *body(self) noexcept:
        return self.request + sizeof(InHeader)

    cdef str name(self, Py_ssize_t length, Py_ssize_t before=0):
        """The one name of a request: up to its NUL, behind which extensions may follow."""
        start = <char *> self.body() + before
        size = strnlen(start, max(<char *> self.request + length - start, 0))
        return PyUnicode_DecodeUTF8(start, size, b"surrogateescape")

    cdef bytes raw_name(self, Py_ssize_t length, Py_ssize_t before=0):
        """The same as bytes."""
        start = <char *> self.body() + before
        return start[:strnlen(start, max(<char *> self.request + length - start, 0))]

    cdef int hand_over(self, Py_ssize_t length) except -1:
        self.plain(self.channel.now.unique, self.channel.now.nodeid, length)
        return 0

    cdef bint send(self, void *message, size_t size, uint64_t unique) except -1:
        """Fill in the header of a whole reply, and write it. False: nobody wants it any more."""
        header = <OutHeader *> message
        header.len, header.error, header.unique = <uint32_t> size, 0, unique
        return self.written(write(self.fd, message, size), unique)

    cdef bint send_data(self, void *data, size_t size, bint quick, uint64_t unique) except -1:
        """Reply with data. `quick`: without letting other threads run meanwhile."""
        cdef OutHeader header
        cdef iovec vector[2]
        cdef ssize_t done
        header.len, header.error, header.unique = <uint32_t> (sizeof(header) + size), 0, unique
        vector[0].iov_base, vector[0].iov_len = &header, sizeof(header)
        vector[1].iov_base, vector[1].iov_len = data, size
        if quick:
            done = writev(self.fd, vector, 2)
        else:
            with nogil:
                done = writev(self.fd, vector, 2)
        return self.written(done, unique)

    cdef bint written(self, ssize_t done, uint64_t unique) except -1:
        if done >= 0:
            return True
        code = errno
        self.channel.refused(OSError(code, os.strerror(code)), unique)
        return False

    cdef bint answer(self, int code, uint64_t unique) except -1:
        """Reply with an errno, or 0, and nothing else."""
        cdef OutHeader reply
        reply.len, reply.error, reply.unique = sizeof(reply), -code, unique
        return self.written(write(self.fd, &reply, sizeof(reply)), unique)


cdef inline unsigned char *wire_of(object attr) except NULL:
    """The image of attributes, which live longer than what is done with it here."""
    image = attr.wire
    if type(image) is not bytearray or PyByteArray_GET_SIZE(image) != WIRE_SIZE:
        raise TypeError(f"Attr.wire has become {image!r}, which is no image of attributes")
    return <unsigned char *> PyByteArray_AS_STRING(image)


cdef inline bint known_type(object attr) except -1:
    """Whether these are attributes of a file, of the exact type."""
    return type(attr) is Attr and KNOWN_TYPES >> (wire_of(attr)[TYPE_AT] >> 4) & 1


cdef class Attributes(Handler):
    """A handler whose reply is attributes."""

    cdef object operation, then
    cdef AttrReply reply

    def __init__(self, serving, plain):
        super().__init__(serving, plain)
        self.reply.dummy = 0
        lifetimes = serving.reply.lifetimes
        self.reply.attr_valid, self.reply.attr_valid_nsec = lifetimes.attr, lifetimes.attr_nsec

    cdef int tell(self, object attr, object vnode, uint64_t unique) except -1:
        memcpy(self.reply.wire, wire_of(attr), WIRE_SIZE)
        self.reply.ino = attr.ino or vnode.ino
        self.send(&self.reply, sizeof(self.reply), unique)

    cdef object file(self, uint64_t fh, bint given):
        return self.file_of[fh] if given else None


cdef class Getattr(Attributes):
    def __init__(self, serving, plain):
        super().__init__(serving, plain)
        self.operation, self.then = serving.mount.ops["getattr"], serving.reply.attr

    cdef int serve(self, Py_ssize_t length) except -1:
        asked, unique = <GetattrIn *> self.body(), self.channel.now.unique
        vnode = self.nodes[self.channel.now.nodeid]
        file = self.file(asked.fh, asked.getattr_flags & GETATTR_FH)
        attr = self.operation(vnode.cookie, file)
        if not known_type(attr):
            self.then(attr, unique, vnode)
            return 0
        self.tell(attr, vnode, unique)


cdef class Setattr(Attributes):
    cdef object clock

    def __init__(self, serving, plain):
        super().__init__(serving, plain)
        self.operation, self.then = serving.mount.ops["setattr"], serving.reply.changed
        self.clock = serving.mount.clock

    cdef int serve(self, Py_ssize_t length) except -1:
        asked, unique = <SetattrIn *> self.body(), self.channel.now.unique
        valid = asked.valid
        if valid & ~PLAIN_CHANGES or not valid & ~OF_NO_CHANGE:
            return self.hand_over(length)
        changes = Changes()
        if valid & MODE:
            changes.mode = asked.mode & 0o7777
        if valid & UID:
            changes.uid = asked.uid
        if valid & GID:
            changes.gid = asked.gid
        if valid & SIZE:
            changes.size = asked.size
        if valid & ATIME:
            changes.atime_now = bool(valid & ATIME_NOW)
            changes.atime_ns = self.time(valid & ATIME_NOW, asked.atime, asked.atimensec)
        if valid & MTIME:
            changes.mtime_now = bool(valid & MTIME_NOW)
            changes.mtime_ns = self.time(valid & MTIME_NOW, asked.mtime, asked.mtimensec)
        vnode, file = self.nodes[self.channel.now.nodeid], self.file(asked.fh, valid & FH)
        attr = self.operation(vnode.cookie, changes, file, self.channel.caller())
        if not known_type(attr):
            self.then(attr, unique, vnode, file)
            return 0
        self.tell(attr, vnode, unique)

    cdef object time(self, bint now, object seconds, uint32_t nanoseconds):
        return self.clock() if now else seconds * 1_000_000_000 + nanoseconds


cdef class Entering(Handler):
    """A handler whose reply has an entry."""

    cdef object adopt, forget, getattr
    cdef bint at_once
    cdef EntryOut lifetimes

    def __init__(self, serving, plain):
        super().__init__(serving, plain)
        vnodes, lifetimes = serving.mount.vnodes, serving.reply.lifetimes
        self.adopt, self.forget = vnodes.adopt, vnodes.forget
        self.getattr, self.at_once = serving.mount.ops["getattr"], not serving.flow.asynchronous
        self.lifetimes.entry_valid, self.lifetimes.entry_valid_nsec = lifetimes.name, lifetimes.name_nsec
        self.lifetimes.attr_valid, self.lifetimes.attr_valid_nsec = lifetimes.attr, lifetimes.attr_nsec

    cdef bint usual(self, object found, object above) except -1:
        """Whether there is nothing special about what was found, and nothing to say against it."""
        if type(found) is not Entry:
            return self.at_once and usable(found, above)
        return (
            found.name_ttl is None
            and found.attr_ttl is None
            and (found.attr is None or known_type(found.attr))
            and (found.attr is not None or self.at_once)
            and usable(found.node, above)
        )

    cdef object attr_of(self, object found):
        """The attributes of what is usual: those that came with it, or those that are asked for."""
        attr = found.attr if type(found) is Entry else None
        if attr is not None:
            return attr
        cookie = cookie_of(found)
        return attributes(self.getattr(cookie, None), cookie, "getattr")

    cdef int fill(self, object attr, object vnode, EntryOut *out) except -1:
        """What there is to tell of a vnode, which was counted for the kernel."""
        out[0] = self.lifetimes
        out.ino = attr.ino
        memcpy(out.wire, wire_of(attr), WIRE_SIZE)
        return enter(vnode, out)

    cdef int tell(
        self, object found, object parent, str name, bint new, uint64_t unique
    ) except -1:
        """Enter what is usual, and tell the kernel of it."""
        cdef EntryReply reply
        attr, cookie, told = self.attr_of(found), cookie_of(found), False
        if new:
            vnode = self.adopt(cookie, parent, name, new=True)
        else:
            vnode = self.adopt(cookie, parent, name)
        try:
            self.fill(attr, vnode, &reply.entry)
            told = self.send(&reply, sizeof(reply), unique)
        finally:
            if not told:
                self.forget(vnode.nodeid, 1)


cdef class Lookup(Entering):
    cdef object operation, then
    cdef Py_ssize_t longest

    def __init__(self, serving, plain):
        super().__init__(serving, plain)
        self.operation, self.then = serving.mount.ops["lookup"], serving.reply.found
        self.longest = longest_lookup(serving.mount)

    cdef int serve(self, Py_ssize_t length) except -1:
        name = self.name(length)
        if length > self.longest or name == "." or name == "..":
            return self.hand_over(length)
        unique, parent = self.channel.now.unique, self.nodes[self.channel.now.nodeid]
        above = parent.cookie
        found = self.operation(above, name, self.channel.caller())
        if not self.usual(found, above):
            self.then(found, unique, parent, name)
            return 0
        return self.tell(found, parent, name, False, unique)


cdef class Mkdir(Entering):
    cdef object operation, then, new_attr

    def __init__(self, serving, plain):
        super().__init__(serving, plain)
        self.operation, self.then = serving.mount.ops["mkdir"], serving.reply.made
        self.new_attr = serving.mount.new_attr

    cdef int serve(self, Py_ssize_t length) except -1:
        asked, unique = <MkdirIn *> self.body(), self.channel.now.unique
        name = self.name(length, sizeof(MkdirIn))
        parent, cred = self.nodes[self.channel.now.nodeid], self.channel.maker(asked.umask)
        above = parent.cookie
        attr = self.new_attr(S_IFDIR | (asked.mode & 0o7777), cred)
        made = self.operation(above, name, attr, cred)
        if not self.usual(made, above):
            self.then(made, unique, parent, name, "mkdir")
            return 0
        return self.tell(made, parent, name, True, unique)


cdef inline object cookie_of(object found):
    return found.node if type(found) is Entry else found


cdef bint usable(object cookie, object above) except -1:
    """Whether there is nothing to say against a cookie; `police.node` is to say it."""
    if cookie is None:
        return False
    try:
        hash(cookie)
    except TypeError:
        return False
    return not cookie == above


cdef class Remove(Handler):
    """UNLINK and RMDIR."""

    cdef object operation, then

    def __init__(self, serving, plain, operation="remove"):
        super().__init__(serving, plain)
        self.operation, self.then = serving.mount.ops[operation], serving.reply.ok

    cdef int serve(self, Py_ssize_t length) except -1:
        unique, cookie = self.channel.now.unique, self.nodes[self.channel.now.nodeid].cookie
        done = self.operation(cookie, self.name(length), self.channel.caller())
        if done is None:
            self.answer(0, unique)
        else:
            self.then(done, unique)


cdef class Rmdir(Remove):
    def __init__(self, serving, plain):
        super().__init__(serving, plain, "rmdir")


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
            size = <uint32_t> PyBytes_GET_SIZE(data)
            self.send_data(PyBytes_AS_STRING(data), size, size <= SHORT, unique)
            return 0
        if type(data) is not memoryview or not data.c_contiguous or data.nbytes > size:
            self.then(data, unique, size, cookie)
            return 0
        PyObject_GetBuffer(data, &seen, PyBUF_SIMPLE)
        try:
            # Reading it may wait for another thread: it may be a mapping of a file.
            self.send_data(seen.buf, seen.len, False, unique)
        finally:
            PyBuffer_Release(&seen)


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
    cdef object operation, then, direct
    cdef Lent lent
    cdef Py_ssize_t room
    cdef WriteReply reply

    def __init__(self, serving, plain):
        super().__init__(serving, plain)
        self.operation, self.then = serving.mount.ops["write"], serving.reply.written
        self.direct = serving.files.direct
        self.lent = Lent()
        self.lent.owner = self.buffer
        self.lent.data = <char *> self.body() + WRITE_IN_SIZE
        self.room = len(self.buffer) - sizeof(InHeader) - WRITE_IN_SIZE
        self.reply.padding = 0

    cdef int serve(self, Py_ssize_t length) except -1:
        asked, unique = <DataIn *> self.body(), self.channel.now.unique
        if asked.flags & KILL_SUIDGID and asked.fh in self.direct:
            return self.hand_over(length)
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


# ---------------------------- what follows is for operations that have ended when they return ----


cdef class Opening(Entering):
    """A handler whose reply has an open file."""

    cdef object operation, files, flags_of, server_flags
    cdef bint usual_opens, as_they_are
    cdef uint32_t flags_of_none

    def __init__(self, serving, plain):
        super().__init__(serving, plain)
        self.files, self.flags_of = serving.files, serving.reply.open_flags
        self.flags_of_none = self.flags_of(None)
        self.server_flags = serving.open_flags
        self.as_they_are = not serving.init_flags & WRITEBACK
        self.usual_opens = self.files.backing is None

    cdef object flags(self, uint32_t flags):
        """The flags of an open that are the file server's."""
        return flags if self.as_they_are else self.server_flags(flags)

    cdef int tell_opened(self, object fh, object hints, OpenOut *out) except -1:
        out.fh, out.backing_id = fh, 0
        out.open_flags = self.flags_of_none if hints is None else self.flags_of(hints)
        if out.open_flags & DIRECT_IO:
            self.files.direct.add(fh)
        return 0


cdef class Open(Opening):
    def __init__(self, serving, plain):
        super().__init__(serving, plain)
        ops = serving.mount.ops
        self.operation = ops.get("open")
        self.usual_opens &= self.operation is not None and "write" in ops

    cdef int serve(self, Py_ssize_t length) except -1:
        cdef OpenReply reply
        if not self.usual_opens:
            return self.hand_over(length)
        unique, vnode = self.channel.now.unique, self.nodes[self.channel.now.nodeid]
        flags = self.flags((<OpenIn *> self.body()).flags)
        file, hints = self.operation(vnode.cookie, flags, self.channel.caller()), None
        if type(file) is Hints:
            file, hints = file.file, file
        fh, told = self.files.open(vnode, file), False
        try:
            self.tell_opened(fh, hints, &reply.opened)
            told = self.send(&reply, sizeof(reply), unique)
        finally:
            if not told:  # nobody waits for this open file any more
                self.files.take_back(fh)


cdef class Create(Opening):
    cdef object then, go, enter, new_attr
    cdef bint opens  # by an operation of its own

    def __init__(self, serving, plain):
        super().__init__(serving, plain)
        mount, reply = serving.mount, serving.reply
        self.operation, self.opens = mount.ops["create"], "open" in mount.ops
        self.then, self.go, self.enter = reply.made_open, serving.flow.go, reply.enter
        self.new_attr = mount.new_attr

    cdef int serve(self, Py_ssize_t length) except -1:
        cdef CreateReply reply
        asked, unique = <CreateIn *> self.body(), self.channel.now.unique
        name = self.name(length, sizeof(CreateIn))
        parent, cred = self.nodes[self.channel.now.nodeid], self.channel.maker(asked.umask)
        flags = self.flags(asked.flags & ~OF_CREATE_FLAGS)
        attr = self.new_attr(S_IFREG | (asked.mode & 0o7777), cred)
        above = parent.cookie
        made = self.operation(above, name, attr, flags, cred)
        found, opened, came = created(made)
        if not (self.usual_opens and (came or not self.opens) and self.usual(found, above)):
            self.go(self.then(made, unique, parent, name, flags, cred, "create"))
            return 0
        vnode, fh, told = self.adopt(cookie_of(found), parent, name, new=True), NO_FH, False
        try:
            fh, hints = self.enter(vnode, opened)
            self.fill(self.attr_of(found), vnode, &reply.entry)
            self.tell_opened(fh, hints, &reply.opened)
            told = self.send(&reply, sizeof(reply), unique)
        finally:
            if not told:  # give back what was counted
                self.files.take_back(fh)
                self.forget(vnode.nodeid, 1)


cdef class Ending(Handler):
    """A handler that ends what was done with an open file. Locks are given back by the plain one."""

    cdef object operation, files
    cdef bint locks

    def __init__(self, serving, plain, operation):
        super().__init__(serving, plain)
        self.operation, self.files = serving.mount.ops.get(operation), serving.files
        self.locks = "advlock" in serving.mount.ops


cdef class Release(Ending):
    def __init__(self, serving, plain):
        super().__init__(serving, plain, "close")

    cdef int serve(self, Py_ssize_t length) except -1:
        if self.locks:
            return self.hand_over(length)
        asked, unique = <ReleaseIn *> self.body(), self.channel.now.unique
        fh, cookie = asked.fh, self.nodes[self.channel.now.nodeid].cookie
        file = self.file_of[fh]
        try:
            if self.operation is not None:
                self.operation(cookie, file, asked.flags)
        finally:
            self.files.close(fh)
        self.answer(0, unique)


cdef class Flush(Ending):
    def __init__(self, serving, plain):
        super().__init__(serving, plain, "flush")

    cdef int serve(self, Py_ssize_t length) except -1:
        if self.locks or self.operation is None:
            return self.hand_over(length)
        asked, unique = <FlushIn *> self.body(), self.channel.now.unique
        cookie = self.nodes[self.channel.now.nodeid].cookie
        self.operation(cookie, self.file_of[asked.fh], asked.lock_owner)
        self.answer(0, unique)


cdef class Readdirplus(Entering):
    cdef object directory_of, plus, namemax

    def __init__(self, serving, plain):
        super().__init__(serving, plain)
        self.namemax = serving.mount.namemax
        self.directory_of, self.plus = serving.files.directory, serving.reply.plus

    cdef int serve(self, Py_ssize_t length) except -1:
        asked, unique = <DataIn *> self.body(), self.channel.now.unique
        room = min(asked.size, <uint32_t> len(self.buffer))
        directory = self.directory_of[asked.fh]
        parent, cookie = self.nodes[self.channel.now.nodeid], directory.cookie
        message = bytearray(sizeof(OutHeader) + room)
        start = PyByteArray_AS_STRING(message)
        cdef size_t used = sizeof(OutHeader), size
        told_of, told = [], False
        try:
            for position, entry in directory.entries(asked.offset):
                name = filename(entry.name, "readdir", cookie, self.namemax)
                size = padded(sizeof(EntryOut) + sizeof(Dirent) + PyBytes_GET_SIZE(name))
                if used + size > sizeof(OutHeader) + room:
                    break
                self.put(start + used, parent, entry, position, name, told_of)
                used += size
            told = self.send(start, used, unique)
        finally:
            if not told:
                for vnode in told_of:
                    self.forget(vnode.nodeid, 1)

    cdef int put(
        self, char *at, object parent, object entry, uint64_t position, bytes name, list told_of
    ) except -1:
        """Put one `fuse_direntplus` where there are zeros."""
        found = entry.entry
        out, dirent = <EntryOut *> at, <Dirent *> (at + sizeof(EntryOut))
        if type(found) is not Entry or found.attr is None or not self.usual(found, parent.cookie):
            entry_out, rest = self.plus(parent, entry, position, name, told_of)
            memcpy(out, PyBytes_AS_STRING(entry_out), sizeof(EntryOut))
            memcpy(dirent, PyBytes_AS_STRING(rest), PyBytes_GET_SIZE(rest))
            return 0
        vnode = self.adopt(found.node, parent, entry.name)
        told_of.append(vnode)
        self.fill(found.attr, vnode, out)
        dirent.ino = entry.ino or out.ino
        dirent.off, dirent.namelen = position, <uint32_t> PyBytes_GET_SIZE(name)
        dirent.type = found.attr.mode >> 12
        memcpy(<char *> dirent + sizeof(Dirent), PyBytes_AS_STRING(name), dirent.namelen)


cdef class Answer:
    """See `replies.Answer`."""

    def __init__(self, replies, vnodes, parent, room):
        self.adopt, self.forget = vnodes.adopt, vnodes.forget
        self.replies, self.parent, self.told_of = replies, parent, []
        self.names_last, self.longest = replies.names_last, replies.namemax
        self.message = bytearray(room)
        self.room, self.used = room, 0

    @property
    def parts(self):
        return (memoryview(self.message)[:self.used],)

    def add(self, bytes name not None, entry, uint64_t next):
        cdef EntryOut out
        attr = entry.attr
        if attr is None:
            raise TypeError(f"the entry of {name!r} has no attributes")
        if not (KNOWN_TYPES >> (wire_of(attr)[TYPE_AT] >> 4)) & 1:
            attributes(attr, entry.node, "readdir")
        out.entry_valid, out.attr_valid, out.entry_valid_nsec, out.attr_valid_nsec = (
            self.replies.lifetimes_of(entry)
        )
        out.ino = attr.ino
        memcpy(out.wire, wire_of(attr), WIRE_SIZE)
        return self.put(name, entry.node, &out, next)

    cdef bint put(self, bytes name, object node, EntryOut *out, uint64_t next) except -1:
        """Add an entry: all of `out` but the numbers of its node is there, and of a known type."""
        length = <size_t> PyBytes_GET_SIZE(name)
        characters = PyBytes_AS_STRING(name)
        size = padded(sizeof(EntryOut) + sizeof(Dirent) + length)
        if self.used + size > self.room:
            return False
        at = PyByteArray_AS_STRING(self.message) + self.used
        dirent = <Dirent *> (at + sizeof(EntryOut))
        if name == b"." or name == b"..":
            dirent.ino = out.ino
        else:
            text = PyUnicode_DecodeUTF8(characters, length, b"surrogateescape")
            if not 0 < length <= self.longest or memchr(characters, b"/", length) or memchr(
                characters, 0, length
            ):
                filename(text, "readdir", self.parent.cookie, self.longest)
            vnode = self.adopt(node, self.parent, text)
            self.told_of.append(vnode)
            enter(vnode, out)
            memcpy(at, out, sizeof(EntryOut))
            dirent.ino = out.ino
        if not dirent.ino:
            dirent.ino = NO_INO
        dirent.off, dirent.namelen = next, <uint32_t> length
        dirent.type = out.wire[TYPE_AT] >> 4
        memcpy(<char *> dirent + sizeof(Dirent), characters, length)
        self.used += size
        return True

    def take_back(self):
        for vnode in self.told_of:
            self.forget(vnode.nodeid, 1)
        self.told_of.clear()


cdef int enter(object vnode, EntryOut *out) except -1:
    """Put the numbers of a node beside its attributes, and note of these what it is to know."""
    out.nodeid, out.generation = vnode.nodeid, vnode.generation
    if not out.ino:
        out.ino = vnode.ino
    vnode.ino = out.ino
    if not vnode.type:
        vnode.type = (out.wire[TYPE_AT] >> 4) << 12
    return 0


cdef inline size_t padded(size_t size) noexcept:
    return (size + 7) & ~<size_t> 7


cdef class Patience:
    """How long a request is waited for before it is told that there is none: `milliseconds`, or up
    to twice as long.

    A timeout of poll(2) for each request would have the machine set a timer for each, which in a
    virtual machine takes longer than all the rest. So one timer ticks while there are requests, and
    there are none if none has come between two ticks.
    """

    cdef int fd
    cdef bint ticks, quiet
    cdef long nanoseconds

    def __cinit__(self, int milliseconds):
        self.nanoseconds = milliseconds * 1_000_000
        self.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)
        if self.fd < 0:
            raise OSError(errno, os.strerror(errno))

    def __dealloc__(self):
        if self.fd >= 0:
            close(self.fd)

    cdef void tick(self, bint on) noexcept nogil:
        cdef itimerspec when
        if self.ticks == on:
            return
        self.ticks, self.quiet = on, False
        when.it_interval.tv_sec = when.it_value.tv_sec = 0
        when.it_interval.tv_nsec = when.it_value.tv_nsec = self.nanoseconds if on else 0
        timerfd_settime(self.fd, 0, &when, NULL)

    cdef int wait(self, int fd) noexcept nogil:
        """Wait until `fd` is readable: 1. 0: it has not become so; -1: see `errno`."""
        cdef pollfd ready[2]
        cdef uint64_t count
        ready[0].fd, ready[0].events = fd, POLLIN
        ready[1].fd, ready[1].events = self.fd, POLLIN
        self.tick(True)
        while True:
            ready[0].revents = 0
            if poll(ready, 2, -1) < 0:
                return -1
            if ready[0].revents:
                self.quiet = False
                return 1
            if self.quiet:
                self.tick(False)
                return 0
            self.quiet = True
            read(self.fd, &count, sizeof(count))


def run(reader, Current channel, list handlers, enough, int64_t limit=0, Patience patience=None):
    """Serve by `handlers`, which may be changed meanwhile but for their number.

    With a `limit`, for a descriptor that does not block, it is enough after so many nanoseconds,
    too, and a request is waited for with `patience`; not at all without.

    Returns None when it is `enough`, or what the reader says that it is to come back with
    (`Reader.not_read`, `Reader.raised`).
    """
    cdef int fd = channel.fd
    cdef object buffer = channel.buffer
    cdef void *start = PyByteArray_AS_STRING(buffer)
    cdef size_t room = PyByteArray_GET_SIZE(buffer)
    cdef size_t known = len(handlers)
    cdef ssize_t length
    cdef int came = 1
    cdef bint waits = patience is not None
    cdef object handler
    cdef int64_t end = now() + limit if limit else 0
    head = &channel.now
    while True:
        PyErr_CheckSignals()  # as the interpreter does between any two steps of a plain loop
        with nogil:
            length = read(fd, start, room)
            if waits and length < 0 and errno == EAGAIN:
                came = patience.wait(fd)
                length = read(fd, start, room) if came > 0 else -1
        if length < <ssize_t> sizeof(InHeader):
            # Who closes the other side of a connection that is no device has ended it.
            code = EAGAIN if came == 0 else errno if length < 0 else ECONNABORTED
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
            code = code_of(exc, reader, channel) if isinstance(handler, Handler) else 0
            if code:
                (<Handler> handler).answer(code, head.unique)
            elif (outcome := reader.raised(channel.header, exc)) is not None:
                return outcome
        if enough is not None and enough.now or limit and now() > end:
            return None


cdef int code_of(object exc, object reader, Current channel) except -1:
    """The errno of the caller for what a handler has raised; 0: `Reader.raised` is to say it."""
    if not isinstance(exc, OSError) or isinstance(exc, SPECIAL) or channel.other is not None:
        return 0
    opcode, code = channel.now.opcode, exc.errno
    if type(code) is not int or len(exc.args) == 1 or not 0 < code <= LAST_ERRNO or code == ENOSYS:
        return 0
    if opcode == FORGET or opcode == BATCH_FORGET:
        return 0
    if code == ENOENT and opcode == LOOKUP and reader.mount.server.negative_ttl > 0:
        return 0
    return code


cdef inline int64_t now() noexcept nogil:
    """The monotonic clock, in nanoseconds."""
    cdef timespec time
    clock_gettime(CLOCK_MONOTONIC, &time)
    return <int64_t> time.tv_sec * 1_000_000_000 + time.tv_nsec


HANDLERS = {
    Opcode.LOOKUP: Lookup,
    Opcode.MKDIR: Mkdir,
    Opcode.FORGET: Forget,
    Opcode.BATCH_FORGET: BatchForget,
    Opcode.GETATTR: Getattr,
    Opcode.SETATTR: Setattr,
    Opcode.READ: Read,
    Opcode.UNLINK: Remove,
    Opcode.RMDIR: Rmdir,
}
"""The kinds of handlers that there are, by opcode. Each is made of what the handlers of a channel
share, and of the plain one."""

DIRECT_HANDLERS = {
    Opcode.WRITE: Write,
    Opcode.OPEN: Open,
    Opcode.CREATE: Create,
    Opcode.RELEASE: Release,
    Opcode.FLUSH: Flush,
    Opcode.READDIRPLUS: Readdirplus,
}
"""Those for file servers whose operations have all ended when they return."""
