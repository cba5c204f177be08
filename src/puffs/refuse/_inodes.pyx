# cython: language_level=3, boundscheck=False, wraparound=False
"""Compiled: the values of pyfuse3 and llfuse, and handlers that ask programs for these libraries.

The values are those of `inode_plain`, which stand in for them where nothing was compiled. Numbers
that do not fit raise when they are set, as with the originals.

A handler here calls the handler of the program itself, and makes the reply of what it has returned.
It does so where everything is as usual: a coroutine has ended at once, the reply is of its type.
Whatever else comes of the call is handed over: to the plain handler, whose operation then goes on
with it instead of calling the program (`inodes.Inodes.begun`). So each rule stands in one place, in
Python.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.bytearray cimport PyByteArray_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from posix.stat cimport S_IFDIR, S_IFREG

from puffs.attach.fuse._compiled cimport (
    WRITE_IN_SIZE,
    Answer,
    AttrReply,
    CreateIn,
    CreateReply,
    DataIn,
    EntryOut,
    EntryReply,
    FlushIn,
    GetattrIn,
    Handler,
    InHeader,
    MkdirIn,
    OpenIn,
    OpenOut,
    OpenReply,
    ReleaseIn,
    Wire,
    WriteReply,
    enter,
)

from pickle import PicklingError
from stat import S_IFREG as REGULAR
from threading import get_ident

from puffs.attach.fuse.abi import (
    FOPEN_DIRECT_IO,
    FOPEN_KEEP_CACHE,
    FOPEN_NONSEEKABLE,
    FUSE_GETATTR_FH,
    FUSE_WRITE_KILL_SUIDGID,
    Opcode,
)
from puffs.attach.fuse.handlers.names import OF_CREATE, longest_lookup
from puffs.attach.fuse.replies import TTL_MAX
from puffs.kernel.police import TYPES
from puffs.refuse.inode_plain import NO_FH, TIMEOUT, FUSEError, Outcome, State
from puffs.refuse.inode_plain import EntryAttributes as PlainAttributes
from puffs.refuse.inode_plain import FileInfo as PlainInfo
from puffs.server.driver import rest_of_begun
from puffs.server.errors import MAX_ERRNO

cdef extern from "Python.h":
    int PyIter_Send(object iterator, object value, PyObject **result) except -1
    bint PyCoro_CheckExact(object)
    object PyObject_CallObject(object function, object arguments)
    long long PyLong_AsLongLongAndOverflow(object number, int *overflow) except? -1
    void Py_DECREF(PyObject *)

cdef enum:
    PYGEN_NEXT = 1
    SHORT = 65536  # data of which a copy takes less than it takes to let other threads run

cdef uint32_t KNOWN_TYPES = sum(1 << kind for kind in TYPES)
cdef uint32_t GETATTR_FH = FUSE_GETATTR_FH
cdef int MOST_ERRNO = MAX_ERRNO
cdef uint32_t KILL_SUIDGID = FUSE_WRITE_KILL_SUIDGID
cdef uint32_t DIRECT_IO = FOPEN_DIRECT_IO, KEEP_CACHE = FOPEN_KEEP_CACHE
cdef uint32_t NONSEEKABLE = FOPEN_NONSEEKABLE
cdef uint32_t OF_CREATE_FLAGS = OF_CREATE
cdef double LONGEST_TIME = TTL_MAX


# ----------------------------------------------------------------------------------------- values


@cython.auto_pickle(False)
cdef class EntryAttributes:
    """See `inode_plain.EntryAttributes`."""

    __slots__ = PlainAttributes.__slots__

    cdef public uint64_t st_ino, generation, st_rdev
    cdef public int64_t st_size, st_blocks, st_blksize
    cdef public double entry_timeout, attr_timeout
    cdef public object st_atime_ns, st_ctime_ns, st_mtime_ns, st_birthtime_ns
    cdef public uint32_t st_mode, st_nlink, st_uid, st_gid

    def __cinit__(self):
        self.entry_timeout = self.attr_timeout = TIMEOUT
        self.st_mode, self.st_nlink, self.st_blksize = REGULAR, 1, 4096
        self.st_atime_ns = self.st_ctime_ns = self.st_mtime_ns = self.st_birthtime_ns = 0

    def __getstate__(self):
        return State.__getstate__(self)

    def __setstate__(self, state):
        State.__setstate__(self, state)


cdef object NS = 1_000_000_000


cdef int tell_time(object ns, int64_t *seconds, uint32_t *fraction) except -1:
    """Nanoseconds since the epoch as the protocol takes them."""
    cdef int overflow = 0
    if type(ns) is float:
        ns = int(ns)
    cdef int64_t short = PyLong_AsLongLongAndOverflow(ns, &overflow)
    if overflow:
        seconds[0], fraction[0] = divmod(ns, NS)
    else:
        seconds[0], fraction[0] = short // 1_000_000_000, <uint32_t> (short % 1_000_000_000)
    return 0


cdef int tell_attributes(EntryAttributes entry, unsigned char *at) except -1:
    """Make an image of attributes."""
    wire = <Wire *> at
    tell_time(entry.st_atime_ns, &wire.atime, &wire.atimensec)
    tell_time(entry.st_mtime_ns, &wire.mtime, &wire.mtimensec)
    tell_time(entry.st_ctime_ns, &wire.ctime, &wire.ctimensec)
    wire.size, wire.blocks, wire.mode, wire.nlink = (
        entry.st_size, entry.st_blocks, entry.st_mode, entry.st_nlink
    )
    wire.uid, wire.gid, wire.rdev = entry.st_uid, entry.st_gid, <uint32_t> entry.st_rdev
    wire.blksize, wire.flags = entry.st_blksize, 0
    return 0


cdef struct Lifetime:
    uint64_t seconds
    uint32_t fraction


cdef inline Lifetime lifetime(double seconds) noexcept:
    """Seconds as the protocol takes them: see `replies.lifetime`."""
    cdef Lifetime told
    if not seconds > 0:
        told.seconds = told.fraction = 0
    elif seconds >= LONGEST_TIME:
        told.seconds, told.fraction = <uint64_t> LONGEST_TIME, 0
    else:
        told.seconds = <uint64_t> seconds
        told.fraction = <uint32_t> ((seconds - <double> told.seconds) * 1e9)
    return told


cdef int tell_entry(EntryAttributes entry, bint names_last, EntryOut *out) except -1:
    """All that there is to tell of a node but its numbers."""
    name, attr = lifetime(entry.entry_timeout if names_last else 0), lifetime(entry.attr_timeout)
    out.entry_valid, out.entry_valid_nsec = name.seconds, name.fraction
    out.attr_valid, out.attr_valid_nsec = attr.seconds, attr.fraction
    out.ino = entry.st_ino
    return tell_attributes(entry, out.wire)


cdef inline bint usual(object reply) noexcept:
    """Whether these are attributes of a file, and of the exact type."""
    return type(reply) is EntryAttributes and (
        KNOWN_TYPES >> ((<EntryAttributes> reply).st_mode >> 12 & 15) & 1
    )


@cython.auto_pickle(False)
cdef class RequestContext:
    """See `inode_plain.RequestContext`."""

    cdef public uint32_t uid, gid, pid, umask

    def __init__(self, uint32_t uid=0, uint32_t gid=0, uint32_t pid=0, uint32_t umask=0):
        self.uid, self.gid, self.pid, self.umask = uid, gid, pid, umask

    def __getstate__(self):
        raise PicklingError(f"{type(self).__name__} instances cannot be pickled")


@cython.auto_pickle(False)
cdef class FileInfo:
    """See `inode_plain.FileInfo`."""

    __slots__ = PlainInfo.__slots__

    cdef public uint64_t fh
    cdef public bint direct_io, keep_cache, nonseekable

    def __init__(self, uint64_t fh=0, bint direct_io=False, bint keep_cache=True,
                 bint nonseekable=False):
        self.fh = fh
        self.direct_io, self.keep_cache, self.nonseekable = direct_io, keep_cache, nonseekable

    def __getstate__(self):
        return State.__getstate__(self)

    def __setstate__(self, state):
        State.__setstate__(self, state)


# ---------------------------------------------------------------------------------------- listings


cdef class ReaddirToken:
    """See `inode_listing.ReaddirToken`: `plain` is one, which is left what is not usual."""

    cdef object listing, plain

    def __init__(self, listing, plain):
        self.listing, self.plain = listing, plain


def readdir_reply(ReaddirToken token not None, bytes name not None, attr, uint64_t next_id):
    """Report an entry of a directory, in a `readdir` handler.

    False when there is no room for it: return then. True: it counts as a lookup, unless it is "."
    or "..". `next_id` is where a later `readdir` is to begin after this entry.
    """
    cdef EntryOut out
    listing = token.listing
    if not usual(attr) or (<EntryAttributes> attr).generation or type(listing) is not Answer:
        return token.plain.reply(name, attr, next_id)
    tell_entry(<EntryAttributes> attr, (<Answer> listing).names_last, &out)
    return (<Answer> listing).put(name, (<EntryAttributes> attr).st_ino, &out, next_id)


# ---------------------------------------------------------------------------------------- handlers


cdef class Asking(Handler):
    """A handler that calls one of the program's, `program`.

    `lock` is held meanwhile, if there is one; then the handlers are `def`, else `async def`.
    """

    cdef object program, begun, acquire, release, reply

    def __init__(self, serving, plain, program, begun, lock):
        super().__init__(serving, plain)
        self.program, self.begun = program, begun
        if lock is not None:
            self.acquire, self.release = lock.acquire, lock.release

    cdef RequestContext context(self, uint32_t umask=0):
        """The caller."""
        context = <RequestContext> RequestContext.__new__(RequestContext)
        now = &self.channel.now
        context.uid, context.gid, context.pid, context.umask = now.uid, now.gid, now.pid, umask
        return context

    cdef bint ask(self, tuple given, Py_ssize_t length) except -1:
        """Call the program. True: what it has returned is `reply`; else all has been done."""
        cdef PyObject *value = NULL
        try:
            if self.acquire is not None:
                self.reply = self.locked(given)
                return True
            begun = PyObject_CallObject(self.program, given)
            if PyCoro_CheckExact(begun):
                waits = PyIter_Send(begun, None, &value) == PYGEN_NEXT
                came = <object> value
                Py_DECREF(value)
                if not waits:
                    self.reply = came
                    return True
                begun = rest_of_begun(begun, came)
        except BaseException as exc:
            if type(exc) is FUSEError and self.fails(exc.errno_):
                return False
            begun = Outcome(None, exc)
        self.go_on(begun, length)
        return False

    cdef object locked(self, tuple given):
        self.acquire()
        try:
            return PyObject_CallObject(self.program, given)
        finally:
            self.release()

    cdef object taken(self):
        """What the program has returned. It is not kept here."""
        reply, self.reply = self.reply, None
        return reply

    cdef int go_on(self, begun, Py_ssize_t length) except -1:
        """Have the plain handler go on with what has `begun`."""
        me = get_ident()
        self.begun[me] = begun
        try:
            return self.hand_over(length)
        finally:
            self.begun.pop(me, None)

    cdef int unusual(self, reply, Py_ssize_t length) except -1:
        """Have the plain handler go on with a `reply`."""
        return self.go_on(Outcome(reply), length)

    cdef bint fails(self, code) except -1:
        """Answer with an errno. False: that is for the plain handler."""
        if type(code) is not int or not 0 < code <= MOST_ERRNO:
            return False
        self.answer(code, self.channel.now.unique)
        return True

    cdef int done(self) except -1:
        """Answer that it is done. What the program has returned for that is nothing."""
        self.reply = None
        self.answer(0, self.channel.now.unique)
        return 0


cdef class Getattr(Asking):
    cdef int serve(self, Py_ssize_t length) except -1:
        cdef AttrReply reply
        asked, unique = <GetattrIn *> self.body(), self.channel.now.unique
        vnode = self.nodes[self.channel.now.nodeid]
        if asked.getattr_flags & GETATTR_FH:
            self.file_of[asked.fh]  # raises if there is none
        if not self.ask((vnode.cookie, self.context()), length):
            return 0
        entry = self.taken()
        if not usual(entry):
            return self.unusual(entry, length)
        time = lifetime((<EntryAttributes> entry).attr_timeout)
        reply.attr_valid, reply.attr_valid_nsec = time.seconds, time.fraction
        reply.dummy, reply.ino = 0, (<EntryAttributes> entry).st_ino
        if not reply.ino:
            reply.ino = vnode.ino
        tell_attributes(<EntryAttributes> entry, reply.wire)
        self.send(&reply, sizeof(reply), unique)


cdef class Entering(Asking):
    """A handler whose reply has a node."""

    cdef object adopt, forget
    cdef bint names_last

    def __init__(self, serving, *rest):
        super().__init__(serving, *rest)
        vnodes = serving.mount.vnodes
        self.adopt, self.forget = vnodes.adopt, vnodes.forget
        self.names_last = serving.reply.names_last

    cdef bint enters(self, entry, parent) except -1:
        """Whether there is nothing special about a node, and nothing to say against it."""
        if not usual(entry) or (<EntryAttributes> entry).generation:
            return False
        ino = (<EntryAttributes> entry).st_ino
        return ino != 0 and ino != parent.cookie

    cdef int tell(self, entry, parent, name, bint new) except -1:
        """Enter a node, and tell the kernel."""
        cdef EntryReply reply
        vnode, told = self.adopt((<EntryAttributes> entry).st_ino, parent, name, new=new), False
        try:
            tell_entry(<EntryAttributes> entry, self.names_last, &reply.entry)
            enter(vnode, &reply.entry)
            told = self.send(&reply, sizeof(reply), self.channel.now.unique)
        finally:
            if not told:
                self.forget(vnode.nodeid, 1)
        return 0


cdef class Lookup(Entering):
    cdef Py_ssize_t longest

    def __init__(self, serving, *rest):
        super().__init__(serving, *rest)
        self.longest = longest_lookup(serving.mount)

    cdef int serve(self, Py_ssize_t length) except -1:
        name = self.raw_name(length)
        if length > self.longest or name == b"." or name == b"..":
            return self.hand_over(length)
        parent = self.nodes[self.channel.now.nodeid]
        if not self.ask((parent.cookie, name, self.context()), length):
            return 0
        entry = self.taken()
        if not self.enters(entry, parent):
            return self.unusual(entry, length)
        return self.tell(entry, parent, self.name(length), False)


cdef class Mkdir(Entering):
    cdef int serve(self, Py_ssize_t length) except -1:
        asked, parent = <MkdirIn *> self.body(), self.nodes[self.channel.now.nodeid]
        name = self.raw_name(length, sizeof(MkdirIn))
        mode = (S_IFDIR | (asked.mode & 0o7777)) & ~asked.umask
        if not self.ask((parent.cookie, name, mode, self.context(asked.umask)), length):
            return 0
        entry = self.taken()
        if not self.enters(entry, parent):
            return self.unusual(entry, length)
        return self.tell(entry, parent, self.name(length, sizeof(MkdirIn)), True)


cdef class Remove(Asking):
    """UNLINK and RMDIR."""

    cdef int serve(self, Py_ssize_t length) except -1:
        cookie = self.nodes[self.channel.now.nodeid].cookie
        if self.ask((cookie, self.raw_name(length), self.context()), length):
            self.done()
        return 0


cdef class Read(Asking):
    cdef int serve(self, Py_ssize_t length) except -1:
        asked, unique = <DataIn *> self.body(), self.channel.now.unique
        self.nodes[self.channel.now.nodeid]  # raises if there is none
        size = asked.size
        if not self.ask((number(self.file_of[asked.fh]), asked.offset, size), length):
            return 0
        data = self.taken()
        if type(data) is not bytes or PyBytes_GET_SIZE(data) > size:
            return self.unusual(data, length)
        size = <uint32_t> PyBytes_GET_SIZE(data)
        self.send_data(PyBytes_AS_STRING(data), size, size <= SHORT, unique)


cdef class Write(Asking):
    cdef object direct
    cdef Py_ssize_t room

    def __init__(self, serving, *rest):
        super().__init__(serving, *rest)
        self.direct = serving.files.direct
        self.room = PyByteArray_GET_SIZE(self.buffer) - sizeof(InHeader) - WRITE_IN_SIZE

    cdef int serve(self, Py_ssize_t length) except -1:
        cdef WriteReply reply
        asked = <DataIn *> self.body()
        if asked.flags & KILL_SUIDGID and asked.fh in self.direct:
            return self.hand_over(length)
        self.nodes[self.channel.now.nodeid]  # raises if there is none
        size = asked.size
        data = PyBytes_FromStringAndSize(
            <char *> self.body() + WRITE_IN_SIZE, min(<Py_ssize_t> size, self.room)
        )
        if not self.ask((number(self.file_of[asked.fh]), asked.offset, data), length):
            return 0
        amount = self.taken()
        if type(amount) is not int or amount != size:
            return self.unusual(amount, length)
        reply.size, reply.padding = size, 0
        self.send(&reply, sizeof(reply), self.channel.now.unique)


cdef inline object number(file):
    """An open file, as programs know it."""
    return NO_FH if file is None else file


cdef class Opening(Entering):
    """A handler whose reply has an open file."""

    cdef object files, server_flags
    cdef uint32_t always
    cdef bint usual_opens

    def __init__(self, serving, *rest):
        super().__init__(serving, *rest)
        self.files, self.server_flags = serving.files, serving.open_flags
        self.always = serving.reply.open_flags(None)
        self.usual_opens = self.files.backing is None and serving.mount.tracks_opens

    cdef int tell_opened(self, vnode, info, OpenOut *out) except -1:
        """Enter an open file of which the program has said `info`."""
        flags = self.always
        if type(info) is FileInfo:
            opened = <FileInfo> info
            fh = opened.fh
            flags |= (
                DIRECT_IO * opened.direct_io
                | KEEP_CACHE * opened.keep_cache
                | NONSEEKABLE * opened.nonseekable
            )
        else:
            fh, flags = info, flags | KEEP_CACHE
        out.fh, out.open_flags, out.backing_id = self.files.open(vnode, fh), flags, 0
        if flags & DIRECT_IO:
            self.files.direct.add(out.fh)
        return 0

    cdef bint opens(self, info) except -1:
        """Whether this says usual things of an open file: pyfuse3 has more than its number."""
        return type(info) is FileInfo if self.acquire is None else type(info) is int


cdef class Open(Opening):
    cdef int serve(self, Py_ssize_t length) except -1:
        cdef OpenReply reply
        if not self.usual_opens:
            return self.hand_over(length)
        vnode = self.nodes[self.channel.now.nodeid]
        flags = self.server_flags((<OpenIn *> self.body()).flags)
        if not self.ask((vnode.cookie, flags, self.context()), length):
            return 0
        info = self.taken()
        if not self.opens(info):
            return self.unusual(info, length)
        told = False
        self.tell_opened(vnode, info, &reply.opened)
        try:
            told = self.send(&reply, sizeof(reply), self.channel.now.unique)
        finally:
            if not told:  # nobody waits for this open file any more
                self.files.take_back(reply.opened.fh)


cdef class Create(Opening):
    cdef int serve(self, Py_ssize_t length) except -1:
        cdef CreateReply reply
        asked, parent = <CreateIn *> self.body(), self.nodes[self.channel.now.nodeid]
        if not self.usual_opens:
            return self.hand_over(length)
        name = self.raw_name(length, sizeof(CreateIn))
        mode = (S_IFREG | (asked.mode & 0o7777)) & ~asked.umask
        flags = self.server_flags(asked.flags & ~OF_CREATE_FLAGS)
        if not self.ask((parent.cookie, name, mode, flags, self.context(asked.umask)), length):
            return 0
        made = self.taken()
        if not (
            type(made) is tuple
            and len(<tuple> made) == 2
            and self.opens(made[0])
            and self.enters(made[1], parent)
        ):
            return self.unusual(made, length)
        entry, name, told = <EntryAttributes> made[1], self.name(length, sizeof(CreateIn)), False
        vnode = self.adopt(entry.st_ino, parent, name, new=True)
        reply.opened.fh = 0  # which is none
        try:
            self.tell_opened(vnode, made[0], &reply.opened)
            tell_entry(entry, self.names_last, &reply.entry)
            enter(vnode, &reply.entry)
            told = self.send(&reply, sizeof(reply), self.channel.now.unique)
        finally:
            if not told:  # give back what was counted
                self.files.take_back(reply.opened.fh)
                self.forget(vnode.nodeid, 1)


cdef class Release(Asking):
    cdef object close

    def __init__(self, serving, *rest):
        super().__init__(serving, *rest)
        self.close = serving.files.close

    cdef int serve(self, Py_ssize_t length) except -1:
        fh = (<ReleaseIn *> self.body()).fh
        self.nodes[self.channel.now.nodeid]  # raises if there is none
        if self.ask((number(self.file_of[fh]),), length):
            self.close(fh)
            self.done()
        return 0

    cdef bint fails(self, code) except -1:
        return False  # it is closed all the same, by the plain handler


cdef class Flush(Asking):
    cdef int serve(self, Py_ssize_t length) except -1:
        self.nodes[self.channel.now.nodeid]  # raises if there is none
        if self.ask((number(self.file_of[(<FlushIn *> self.body()).fh]),), length):
            self.done()
        return 0


HANDLERS = {
    Opcode.LOOKUP: (Lookup, "lookup"),
    Opcode.GETATTR: (Getattr, "getattr"),
    Opcode.MKDIR: (Mkdir, "mkdir"),
    Opcode.UNLINK: (Remove, "unlink"),
    Opcode.RMDIR: (Remove, "rmdir"),
    Opcode.OPEN: (Open, "open"),
    Opcode.CREATE: (Create, "create"),
    Opcode.READ: (Read, "read"),
    Opcode.WRITE: (Write, "write"),
    Opcode.FLUSH: (Flush, "flush"),
    Opcode.RELEASE: (Release, "release"),
}
"""The kinds of handlers that there are, by opcode, and which of the program's each calls. Each is
made of what the handlers of a channel share, of the plain one, of the program's, of where to leave
what has begun for the plain one (by thread), and of the lock."""
