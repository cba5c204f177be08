/*
 * The floor of the benchmark: one file of 16 MiB, and maybe an empty file or directory beside it,
 * served on /dev/fuse by a read-write loop with nothing around it. No library, no thread, no cache, no lifetime: every call of the caller is a
 * round trip, and no file server on this kernel can answer it with less work.
 *
 * usage: floor MOUNTPOINT      (needs CAP_SYS_ADMIN; ends when it is unmounted)
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { DATA_SIZE = 16 << 20, MAX_WRITE = 1 << 20, DATA_NODEID = 2 };

static const char DATA_NAME[] = "data", NEW_NAME[] = "data.new";
static uint64_t new_nodeid = DATA_NODEID; /* another one for each that is made */
static uint32_t new_mode;                 /* 0: there is none */
static char data[DATA_SIZE];
static char request[MAX_WRITE + 4096] __attribute__((aligned(4096)));
static int device;

static void reply(uint64_t unique, int error, const void *body, size_t size)
{
	struct fuse_out_header header = { sizeof header + size, -error, unique };
	struct iovec parts[] = { { &header, sizeof header }, { (void *)body, size } };

	/* ENOENT: the caller was killed and wants no answer any more */
	if (writev(device, parts, size ? 2 : 1) < 0 && errno != ENOENT && errno != ENODEV) {
		perror("floor: writev");
		exit(1);
	}
}

static void fill_attr(struct fuse_attr *attr, uint64_t nodeid)
{
	int is_data = nodeid == DATA_NODEID;

	memset(attr, 0, sizeof *attr);
	attr->ino = nodeid;
	attr->size = is_data ? DATA_SIZE : 0;
	attr->blocks = attr->size / 512;
	attr->mode = is_data                   ? S_IFREG | 0644
		     : nodeid == FUSE_ROOT_ID ? S_IFDIR | 0755
					      : new_mode;
	attr->nlink = S_ISDIR(attr->mode) ? 2 : 1;
	attr->blksize = 4096;
}

static void do_init(uint64_t unique, const struct fuse_init_in *in)
{
	struct fuse_init_out out = {
		.major = FUSE_KERNEL_VERSION,
		.minor = in->minor < FUSE_KERNEL_MINOR_VERSION ? in->minor
							       : FUSE_KERNEL_MINOR_VERSION,
		.max_readahead = in->max_readahead,
		.flags = in->flags & (FUSE_BIG_WRITES | FUSE_MAX_PAGES),
		.max_write = MAX_WRITE,
		.max_pages = MAX_WRITE / 4096,
	};

	reply(unique, 0, &out, sizeof out);
}

static void do_lookup(uint64_t unique, uint64_t nodeid, const char *name)
{
	struct fuse_entry_out out = { 0 };

	if (nodeid == FUSE_ROOT_ID && strcmp(name, DATA_NAME) == 0)
		out.nodeid = DATA_NODEID;
	else if (nodeid == FUSE_ROOT_ID && new_mode != 0 && strcmp(name, NEW_NAME) == 0)
		out.nodeid = new_nodeid;
	else {
		reply(unique, ENOENT, NULL, 0);
		return;
	}
	fill_attr(&out.attr, out.nodeid);
	reply(unique, 0, &out, sizeof out);
}

static void make(struct fuse_entry_out *out, uint32_t mode)
{
	new_mode = mode;
	out->nodeid = ++new_nodeid;
	fill_attr(&out->attr, new_nodeid);
}

static void do_mkdir(uint64_t unique, const struct fuse_mkdir_in *in)
{
	struct fuse_entry_out out = { 0 };

	make(&out, S_IFDIR | in->mode);
	reply(unique, 0, &out, sizeof out);
}

static void do_create(uint64_t unique, const struct fuse_create_in *in)
{
	struct {
		struct fuse_entry_out entry;
		struct fuse_open_out open;
	} out = { .open.open_flags = FOPEN_DIRECT_IO };

	make(&out.entry, in->mode);
	reply(unique, 0, &out, sizeof out);
}

static void do_remove(uint64_t unique, const char *name)
{
	int found = new_mode != 0 && strcmp(name, NEW_NAME) == 0;

	if (found)
		new_mode = 0;
	reply(unique, found ? 0 : ENOENT, NULL, 0);
}

static void do_getattr(uint64_t unique, uint64_t nodeid)
{
	struct fuse_attr_out out = { 0 };

	fill_attr(&out.attr, nodeid);
	reply(unique, 0, &out, sizeof out);
}

static void do_open(uint64_t unique, uint32_t flags)
{
	struct fuse_open_out out = { .open_flags = flags };

	reply(unique, 0, &out, sizeof out);
}

static void do_read(uint64_t unique, const struct fuse_read_in *in)
{
	uint64_t left = in->offset < DATA_SIZE ? DATA_SIZE - in->offset : 0;

	reply(unique, 0, data + (DATA_SIZE - left), in->size < left ? in->size : left);
}

static void do_write(uint64_t unique, const struct fuse_write_in *in)
{
	struct fuse_write_out out = { .size = in->size };

	if (in->offset > DATA_SIZE || in->size > DATA_SIZE - in->offset) {
		reply(unique, EFBIG, NULL, 0);
		return;
	}
	memcpy(data + in->offset, in + 1, in->size);
	reply(unique, 0, &out, sizeof out);
}

static void do_readdir(uint64_t unique, const struct fuse_read_in *in)
{
	union {
		struct fuse_dirent entry;
		char space[FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + sizeof DATA_NAME - 1)];
	} out = { .entry = { DATA_NODEID, 1, sizeof DATA_NAME - 1, S_IFREG >> 12 } };

	memcpy(out.space + FUSE_NAME_OFFSET, DATA_NAME, sizeof DATA_NAME - 1);
	reply(unique, 0, &out, in->offset == 0 ? sizeof out : 0);
}

static void do_statfs(uint64_t unique)
{
	struct fuse_statfs_out out = { .st = { .blocks = DATA_SIZE / 4096, .files = 2,
					       .bsize = 4096, .namelen = 255, .frsize = 4096 } };

	reply(unique, 0, &out, sizeof out);
}

static void serve(const struct fuse_in_header *in)
{
	const void *body = in + 1;

	switch (in->opcode) {
	case FUSE_INIT:       do_init(in->unique, body); break;
	case FUSE_LOOKUP:     do_lookup(in->unique, in->nodeid, body); break;
	case FUSE_GETATTR:    do_getattr(in->unique, in->nodeid); break;
	case FUSE_OPEN:       do_open(in->unique, FOPEN_DIRECT_IO); break;
	case FUSE_OPENDIR:    do_open(in->unique, 0); break;
	case FUSE_READ:       do_read(in->unique, body); break;
	case FUSE_WRITE:      do_write(in->unique, body); break;
	case FUSE_READDIR:    do_readdir(in->unique, body); break;
	case FUSE_STATFS:     do_statfs(in->unique); break;
	case FUSE_MKDIR:      do_mkdir(in->unique, body); break;
	case FUSE_CREATE:     do_create(in->unique, body); break;
	case FUSE_UNLINK:
	case FUSE_RMDIR:      do_remove(in->unique, body); break;
	case FUSE_FLUSH:
	case FUSE_RELEASE:
	case FUSE_RELEASEDIR: reply(in->unique, 0, NULL, 0); break;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT:  break; /* these have no reply */
	default:              reply(in->unique, ENOSYS, NULL, 0);
	}
}

int main(int argc, char **argv)
{
	char options[128];

	if (argc != 2) {
		fprintf(stderr, "usage: floor MOUNTPOINT\n");
		return 2;
	}
	device = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (device < 0) {
		perror("floor: /dev/fuse");
		return 1;
	}
	snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=%u,group_id=%u", device,
		 (unsigned)getuid(), (unsigned)getgid());
	if (mount("puffs-floor", argv[1], "fuse.puffs-floor", MS_NOSUID | MS_NODEV, options) != 0) {
		perror("floor: mount");
		return 1;
	}
	for (;;) {
		if (read(device, request, sizeof request) >= 0)
			serve((const struct fuse_in_header *)request);
		else if (errno == ENODEV)
			return 0;
		else if (errno != EINTR && errno != EAGAIN && errno != ENOENT) {
			perror("floor: read");
			return 1;
		}
	}
}
