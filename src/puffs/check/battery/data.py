"""Contents of files: reading, writing, appending, holes, truncation, mapping."""

import errno
import mmap
import os
import random

from puffs.check.expect import equal, expect, leave_out, same_data
from puffs.check.registry import battery
from puffs.check.target import Target, append, read_at, write_at

check = battery("data")

MIB = 1 << 20
FILE = "create read write"


@check("write-and-read-back", "write(2), read(2): what was written is read", needs=FILE)
def _(t: Target) -> None:
    with t.open("f", "w+b") as file:
        write_at(file, 0, b"content")
        equal("content through the same open file", read_at(file, 0), b"content")
        equal("size of the open file", t.fstat(file).st_size, 7)
    equal("content through another one", t.read("f"), b"content")
    equal("size", t.stat("f").st_size, 7)


@check("read-at-the-end", "read(2): 0 bytes at and past the end of the file", needs=FILE)
def _(t: Target) -> None:
    t.write("f", b"content")
    with t.open("f") as file:
        equal("read across the end", read_at(file, 4, 100), b"ent")
        for offset in (7, 8, 4096, 1 << 40):
            equal(f"read at {offset}", read_at(file, offset, 100), b"")
    t.write("empty")
    equal("read of an empty file", t.read("empty"), b"")


@check(
    "read-at-every-offset",
    "pread(2): the bytes from an offset on, whatever the offset and the size",
    needs=FILE,
)
def _(t: Target) -> None:
    data = random.Random(1).randbytes(3 * 4096 + 5)
    t.write("f", data)
    with t.open("f") as file:
        for offset in (0, 1, 511, 4095, 4096, 4097, 8191, 12288, 12292):
            for size in (1, 2, 4095, 4096, 4097, 20000):
                same_data(
                    f"read of {size} bytes at {offset}",
                    read_at(file, offset, size),
                    data[offset : offset + size],
                )


@check(
    "write-in-the-middle",
    "pwrite(2): what is around the written bytes stays, and so does the size",
    needs=FILE,
)
def _(t: Target) -> None:
    for offset, size in ((0, 1), (1, 10), (4095, 2), (4096, 4096), (8190, 4)):
        data = bytearray(random.Random(2).randbytes(10_000))
        name = str(offset)
        t.write(name, bytes(data))
        with t.open(name, "r+b") as file:
            write_at(file, offset, b"!" * size)
        data[offset : offset + size] = b"!" * size
        same_data(f"after {size} bytes at {offset}", t.read(name), bytes(data))


@check("write-past-the-end", "write(2): the file grows at once", needs=FILE)
def _(t: Target) -> None:
    t.write("f", b"12345")
    with t.open("f", "r+b") as file:
        write_at(file, 3, b"abcdef")
        equal("size", t.stat("f").st_size, 9)
    equal("content", t.read("f"), b"123abcdef")


@check("append", "open(2) O_APPEND: each write goes to the end as it is then", needs=FILE)
def _(t: Target) -> None:
    t.write("f", b"0")
    with t.open("f", "ab") as first, t.open("f", "ab") as second:
        for number in range(1, 10):
            append(second if number % 2 else first, b"%d" % number)
    equal("content", t.read("f"), b"0123456789")


@check(
    "append-after-seek",
    "open(2) O_APPEND: the position counts for reads only",
    needs=FILE,
)
def _(t: Target) -> None:
    t.write("f", b"content")
    with t.open("f", "a+b") as file:
        write_at(file, 2, b"!")
        equal("read at 2", read_at(file, 2, 3), b"nte")
    equal("content", t.read("f"), b"content!")


@check("hole-reads-as-zeros", "lseek(2): a gap that was never written reads as NUL", needs=FILE)
def _(t: Target) -> None:
    with t.open("f", "w+b") as file:
        write_at(file, MIB, b"end")
        equal("size", t.fstat(file).st_size, MIB + 3)
        write_at(file, 1000, b"middle")
        wanted = bytes(1000) + b"middle" + bytes(MIB - 1006) + b"end"
        same_data("content", read_at(file, 0), wanted)


@check("truncate-cuts", "truncate(2): the rest of the file is lost", needs=FILE + " setattr")
def _(t: Target) -> None:
    t.write("f", b"0123456789")
    t.truncate("f", 4)
    equal("size", t.stat("f").st_size, 4)
    equal("content", t.read("f"), b"0123")
    t.truncate("f", 0)
    equal("size of the emptied file", t.stat("f").st_size, 0)
    equal("content of the emptied file", t.read("f"), b"")


@check("truncate-extends", "truncate(2): the file grows by NUL bytes", needs=FILE + " setattr")
def _(t: Target) -> None:
    t.write("f", b"0123")
    t.truncate("f", 10_000)
    equal("size", t.stat("f").st_size, 10_000)
    same_data("content", t.read("f"), b"0123" + bytes(9_996))


@check(
    "truncate-forgets",
    "truncate(2): what was cut off does not come back",
    needs=FILE + " setattr",
)
def _(t: Target) -> None:
    t.write("f", b"x" * 10_000)
    t.truncate("f", 100)
    t.truncate("f", 10_000)
    same_data("content", t.read("f"), b"x" * 100 + bytes(9_900))
    t.truncate("f", 100)
    with t.open("f", "r+b") as file:
        write_at(file, 9_000, b"end")
    same_data("content with a hole", t.read("f"), b"x" * 100 + bytes(8_900) + b"end")


@check(
    "ftruncate",
    "ftruncate(2): as truncate(2); the position of the open file stays",
    needs=FILE + " setattr",
)
def _(t: Target) -> None:
    with t.open("f", "w+b") as file:
        append(file, b"0123456789")
        file.truncate(4)
        equal("size", t.fstat(file).st_size, 4)
        append(file, b"ab")
    equal("content", t.read("f"), b"0123" + bytes(6) + b"ab")


@check(
    "truncate-of-what-is-no-file",
    "truncate(2): ENOENT, EISDIR",
    needs="mkdir setattr write",
)
def _(t: Target) -> None:
    t.mkdir("d")
    expect(errno.EISDIR, t.truncate, "d", 0)
    expect(errno.ENOENT, t.truncate, "missing", 0)


@check(
    "open-trunc",
    "open(2) O_TRUNC: the file is emptied, and stays the same file",
    needs=FILE + " setattr link",
)
def _(t: Target) -> None:
    t.write("f", b"old content")
    t.link("f", "g")
    with t.open("f", "wb") as file:
        equal("size when it has just been opened", t.fstat(file).st_size, 0)
        append(file, b"new")
    equal("content under the other name", t.read("g"), b"new")


@check(
    "two-open-files",
    "write(2): what one has written, all others read",
    needs=FILE + " setattr",
)
def _(t: Target) -> None:
    with t.open("f", "w+b") as first, t.open("f", "r+b") as second:
        write_at(first, 0, b"from the first")
        equal("read by the second", read_at(second, 0), b"from the first")
        write_at(second, 5, b"THE SECOND")
        equal("read by the first", read_at(first, 0), b"from THE SECOND")
        second.truncate(4)
        equal("read by the first after truncation", read_at(first, 0), b"from")


@check(
    "two-hundred-open-files",
    "open(2): many files open at once, each with its own content and position",
    needs=FILE,
)
def _(t: Target) -> None:
    files = []
    try:
        for number in range(200):
            files.append(t.open(str(number), "w+b"))
            append(files[-1], b"%d." % number)
        for number, file in enumerate(files):
            append(file, b"%d" % number)
            equal(f"content of file {number}", read_at(file, 0), b"%d.%d" % (number, number))
    finally:
        for file in files:
            file.close()


@check("big-writes", "write(2): 1 MiB at a time, at offsets of all kinds", needs=FILE)
def _(t: Target) -> None:
    data = random.Random(3).randbytes(MIB)
    for offset in (0, 1, 4095, MIB - 1):
        with t.open(str(offset), "w+b") as file:
            write_at(file, offset, data)
            same_data(f"1 MiB at {offset}", read_at(file, 0), bytes(offset) + data)
        equal("size", t.stat(str(offset)).st_size, offset + MIB)


@check(
    "random-writes-and-truncations",
    "write(2), truncate(2): a file is an array of bytes, whatever is done in whatever order",
    needs=FILE + " setattr",
)
def _(t: Target) -> None:
    rng, model = random.Random(4), bytearray()
    with t.open("f", "w+b") as file:
        for step in range(300):
            offset, size = rng.randrange(300_000), rng.randrange(1, 20_000)
            if rng.random() < 0.2:
                file.truncate(offset)
                done = f"truncate({offset})"
                model[offset:] = bytes(max(0, offset - len(model)))
            else:
                data = rng.randbytes(size)
                write_at(file, offset, data)
                done = f"write of {size} bytes at {offset}"
                model.extend(bytes(max(0, offset - len(model))))
                model[offset : offset + size] = data
            at = rng.randrange(300_000)
            same_data(
                f"step {step}, {done}: read at {at}",
                read_at(file, at, 10_000),
                bytes(model[at : at + 10_000]),
            )
            equal(f"step {step}, {done}: size", t.fstat(file).st_size, len(model))
    same_data("content at the end", t.read("f"), bytes(model))


@check(
    "beyond-four-gib",
    "open(2): offsets and sizes are 64 bits",
    needs=FILE + " setattr",
)
def _(t: Target) -> None:
    far = (1 << 32) + 5
    with t.open("f", "w+b") as file:
        write_at(file, 0, b"start")
        try:
            write_at(file, far, b"far")
        except OSError as exc:
            if exc.errno == errno.EFBIG:
                leave_out("the file server limits the size of files (EFBIG)")
            raise
        equal("size", t.fstat(file).st_size, far + 3)
        equal("read beyond 4 GiB", read_at(file, far - 2), b"\0\0far")
        equal("read at the start", read_at(file, 0, 10), b"start" + bytes(5))
        file.truncate((1 << 33) + 1)
    equal("size after truncate", t.stat("f").st_size, (1 << 33) + 1)


@check(
    "pread-and-pwrite",
    "pread(2), pwrite(2): the position of the open file stays",
    needs=FILE,
    mounted_only=True,
)
def _(t: Target) -> None:
    with t.open("f", "w+b") as file:
        append(file, b"0123456789")
        file.seek(2)
        equal("pread", os.pread(file.fileno(), 3, 5), b"567")
        equal("pwrite", os.pwrite(file.fileno(), b"ab", 8), 2)
        equal("read where the file stands", file.read(100), b"234567ab")


@check(
    "readv-and-writev",
    "readv(2), writev(2): several buffers, one after the other",
    needs=FILE,
    mounted_only=True,
)
def _(t: Target) -> None:
    parts = [b"a" * 5000, b"b", b"", b"c" * 70_000]
    with t.open("f", "w+b") as file:
        equal("writev", os.writev(file.fileno(), parts), 75_001)
        file.seek(0)
        buffers = [bytearray(10), bytearray(74_991)]
        equal("readv", os.readv(file.fileno(), buffers), 75_001)
        same_data("content", b"".join(buffers), b"".join(parts))


@check(
    "fsync",
    "fsync(2), fdatasync(2): success, for files and directories",
    needs="create write readdir",
    mounted_only=True,
)
def _(t: Target) -> None:
    with t.open("f", "wb") as file:
        append(file, b"content")
        os.fsync(file.fileno())
        os.fdatasync(file.fileno())
    fd = os.open(t.at("."), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@check(
    "copy-file-range",
    "copy_file_range(2): the bytes are copied, inside a file and between two",
    needs=FILE,
    mounted_only=True,
)
def _(t: Target) -> None:
    data = random.Random(5).randbytes(200_000)
    t.write("a", data)
    with t.open("a") as source, t.open("b", "w+b") as target:
        done = 0
        while done < 150_000:
            count = os.copy_file_range(
                source.fileno(), target.fileno(), 150_000 - done, 1000 + done, 10 + done
            )
            assert count > 0, f"copy_file_range copied {count} of {150_000 - done} bytes"
            done += count
        count = os.copy_file_range(source.fileno(), target.fileno(), 100, len(data), 0)
        equal("copied at the end of the file", count, 0)
    same_data("content of the copy", t.read("b"), bytes(10) + data[1000:151_000])


@check(
    "mmap-shared",
    "mmap(2) MAP_SHARED: memory and file are one",
    needs=FILE + " setattr",
    mounted_only=True,
)
def _(t: Target) -> None:
    data = random.Random(6).randbytes(100_000)
    t.write("f", data)
    with t.open("f", "r+b") as file:
        with mmap.mmap(file.fileno(), 0) as memory:
            same_data("what is mapped", memory[:], data)
            memory[50_000:50_007] = b"through"
            memory.flush()
        equal("read of what was stored", read_at(file, 50_000, 7), b"through")
    equal("size", t.stat("f").st_size, len(data))


@check(
    "mmap-private",
    "mmap(2) MAP_PRIVATE: stores do not reach the file",
    needs=FILE,
    mounted_only=True,
)
def _(t: Target) -> None:
    t.write("f", b"content")
    with t.open("f") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as memory:
            equal("what is mapped", memory[:], b"content")
            memory[:] = b"CONTENT"
    equal("content", t.read("f"), b"content")


@check(
    "direct-io",
    "open(2) O_DIRECT: the same bytes past the host's cache",
    needs=FILE,
    mounted_only=True,
)
def _(t: Target) -> None:
    data = random.Random(7).randbytes(4 * 4096)
    t.write("f", data)
    try:
        fd = os.open(t.at("f"), os.O_RDWR | os.O_DIRECT)
    except OSError as exc:
        if exc.errno == errno.EINVAL:
            leave_out("the file server takes no O_DIRECT (EINVAL)")
        raise
    try:
        # Memory at a page boundary, as some file systems ask for.
        with mmap.mmap(-1, 8192) as memory:
            equal("read", os.preadv(fd, [memory], 4096), 8192)
            same_data("read past the cache", memory[:], data[4096:12288])
            memory[:] = b"x" * 8192
            equal("write", os.pwritev(fd, [memory], 4096), 8192)
    finally:
        os.close(fd)
    same_data("content", t.read("f"), data[:4096] + b"x" * 8192 + data[12288:])
