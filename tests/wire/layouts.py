"""What the FUSE protocol says, written down a second time: the tests compare the tables with this.

Sizes, offsets and numbers were taken from compiling the header of protocol 7.45 on x86-64.
"""

# C struct -> size, and each member as name:type@offset, in the order of the header.
STRUCTS = {
    "fuse_attr": (
        88,
        "ino:u64@0 size:u64@8 blocks:u64@16 atime:u64@24 mtime:u64@32 ctime:u64@40 "
        "atimensec:u32@48 mtimensec:u32@52 ctimensec:u32@56 mode:u32@60 nlink:u32@64 "
        "uid:u32@68 gid:u32@72 rdev:u32@76 blksize:u32@80 flags:u32@84",
    ),
    "fuse_sx_time": (16, "tv_sec:s64@0 tv_nsec:u32@8 __reserved:s32@12"),
    "fuse_statx": (
        256,
        "mask:u32@0 blksize:u32@4 attributes:u64@8 nlink:u32@16 uid:u32@20 gid:u32@24 "
        "mode:u16@28 __spare0:u16[1]@30 ino:u64@32 size:u64@40 blocks:u64@48 "
        "attributes_mask:u64@56 atime:fuse_sx_time@64 btime:fuse_sx_time@80 "
        "ctime:fuse_sx_time@96 mtime:fuse_sx_time@112 rdev_major:u32@128 rdev_minor:u32@132 "
        "dev_major:u32@136 dev_minor:u32@140 __spare2:u64[14]@144",
    ),
    "fuse_kstatfs": (
        80,
        "blocks:u64@0 bfree:u64@8 bavail:u64@16 files:u64@24 ffree:u64@32 bsize:u32@40 "
        "namelen:u32@44 frsize:u32@48 padding:u32@52 spare:u32[6]@56",
    ),
    "fuse_file_lock": (24, "start:u64@0 end:u64@8 type:u32@16 pid:u32@20"),
    "fuse_entry_out": (
        128,
        "nodeid:u64@0 generation:u64@8 entry_valid:u64@16 attr_valid:u64@24 "
        "entry_valid_nsec:u32@32 attr_valid_nsec:u32@36 attr:fuse_attr@40",
    ),
    "fuse_forget_in": (8, "nlookup:u64@0"),
    "fuse_forget_one": (16, "nodeid:u64@0 nlookup:u64@8"),
    "fuse_batch_forget_in": (8, "count:u32@0 dummy:u32@4"),
    "fuse_getattr_in": (16, "getattr_flags:u32@0 dummy:u32@4 fh:u64@8"),
    "fuse_attr_out": (104, "attr_valid:u64@0 attr_valid_nsec:u32@8 dummy:u32@12 attr:fuse_attr@16"),
    "fuse_statx_in": (
        24,
        "getattr_flags:u32@0 reserved:u32@4 fh:u64@8 sx_flags:u32@16 sx_mask:u32@20",
    ),
    "fuse_statx_out": (
        288,
        "attr_valid:u64@0 attr_valid_nsec:u32@8 flags:u32@12 spare:u64[2]@16 stat:fuse_statx@32",
    ),
    "fuse_mknod_in": (16, "mode:u32@0 rdev:u32@4 umask:u32@8 padding:u32@12"),
    "fuse_mkdir_in": (8, "mode:u32@0 umask:u32@4"),
    "fuse_rename_in": (8, "newdir:u64@0"),
    "fuse_rename2_in": (16, "newdir:u64@0 flags:u32@8 padding:u32@12"),
    "fuse_link_in": (8, "oldnodeid:u64@0"),
    "fuse_setattr_in": (
        88,
        "valid:u32@0 padding:u32@4 fh:u64@8 size:u64@16 lock_owner:u64@24 atime:u64@32 "
        "mtime:u64@40 ctime:u64@48 atimensec:u32@56 mtimensec:u32@60 ctimensec:u32@64 "
        "mode:u32@68 unused4:u32@72 uid:u32@76 gid:u32@80 unused5:u32@84",
    ),
    "fuse_open_in": (8, "flags:u32@0 open_flags:u32@4"),
    "fuse_create_in": (16, "flags:u32@0 mode:u32@4 umask:u32@8 open_flags:u32@12"),
    "fuse_open_out": (16, "fh:u64@0 open_flags:u32@8 backing_id:s32@12"),
    "fuse_release_in": (24, "fh:u64@0 flags:u32@8 release_flags:u32@12 lock_owner:u64@16"),
    "fuse_flush_in": (24, "fh:u64@0 unused:u32@8 padding:u32@12 lock_owner:u64@16"),
    "fuse_read_in": (
        40,
        "fh:u64@0 offset:u64@8 size:u32@16 read_flags:u32@20 lock_owner:u64@24 flags:u32@32 "
        "padding:u32@36",
    ),
    "fuse_write_in": (
        40,
        "fh:u64@0 offset:u64@8 size:u32@16 write_flags:u32@20 lock_owner:u64@24 flags:u32@32 "
        "padding:u32@36",
    ),
    "fuse_write_out": (8, "size:u32@0 padding:u32@4"),
    "fuse_statfs_out": (80, "st:fuse_kstatfs@0"),
    "fuse_fsync_in": (16, "fh:u64@0 fsync_flags:u32@8 padding:u32@12"),
    "fuse_setxattr_in": (16, "size:u32@0 flags:u32@4 setxattr_flags:u32@8 padding:u32@12"),
    "fuse_getxattr_in": (8, "size:u32@0 padding:u32@4"),
    "fuse_getxattr_out": (8, "size:u32@0 padding:u32@4"),
    "fuse_lk_in": (48, "fh:u64@0 owner:u64@8 lk:fuse_file_lock@16 lk_flags:u32@40 padding:u32@44"),
    "fuse_lk_out": (24, "lk:fuse_file_lock@0"),
    "fuse_access_in": (8, "mask:u32@0 padding:u32@4"),
    "fuse_init_in": (
        64,
        "major:u32@0 minor:u32@4 max_readahead:u32@8 flags:u32@12 flags2:u32@16 unused:u32[11]@20",
    ),
    "fuse_init_out": (
        64,
        "major:u32@0 minor:u32@4 max_readahead:u32@8 flags:u32@12 max_background:u16@16 "
        "congestion_threshold:u16@18 max_write:u32@20 time_gran:u32@24 max_pages:u16@28 "
        "map_alignment:u16@30 flags2:u32@32 max_stack_depth:u32@36 request_timeout:u16@40 "
        "unused:u16[11]@42",
    ),
    "cuse_init_in": (16, "major:u32@0 minor:u32@4 unused:u32@8 flags:u32@12"),
    "cuse_init_out": (
        72,
        "major:u32@0 minor:u32@4 unused:u32@8 flags:u32@12 max_read:u32@16 max_write:u32@20 "
        "dev_major:u32@24 dev_minor:u32@28 spare:u32[10]@32",
    ),
    "fuse_interrupt_in": (8, "unique:u64@0"),
    "fuse_bmap_in": (16, "block:u64@0 blocksize:u32@8 padding:u32@12"),
    "fuse_bmap_out": (8, "block:u64@0"),
    "fuse_ioctl_in": (
        32,
        "fh:u64@0 flags:u32@8 cmd:u32@12 arg:u64@16 in_size:u32@24 out_size:u32@28",
    ),
    "fuse_ioctl_iovec": (16, "base:u64@0 len:u64@8"),
    "fuse_ioctl_out": (16, "result:s32@0 flags:u32@4 in_iovs:u32@8 out_iovs:u32@12"),
    "fuse_poll_in": (24, "fh:u64@0 kh:u64@8 flags:u32@16 events:u32@20"),
    "fuse_poll_out": (8, "revents:u32@0 padding:u32@4"),
    "fuse_notify_poll_wakeup_out": (8, "kh:u64@0"),
    "fuse_fallocate_in": (32, "fh:u64@0 offset:u64@8 length:u64@16 mode:u32@24 padding:u32@28"),
    "fuse_in_header": (
        40,
        "len:u32@0 opcode:u32@4 unique:u64@8 nodeid:u64@16 uid:u32@24 gid:u32@28 pid:u32@32 "
        "total_extlen:u16@36 padding:u16@38",
    ),
    "fuse_out_header": (16, "len:u32@0 error:s32@4 unique:u64@8"),
    "fuse_dirent": (24, "ino:u64@0 off:u64@8 namelen:u32@16 type:u32@20 name:char[]@24"),
    "fuse_direntplus": (152, "entry_out:fuse_entry_out@0 dirent:fuse_dirent@128"),
    "fuse_notify_inval_inode_out": (24, "ino:u64@0 off:s64@8 len:s64@16"),
    "fuse_notify_inval_entry_out": (16, "parent:u64@0 namelen:u32@8 flags:u32@12"),
    "fuse_notify_delete_out": (24, "parent:u64@0 child:u64@8 namelen:u32@16 padding:u32@20"),
    "fuse_notify_store_out": (24, "nodeid:u64@0 offset:u64@8 size:u32@16 padding:u32@20"),
    "fuse_notify_retrieve_out": (
        32,
        "notify_unique:u64@0 nodeid:u64@8 offset:u64@16 size:u32@24 padding:u32@28",
    ),
    "fuse_notify_retrieve_in": (
        40,
        "dummy1:u64@0 offset:u64@8 size:u32@16 dummy2:u32@20 dummy3:u64@24 dummy4:u64@32",
    ),
    "fuse_notify_prune_out": (16, "count:u32@0 padding:u32@4 spare:u64@8"),
    "fuse_backing_map": (16, "fd:s32@0 flags:u32@4 padding:u64@8"),
    "fuse_lseek_in": (24, "fh:u64@0 offset:u64@8 whence:u32@16 padding:u32@20"),
    "fuse_lseek_out": (8, "offset:u64@0"),
    "fuse_copy_file_range_in": (
        56,
        "fh_in:u64@0 off_in:u64@8 nodeid_out:u64@16 fh_out:u64@24 off_out:u64@32 len:u64@40 "
        "flags:u64@48",
    ),
    "fuse_copy_file_range_out": (8, "bytes_copied:u64@0"),
    "fuse_setupmapping_in": (40, "fh:u64@0 foffset:u64@8 len:u64@16 flags:u64@24 moffset:u64@32"),
    "fuse_removemapping_in": (4, "count:u32@0"),
    "fuse_removemapping_one": (16, "moffset:u64@0 len:u64@8"),
    "fuse_syncfs_in": (8, "padding:u64@0"),
    "fuse_secctx": (8, "size:u32@0 padding:u32@4"),
    "fuse_secctx_header": (8, "size:u32@0 nr_secctx:u32@4"),
    "fuse_ext_header": (8, "size:u32@0 type:u32@4"),
    "fuse_supp_groups": (4, "nr_groups:u32@0 groups:u32[]@4"),
    "fuse_uring_ent_in_out": (
        32,
        "flags:u64@0 commit_id:u64@8 payload_sz:u32@16 padding:u32@20 reserved:u64@24",
    ),
    "fuse_uring_req_header": (
        288,
        "in_out:char[128]@0 op_in:char[128]@128 ring_ent_in_out:fuse_uring_ent_in_out@256",
    ),
    "fuse_uring_cmd_req": (24, "flags:u64@0 commit_id:u64@8 qid:u16@16 padding:u8[6]@18"),
}

OPCODES = {
    "FUSE_LOOKUP": 1,
    "FUSE_FORGET": 2,
    "FUSE_GETATTR": 3,
    "FUSE_SETATTR": 4,
    "FUSE_READLINK": 5,
    "FUSE_SYMLINK": 6,
    "FUSE_MKNOD": 8,
    "FUSE_MKDIR": 9,
    "FUSE_UNLINK": 10,
    "FUSE_RMDIR": 11,
    "FUSE_RENAME": 12,
    "FUSE_LINK": 13,
    "FUSE_OPEN": 14,
    "FUSE_READ": 15,
    "FUSE_WRITE": 16,
    "FUSE_STATFS": 17,
    "FUSE_RELEASE": 18,
    "FUSE_FSYNC": 20,
    "FUSE_SETXATTR": 21,
    "FUSE_GETXATTR": 22,
    "FUSE_LISTXATTR": 23,
    "FUSE_REMOVEXATTR": 24,
    "FUSE_FLUSH": 25,
    "FUSE_INIT": 26,
    "FUSE_OPENDIR": 27,
    "FUSE_READDIR": 28,
    "FUSE_RELEASEDIR": 29,
    "FUSE_FSYNCDIR": 30,
    "FUSE_GETLK": 31,
    "FUSE_SETLK": 32,
    "FUSE_SETLKW": 33,
    "FUSE_ACCESS": 34,
    "FUSE_CREATE": 35,
    "FUSE_INTERRUPT": 36,
    "FUSE_BMAP": 37,
    "FUSE_DESTROY": 38,
    "FUSE_IOCTL": 39,
    "FUSE_POLL": 40,
    "FUSE_NOTIFY_REPLY": 41,
    "FUSE_BATCH_FORGET": 42,
    "FUSE_FALLOCATE": 43,
    "FUSE_READDIRPLUS": 44,
    "FUSE_RENAME2": 45,
    "FUSE_LSEEK": 46,
    "FUSE_COPY_FILE_RANGE": 47,
    "FUSE_SETUPMAPPING": 48,
    "FUSE_REMOVEMAPPING": 49,
    "FUSE_SYNCFS": 50,
    "FUSE_TMPFILE": 51,
    "FUSE_STATX": 52,
    "FUSE_COPY_FILE_RANGE_64": 53,
    "CUSE_INIT": 4096,
}

# Operation: what its request holds -> what its reply holds. A struct goes by its C name, `name` is
# a string with NUL, `data` is bytes; `data[size]`: as many as the member `size` says, and likewise
# `struct[count]`. An operation without arrow gets no reply.
SHAPES = """
    LOOKUP name -> fuse_entry_out
    FORGET fuse_forget_in
    GETATTR fuse_getattr_in -> fuse_attr_out
    SETATTR fuse_setattr_in -> fuse_attr_out
    READLINK -> data
    SYMLINK name name -> fuse_entry_out
    MKNOD fuse_mknod_in name -> fuse_entry_out
    MKDIR fuse_mkdir_in name -> fuse_entry_out
    UNLINK name ->
    RMDIR name ->
    RENAME fuse_rename_in name name ->
    LINK fuse_link_in name -> fuse_entry_out
    OPEN fuse_open_in -> fuse_open_out
    READ fuse_read_in -> data
    WRITE fuse_write_in data[size] -> fuse_write_out
    STATFS -> fuse_statfs_out
    RELEASE fuse_release_in ->
    FSYNC fuse_fsync_in ->
    SETXATTR fuse_setxattr_in name data[size] ->
    GETXATTR fuse_getxattr_in name -> fuse_getxattr_out data
    LISTXATTR fuse_getxattr_in -> fuse_getxattr_out data
    REMOVEXATTR name ->
    FLUSH fuse_flush_in ->
    INIT fuse_init_in -> fuse_init_out
    OPENDIR fuse_open_in -> fuse_open_out
    READDIR fuse_read_in -> data
    RELEASEDIR fuse_release_in ->
    FSYNCDIR fuse_fsync_in ->
    GETLK fuse_lk_in -> fuse_lk_out
    SETLK fuse_lk_in ->
    SETLKW fuse_lk_in ->
    ACCESS fuse_access_in ->
    CREATE fuse_create_in name -> fuse_entry_out+fuse_open_out
    INTERRUPT fuse_interrupt_in
    BMAP fuse_bmap_in -> fuse_bmap_out
    DESTROY ->
    IOCTL fuse_ioctl_in data[in_size] -> fuse_ioctl_out data
    POLL fuse_poll_in -> fuse_poll_out
    NOTIFY_REPLY fuse_notify_retrieve_in data[size]
    BATCH_FORGET fuse_batch_forget_in fuse_forget_one[count]
    FALLOCATE fuse_fallocate_in ->
    READDIRPLUS fuse_read_in -> data
    RENAME2 fuse_rename2_in name name ->
    LSEEK fuse_lseek_in -> fuse_lseek_out
    COPY_FILE_RANGE fuse_copy_file_range_in -> fuse_write_out
    SETUPMAPPING fuse_setupmapping_in ->
    REMOVEMAPPING fuse_removemapping_in fuse_removemapping_one[count] ->
    SYNCFS fuse_syncfs_in ->
    TMPFILE fuse_create_in name -> fuse_entry_out+fuse_open_out
    STATX fuse_statx_in -> fuse_statx_out
    COPY_FILE_RANGE_64 fuse_copy_file_range_in -> fuse_copy_file_range_out
    CUSE_INIT cuse_init_in -> cuse_init_out data
"""

NOTIFY_CODES = {
    "FUSE_NOTIFY_POLL": 1,
    "FUSE_NOTIFY_INVAL_INODE": 2,
    "FUSE_NOTIFY_INVAL_ENTRY": 3,
    "FUSE_NOTIFY_STORE": 4,
    "FUSE_NOTIFY_RETRIEVE": 5,
    "FUSE_NOTIFY_DELETE": 6,
    "FUSE_NOTIFY_RESEND": 7,
    "FUSE_NOTIFY_INC_EPOCH": 8,
    "FUSE_NOTIFY_PRUNE": 9,
}

# Flags, each with its bit.
INIT_FLAGS = (
    "ASYNC_READ 0 POSIX_LOCKS 1 FILE_OPS 2 ATOMIC_O_TRUNC 3 EXPORT_SUPPORT 4 BIG_WRITES 5 "
    "DONT_MASK 6 SPLICE_WRITE 7 SPLICE_MOVE 8 SPLICE_READ 9 FLOCK_LOCKS 10 HAS_IOCTL_DIR 11 "
    "AUTO_INVAL_DATA 12 DO_READDIRPLUS 13 READDIRPLUS_AUTO 14 ASYNC_DIO 15 WRITEBACK_CACHE 16 "
    "NO_OPEN_SUPPORT 17 PARALLEL_DIROPS 18 HANDLE_KILLPRIV 19 POSIX_ACL 20 ABORT_ERROR 21 "
    "MAX_PAGES 22 CACHE_SYMLINKS 23 NO_OPENDIR_SUPPORT 24 EXPLICIT_INVAL_DATA 25 MAP_ALIGNMENT "
    "26 SUBMOUNTS 27 HANDLE_KILLPRIV_V2 28 SETXATTR_EXT 29 INIT_EXT 30 INIT_RESERVED 31 "
    "SECURITY_CTX 32 HAS_INODE_DAX 33 CREATE_SUPP_GROUP 34 HAS_EXPIRE_ONLY 35 "
    "DIRECT_IO_ALLOW_MMAP 36 PASSTHROUGH 37 NO_EXPORT_SUPPORT 38 HAS_RESEND 39 ALLOW_IDMAP 40 "
    "OVER_IO_URING 41 REQUEST_TIMEOUT 42"
)
FLAGS = {
    "FATTR_": "MODE 0 UID 1 GID 2 SIZE 3 ATIME 4 MTIME 5 FH 6 ATIME_NOW 7 MTIME_NOW 8 LOCKOWNER 9 "
    "CTIME 10 KILL_SUIDGID 11",
    "FOPEN_": "DIRECT_IO 0 KEEP_CACHE 1 NONSEEKABLE 2 CACHE_DIR 3 STREAM 4 NOFLUSH 5 "
    "PARALLEL_DIRECT_WRITES 6 PASSTHROUGH 7",
    "FUSE_OPEN_": "KILL_SUIDGID 0",
    "FUSE_RELEASE_": "FLUSH 0 FLOCK_UNLOCK 1",
    "FUSE_GETATTR_": "FH 0",
    "FUSE_LK_": "FLOCK 0",
    "FUSE_WRITE_": "CACHE 0 LOCKOWNER 1 KILL_SUIDGID 2",
    "FUSE_READ_": "LOCKOWNER 1",
    "FUSE_IOCTL_": "COMPAT 0 UNRESTRICTED 1 RETRY 2 32BIT 3 DIR 4 COMPAT_X32 5",
    "FUSE_POLL_": "SCHEDULE_NOTIFY 0",
    "FUSE_FSYNC_": "FDATASYNC 0",
    "FUSE_ATTR_": "SUBMOUNT 0 DAX 1",
    "FUSE_SETXATTR_": "ACL_KILL_SGID 0",
    "FUSE_": "EXPIRE_ONLY 0 UNIQUE_RESEND 63",
    "FUSE_SETUPMAPPING_FLAG_": "WRITE 0 READ 1",
    "CUSE_": "UNRESTRICTED_IOCTL 0",
}

NUMBERS = {
    "FUSE_KERNEL_VERSION": 7,
    "FUSE_ROOT_ID": 1,
    "FUSE_MIN_READ_BUFFER": 8192,
    "FUSE_IOCTL_MAX_IOV": 256,
    "CUSE_INIT_INFO_MAX": 4096,
    "FUSE_MAX_NR_SECCTX": 31,
    "FUSE_EXT_GROUPS": 32,
    "FUSE_INVALID_UIDGID": 0xFFFFFFFF,
    "FUSE_URING_IN_OUT_HEADER_SZ": 128,
    "FUSE_URING_OP_IN_OUT_SZ": 128,
    "FUSE_IO_URING_CMD_REGISTER": 1,
    "FUSE_IO_URING_CMD_COMMIT_AND_FETCH": 2,
    "FUSE_COMPAT_INIT_OUT_SIZE": 8,
    "FUSE_COMPAT_22_INIT_OUT_SIZE": 24,
    "FUSE_COMPAT_SETXATTR_IN_SIZE": 8,
    "FUSE_INIT_BSWAP_RESERVED": 436207616,
    "CUSE_INIT_BSWAP_RESERVED": 1048576,
    "FUSE_DEV_IOC_CLONE": 0x8004E500,
    "FUSE_DEV_IOC_BACKING_OPEN": 0x4010E501,
    "FUSE_DEV_IOC_BACKING_CLOSE": 0x4004E502,
    "FUSE_DEV_IOC_SYNC_INIT": 0xE503,
}


def bits(prefix: str, text: str) -> dict[str, int]:
    words = text.split()
    return {prefix + name: 1 << int(bit) for name, bit in zip(words[::2], words[1::2], strict=True)}


CONSTANTS = {**OPCODES, **NOTIFY_CODES, **NUMBERS, **bits("FUSE_", INIT_FLAGS)}
for prefix, text in FLAGS.items():
    CONSTANTS |= bits(prefix, text)

# The minor version that brought a struct, a member (or its offset) or a constant, when later than
# 7.31. A header of that very minor may lack it still: some came while the number stood.
NEWER = {
    32: "fuse_attr.flags FUSE_SUBMOUNTS FUSE_ATTR_SUBMOUNT",
    33: "fuse_open_in.open_flags fuse_create_in.open_flags fuse_setxattr_in "
    "FUSE_HANDLE_KILLPRIV_V2 FUSE_SETXATTR_EXT FATTR_KILL_SUIDGID FUSE_WRITE_KILL_SUIDGID "
    "FUSE_OPEN_KILL_SUIDGID FUSE_SETXATTR_ACL_KILL_SGID FUSE_COMPAT_SETXATTR_IN_SIZE "
    "FUSE_INIT_BSWAP_RESERVED CUSE_INIT_BSWAP_RESERVED",
    34: "fuse_syncfs_in FUSE_SYNCFS",
    35: "FOPEN_NOFLUSH",
    36: "fuse_init_in fuse_init_out.flags2 fuse_secctx fuse_secctx_header FUSE_INIT_EXT "
    "FUSE_INIT_RESERVED FUSE_SECURITY_CTX FUSE_HAS_INODE_DAX FUSE_ATTR_DAX",
    37: "FUSE_TMPFILE",
    38: "fuse_in_header.total_extlen fuse_in_header.padding fuse_ext_header fuse_supp_groups "
    "fuse_notify_inval_entry_out.flags FUSE_CREATE_SUPP_GROUP FUSE_HAS_EXPIRE_ONLY "
    "FOPEN_PARALLEL_DIRECT_WRITES FUSE_EXPIRE_ONLY FUSE_MAX_NR_SECCTX FUSE_EXT_GROUPS",
    39: "fuse_sx_time fuse_statx fuse_statx_in fuse_statx_out FUSE_STATX FUSE_DIRECT_IO_ALLOW_MMAP",
    40: "fuse_init_out.max_stack_depth fuse_open_out.backing_id fuse_backing_map "
    "FUSE_PASSTHROUGH FUSE_NO_EXPORT_SUPPORT FUSE_HAS_RESEND FOPEN_PASSTHROUGH "
    "FUSE_NOTIFY_RESEND FUSE_UNIQUE_RESEND FUSE_DEV_IOC_BACKING_OPEN "
    "FUSE_DEV_IOC_BACKING_CLOSE",
    41: "FUSE_ALLOW_IDMAP FUSE_INVALID_UIDGID",
    42: "fuse_uring_ent_in_out fuse_uring_req_header fuse_uring_cmd_req FUSE_OVER_IO_URING "
    "FUSE_URING_IN_OUT_HEADER_SZ FUSE_URING_OP_IN_OUT_SZ FUSE_IO_URING_CMD_REGISTER "
    "FUSE_IO_URING_CMD_COMMIT_AND_FETCH",
    43: "fuse_init_out.request_timeout fuse_init_out.unused FUSE_REQUEST_TIMEOUT",
    44: "FUSE_NOTIFY_INC_EPOCH",
    45: "fuse_copy_file_range_out fuse_notify_prune_out FUSE_COPY_FILE_RANGE_64 "
    "FUSE_NOTIFY_PRUNE FUSE_DEV_IOC_SYNC_INIT",
}
SINCE = {name: minor for minor, names in NEWER.items() for name in names.split()}


def since(name: str) -> int:
    """The minor version that brought a constant, struct or struct.member; 31 if not later."""
    return max(SINCE.get(name, 31), SINCE.get(name.partition(".")[0], 31))


def members(name: str) -> list[tuple[str, str, int]]:
    """The members of a C struct, those of nested structs included: C path, C type, offset.

    A flexible array at the end is not among them: it has no size.
    """
    found = []
    for item in STRUCTS[name][1].split():
        member, _, rest = item.partition(":")
        kind, _, offset = rest.partition("@")
        if kind in STRUCTS:
            found += [
                (f"{member}.{path}", inner, int(offset) + at) for path, inner, at in members(kind)
            ]
        elif not kind.endswith("[]"):
            found.append((member, kind, int(offset)))
    return found
