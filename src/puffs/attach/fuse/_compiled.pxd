"""What the compiled modules share: messages as they look in memory, channels, handlers."""

from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t

cdef enum:
    WRITE_IN_SIZE = 40
    WIRE_SIZE = 80

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

cdef packed struct SetattrIn:
    uint32_t valid
    uint32_t padding
    uint64_t fh
    uint64_t size
    uint64_t lock_owner
    int64_t atime
    int64_t mtime
    int64_t ctime
    uint32_t atimensec
    uint32_t mtimensec
    uint32_t ctimensec
    uint32_t mode
    uint32_t unused4
    uint32_t uid
    uint32_t gid
    uint32_t unused5

cdef packed struct OpenIn:
    uint32_t flags
    uint32_t open_flags

cdef packed struct CreateIn:
    uint32_t flags
    uint32_t mode
    uint32_t umask
    uint32_t open_flags

cdef packed struct MkdirIn:
    uint32_t mode
    uint32_t umask

cdef packed struct ReleaseIn:
    uint64_t fh
    uint32_t flags
    uint32_t release_flags
    uint64_t lock_owner

cdef packed struct FlushIn:
    uint64_t fh
    uint32_t unused
    uint32_t padding
    uint64_t lock_owner

cdef packed struct DataIn:  # the members of fuse_read_in and fuse_write_in that are looked at
    uint64_t fh
    uint64_t offset
    uint32_t size
    uint32_t flags

cdef packed struct WriteReply:
    OutHeader header
    uint32_t size
    uint32_t padding

cdef packed struct Wire:  # `fuse_attr` without its first member: see `server.attr.WIRE`
    uint64_t size
    uint64_t blocks
    int64_t atime
    int64_t mtime
    int64_t ctime
    uint32_t atimensec
    uint32_t mtimensec
    uint32_t ctimensec
    uint32_t mode
    uint32_t nlink
    uint32_t uid
    uint32_t gid
    uint32_t rdev
    uint32_t blksize
    uint32_t flags

cdef packed struct AttrReply:
    OutHeader header
    uint64_t attr_valid
    uint32_t attr_valid_nsec
    uint32_t dummy
    uint64_t ino
    unsigned char wire[80]

cdef packed struct EntryOut:
    uint64_t nodeid
    uint64_t generation
    uint64_t entry_valid
    uint64_t attr_valid
    uint32_t entry_valid_nsec
    uint32_t attr_valid_nsec
    uint64_t ino
    unsigned char wire[80]

cdef packed struct EntryReply:
    OutHeader header
    EntryOut entry

cdef packed struct OpenOut:
    uint64_t fh
    uint32_t open_flags
    int32_t backing_id

cdef packed struct OpenReply:
    OutHeader header
    OpenOut opened

cdef packed struct CreateReply:
    OutHeader header
    EntryOut entry
    OpenOut opened

cdef packed struct Dirent:
    uint64_t ino
    uint64_t off
    uint32_t namelen
    uint32_t type

cdef packed struct ForgetOne:
    uint64_t nodeid
    uint64_t nlookup


cdef class Current:
    cdef InHeader now
    cdef object other  # in place of it: an operation goes on whose request has left the buffer
    cdef object kept_cred
    cdef InHeader kept_for
    cdef object kept_maker
    cdef InHeader maker_for
    cdef uint32_t kept_umask

    cdef void take(self, const InHeader *header) noexcept
    cdef object caller(self)
    cdef object maker(self, uint32_t umask)


cdef class Handler:
    cdef Current channel
    cdef object buffer, plain, nodes, file_of
    cdef unsigned char *request
    cdef int fd

    cdef int serve(self, Py_ssize_t length) except -1
    cdef void *body(self) noexcept
    cdef str name(self, Py_ssize_t length, Py_ssize_t before=*)
    cdef bytes raw_name(self, Py_ssize_t length, Py_ssize_t before=*)
    cdef int hand_over(self, Py_ssize_t length) except -1
    cdef bint send(self, void *message, size_t size, uint64_t unique) except -1
    cdef bint send_data(self, void *data, size_t size, bint quick, uint64_t unique) except -1
    cdef bint written(self, ssize_t done, uint64_t unique) except -1
    cdef bint answer(self, int code, uint64_t unique) except -1


cdef class Answer:
    cdef object adopt, forget, replies, parent, message
    cdef list told_of
    cdef readonly bint names_last
    cdef size_t longest, room, used

    cdef bint put(self, bytes name, object node, EntryOut *out, uint64_t next) except -1


cdef int enter(object vnode, EntryOut *out) except -1
