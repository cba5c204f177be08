/*
 * The floor's file of 16 MiB, by each way that requests and replies can take:
 *
 *   device   read(2) and writev(2) by one thread, as floor.c has it
 *   clones   the same by a thread on each CPU, each with a clone of the device
 *   ring     io_uring, one thread for the queues of all CPUs
 *   rings    io_uring, a thread and a ring on each CPU for the queue of that CPU
 *
 * The same code answers, whatever the way. DEPTH is how many requests a queue can deliver at once.
 * With LOCKED_NS, a thread holds a lock when it is not in a system call that may take long, and
 * works that long on each request: what one of Python would do.
 *
 * usage: uring WAY DEPTH LOCKED_NS MOUNTPOINT   (needs CAP_SYS_ADMIN; ends when it is unmounted)
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { DATA_SIZE = 16 << 20, MAX_WRITE = 1 << 20, DATA_NODEID = 2, PAGE = 4096, SHORT = 65536 };

/* What came with FUSE 7.42, and is not in older headers. */
enum { FLAGS2_OVER_IO_URING = 1 << (41 - 32), CMD_REGISTER = 1, CMD_COMMIT_AND_FETCH = 2 };

struct ring_header { /* fuse_uring_req_header */
	union {
		struct fuse_in_header in;
		struct fuse_out_header out;
		char in_out[128];
	};
	char arguments[128];
	uint64_t flags, commit_id;
	uint32_t payload_size, padding;
	uint64_t reserved;
};

struct ring_command { /* fuse_uring_cmd_req */
	uint64_t flags, commit_id;
	uint16_t queue;
	uint8_t padding[6];
};

union sqe { /* of 128 bytes */
	struct io_uring_sqe common;
	struct {
		char before[offsetof(struct io_uring_sqe, addr3)];
		struct ring_command command;
	};
	char size[128];
};

struct request {
	const struct fuse_in_header *in;
	const void *arguments; /* the struct of the operation, if it has one */
	const char *rest;      /* names and data */
};

struct reply {
	int error;
	const void *body;
	size_t size;
	union {
		struct fuse_attr_out attr;
		struct fuse_entry_out entry;
		struct fuse_init_out init;
		struct fuse_open_out open;
		struct fuse_statfs_out statfs;
		struct fuse_write_out write;
	} out;
};

static char data[DATA_SIZE];
static int device, cpus, depth, over_rings, one_ring;
static int64_t locked_ns;

static void fail(const char *what)
{
	fprintf(stderr, "uring: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* ---------------------------------------------------- a lock, and threads that stay on a CPU */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t is_free = PTHREAD_COND_INITIALIZER;
static int is_held;

static void take_lock(void)
{
	if (locked_ns == 0)
		return;
	pthread_mutex_lock(&mutex);
	while (is_held)
		pthread_cond_wait(&is_free, &mutex);
	is_held = 1;
	pthread_mutex_unlock(&mutex);
}

static void give_lock(void)
{
	if (locked_ns == 0)
		return;
	pthread_mutex_lock(&mutex);
	is_held = 0;
	pthread_cond_signal(&is_free);
	pthread_mutex_unlock(&mutex);
}

static int64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void work(void)
{
	int64_t end;

	if (locked_ns != 0)
		for (end = now() + locked_ns; now() < end;)
			;
}

/* Nobody who was kept off that CPU goes there. */
static void stay_on(int cpu)
{
	cpu_set_t allowed, one;

	sched_getaffinity(0, sizeof allowed, &allowed);
	if (!CPU_ISSET(cpu, &allowed))
		return;
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	sched_setaffinity(0, sizeof one, &one);
}

static void start(void *(*run)(void *), intptr_t argument)
{
	pthread_t thread;

	errno = pthread_create(&thread, NULL, run, (void *)argument);
	if (errno != 0)
		fail("pthread_create");
}

static char *pages(size_t size)
{
	char *area = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (area == MAP_FAILED)
		fail("mmap");
	return area;
}

/* -------------------------------------------------------------------------- what is answered */

static void fill_attr(struct fuse_attr *attr, uint64_t nodeid)
{
	int is_data = nodeid == DATA_NODEID;

	attr->ino = nodeid;
	attr->size = is_data ? DATA_SIZE : 0;
	attr->blocks = attr->size / 512;
	attr->mode = is_data ? S_IFREG | 0644 : S_IFDIR | 0755;
	attr->nlink = is_data ? 1 : 2;
	attr->blksize = PAGE;
}

static void do_init(const struct fuse_init_in *in, struct reply *reply)
{
	struct fuse_init_out *out = &reply->out.init;

	out->major = FUSE_KERNEL_VERSION;
	out->minor = in->minor < FUSE_KERNEL_MINOR_VERSION ? in->minor : FUSE_KERNEL_MINOR_VERSION;
	out->max_readahead = in->max_readahead;
	out->flags = in->flags & (FUSE_BIG_WRITES | FUSE_MAX_PAGES | FUSE_INIT_EXT);
	out->flags2 = over_rings ? in->flags2 & FLAGS2_OVER_IO_URING : 0;
	out->max_write = MAX_WRITE;
	out->max_pages = MAX_WRITE / PAGE;
	reply->size = sizeof *out;
}

static void do_lookup(const char *name, struct reply *reply)
{
	if (strcmp(name, "data") != 0) {
		reply->error = ENOENT;
		return;
	}
	reply->out.entry.nodeid = DATA_NODEID;
	fill_attr(&reply->out.entry.attr, DATA_NODEID);
	reply->size = sizeof reply->out.entry;
}

static void do_getattr(uint64_t nodeid, struct reply *reply)
{
	fill_attr(&reply->out.attr.attr, nodeid);
	reply->size = sizeof reply->out.attr;
}

static void do_open(struct reply *reply)
{
	reply->out.open.open_flags = FOPEN_DIRECT_IO;
	reply->size = sizeof reply->out.open;
}

static void do_read(const struct fuse_read_in *in, struct reply *reply)
{
	uint64_t left = in->offset < DATA_SIZE ? DATA_SIZE - in->offset : 0;

	reply->body = data + (DATA_SIZE - left);
	reply->size = in->size < left ? in->size : left;
}

static void do_write(const struct fuse_write_in *in, const char *from, struct reply *reply)
{
	if (in->offset > DATA_SIZE || in->size > DATA_SIZE - in->offset) {
		reply->error = EFBIG;
		return;
	}
	memcpy(data + in->offset, from, in->size);
	reply->out.write.size = in->size;
	reply->size = sizeof reply->out.write;
}

static void do_statfs(struct reply *reply)
{
	reply->out.statfs.st = (struct fuse_kstatfs){ .bsize = PAGE, .namelen = 255, .frsize = PAGE };
	reply->size = sizeof reply->out.statfs;
}

static void answer(const struct request *request, struct reply *reply)
{
	memset(reply, 0, sizeof *reply);
	reply->body = &reply->out;
	work();
	switch (request->in->opcode) {
	case FUSE_INIT:    do_init(request->arguments, reply); break;
	case FUSE_LOOKUP:  do_lookup(request->rest, reply); break;
	case FUSE_GETATTR: do_getattr(request->in->nodeid, reply); break;
	case FUSE_OPEN:    do_open(reply); break;
	case FUSE_READ:    do_read(request->arguments, reply); break;
	case FUSE_WRITE:   do_write(request->arguments, request->rest, reply); break;
	case FUSE_STATFS:  do_statfs(reply); break;
	case FUSE_FLUSH:
	case FUSE_RELEASE: break;
	default:           reply->error = ENOSYS;
	}
}

static struct fuse_out_header header_of(uint64_t unique, const struct reply *reply)
{
	return (struct fuse_out_header){ sizeof(struct fuse_out_header) + reply->size,
					 -reply->error, unique };
}

/* -------------------------------------------------------------------------------- the device */

static void send_reply(int fd, uint64_t unique, const struct reply *reply)
{
	struct fuse_out_header header = header_of(unique, reply);
	struct iovec parts[] = { { &header, sizeof header }, { (void *)reply->body, reply->size } };

	/* a copy of little takes less than it takes to let others run */
	if (reply->size > SHORT)
		give_lock();
	if (writev(fd, parts, 2) < 0 && errno != ENOENT && errno != ENODEV)
		fail("writev");
	if (reply->size > SHORT)
		take_lock();
}

static void serve(int fd, const char *buffer)
{
	const struct fuse_in_header *in = (const void *)buffer;
	struct request request = { in, in + 1, buffer + sizeof *in };
	struct reply reply;

	if (in->opcode == FUSE_FORGET || in->opcode == FUSE_BATCH_FORGET ||
	    in->opcode == FUSE_INTERRUPT)
		return; /* these have no reply */
	if (in->opcode == FUSE_WRITE)
		request.rest += sizeof(struct fuse_write_in);
	answer(&request, &reply);
	send_reply(fd, in->unique, &reply);
}

/* Serve the next request; false when there is none any more. */
static int serve_next(int fd, char *buffer)
{
	ssize_t size = read(fd, buffer, MAX_WRITE + PAGE);

	if (size < 0 && errno == ENODEV)
		return 0;
	take_lock();
	if (size >= 0)
		serve(fd, buffer);
	else if (errno != EINTR && errno != EAGAIN && errno != ENOENT)
		fail("read");
	give_lock();
	return 1;
}

static void *serve_device(void *argument)
{
	char *buffer = pages(MAX_WRITE + PAGE);

	while (serve_next((intptr_t)argument, buffer))
		;
	return NULL;
}

static void *serve_clone(void *argument)
{
	int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);

	if (fd < 0 || ioctl(fd, FUSE_DEV_IOC_CLONE, &device) != 0)
		fail("FUSE_DEV_IOC_CLONE");
	stay_on((intptr_t)argument);
	return serve_device((void *)(intptr_t)fd);
}

/* ---------------------------------------------------------------------------------- io_uring */

struct entry { /* a place for one request and its reply, by turns */
	struct ring_header *header;
	char *payload;
	struct iovec parts[2]; /* the two, for the kernel */
	int queue;
};

struct ring {
	int fd;
	unsigned *sq_tail, *cq_head, *cq_tail;
	unsigned sq_mask, cq_mask;
	union sqe *sqes;
	const struct io_uring_cqe *cqes;
	unsigned queued; /* commands that the kernel has not been given */
};

static void set_up(struct ring *ring, unsigned entries)
{
	struct io_uring_params p = { .flags = IORING_SETUP_SQE128 | IORING_SETUP_SINGLE_ISSUER |
					      IORING_SETUP_DEFER_TASKRUN };
	size_t sq_end, cq_end;
	unsigned *places, place;
	char *area;

	ring->fd = syscall(SYS_io_uring_setup, entries, &p);
	if (ring->fd < 0)
		fail("io_uring_setup");
	sq_end = p.sq_off.array + p.sq_entries * sizeof *places;
	cq_end = p.cq_off.cqes + p.cq_entries * sizeof *ring->cqes;
	area = mmap(NULL, sq_end > cq_end ? sq_end : cq_end, PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_POPULATE, ring->fd, IORING_OFF_SQ_RING);
	ring->sqes = mmap(NULL, p.sq_entries * sizeof *ring->sqes, PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_POPULATE, ring->fd, IORING_OFF_SQES);
	if (area == MAP_FAILED || ring->sqes == MAP_FAILED)
		fail("io_uring: mmap");
	places = (unsigned *)(area + p.sq_off.array);
	for (place = 0; place < p.sq_entries; place++)
		places[place] = place;
	ring->sq_tail = (unsigned *)(area + p.sq_off.tail);
	ring->cq_head = (unsigned *)(area + p.cq_off.head);
	ring->cq_tail = (unsigned *)(area + p.cq_off.tail);
	ring->sq_mask = p.sq_entries - 1;
	ring->cq_mask = p.cq_entries - 1;
	ring->cqes = (const struct io_uring_cqe *)(area + p.cq_off.cqes);
	ring->queued = 0;
}

/* There is always room: an entry has one command at a time. */
static void queue_command(struct ring *ring, struct entry *entry, uint32_t number)
{
	union sqe *sqe = &ring->sqes[*ring->sq_tail & ring->sq_mask];

	memset(sqe, 0, sizeof *sqe);
	sqe->common.opcode = IORING_OP_URING_CMD;
	sqe->common.fd = device;
	sqe->common.cmd_op = number;
	sqe->common.user_data = (uintptr_t)entry;
	sqe->command.queue = entry->queue;
	if (number == CMD_REGISTER) {
		sqe->common.addr = (uintptr_t)entry->parts;
		sqe->common.len = 2;
	} else
		sqe->command.commit_id = entry->header->commit_id;
	__atomic_store_n(ring->sq_tail, *ring->sq_tail + 1, __ATOMIC_RELEASE);
	ring->queued++;
}

static void register_entries(struct ring *ring, int queue)
{
	struct entry *entries = calloc(depth, sizeof *entries);
	int number;

	if (entries == NULL)
		fail("calloc");
	for (number = 0; number < depth; number++) {
		struct entry *entry = &entries[number];

		entry->queue = queue;
		entry->header = (struct ring_header *)pages(PAGE);
		entry->payload = pages(MAX_WRITE);
		entry->parts[0] = (struct iovec){ entry->header, sizeof *entry->header };
		entry->parts[1] = (struct iovec){ entry->payload, MAX_WRITE };
		queue_command(ring, entry, CMD_REGISTER);
	}
}

static void answer_entry(struct entry *entry)
{
	struct ring_header *header = entry->header;
	struct request request = { &header->in, header->arguments, entry->payload };
	struct reply reply;

	answer(&request, &reply);
	memcpy(entry->payload, reply.body, reply.size);
	header->payload_size = reply.size;
	header->out = header_of(header->in.unique, &reply);
}

/* Serve what has come; false when nothing comes any more. */
static int serve_completed(struct ring *ring)
{
	unsigned head = *ring->cq_head;

	while (head != __atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE)) {
		struct io_uring_cqe cqe = ring->cqes[head & ring->cq_mask];
		struct entry *entry = (struct entry *)(uintptr_t)cqe.user_data;

		__atomic_store_n(ring->cq_head, ++head, __ATOMIC_RELEASE);
		if (cqe.res == -ENOTCONN || cqe.res == -ECANCELED)
			return 0;
		if (cqe.res != 0) {
			errno = -cqe.res;
			fail("io_uring command");
		}
		answer_entry(entry);
		queue_command(ring, entry, CMD_COMMIT_AND_FETCH);
	}
	return 1;
}

static void *serve_ring(void *argument)
{
	int cpu = (intptr_t)argument, queue, given, go_on;
	struct ring ring;

	set_up(&ring, one_ring ? cpus * depth : depth);
	if (!one_ring)
		stay_on(cpu);
	for (queue = one_ring ? 0 : cpu; queue < (one_ring ? cpus : cpu + 1); queue++)
		register_entries(&ring, queue);
	do {
		given = syscall(SYS_io_uring_enter, ring.fd, ring.queued, 1,
				IORING_ENTER_GETEVENTS, NULL, 0);
		if (given < 0 && errno != EINTR && errno != EAGAIN)
			fail("io_uring_enter");
		take_lock();
		ring.queued -= given > 0 ? given : 0;
		go_on = serve_completed(&ring);
		give_lock();
	} while (go_on);
	return NULL;
}

int main(int argc, char **argv)
{
	char options[128];
	int cpu;

	if (argc != 5) {
		fprintf(stderr, "usage: uring WAY DEPTH LOCKED_NS MOUNTPOINT\n");
		return 2;
	}
	one_ring = strcmp(argv[1], "ring") == 0;
	over_rings = one_ring || strcmp(argv[1], "rings") == 0;
	depth = atoi(argv[2]);
	locked_ns = atoi(argv[3]);
	cpus = sysconf(_SC_NPROCESSORS_CONF); /* the kernel has a queue for each */
	device = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (device < 0)
		fail("/dev/fuse");
	snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=%u,group_id=%u", device,
		 (unsigned)getuid(), (unsigned)getgid());
	if (mount("puffs-uring", argv[4], "fuse.puffs-uring", MS_NOSUID | MS_NODEV, options) != 0)
		fail("mount");
	if (!serve_next(device, pages(MAX_WRITE + PAGE))) /* INIT */
		return 0;
	if (over_rings)
		for (cpu = 0; cpu < (one_ring ? 1 : cpus); cpu++)
			start(serve_ring, cpu);
	else if (strcmp(argv[1], "clones") == 0) {
		for (cpu = 1; cpu < cpus; cpu++)
			start(serve_clone, cpu);
		stay_on(0);
	}
	/* FORGET and INTERRUPT come here with rings, too */
	serve_device((void *)(intptr_t)device);
	return 0;
}
