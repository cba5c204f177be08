/*
 * The caller of the benchmark: runs one system call many times and says how long that took. It is
 * in C so that its own share of a round trip is the same few nanoseconds for every server.
 *
 * One command a line on standard input:    OPERATION COUNT PATH
 * One answer a line on standard output:    NANOSECONDS        (for all COUNT calls together)
 * or, when a call fails:                   error: WHAT: WHY
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { KIB_4 = 4 << 10, MIB_1 = 1 << 20, DATA_SIZE = 16 << 20 };

static char *buffer; /* page aligned: 1 MiB then takes 256 pages, one request, and not 257 */
static char sibling[4200]; /* a name beside the file, which is not there between two calls */
static struct stat status;

/* Successive transfers walk through the file, so that no server can profit from one hot page. */
static off_t place(unsigned call, size_t size)
{
	return (off_t)(call % (DATA_SIZE / size)) * size;
}

static int op_stat(int fd, const char *path, unsigned call)
{
	(void)fd, (void)call;
	return stat(path, &status);
}

static int op_fstat(int fd, const char *path, unsigned call)
{
	(void)path, (void)call;
	return fstat(fd, &status);
}

static int op_read_4k(int fd, const char *path, unsigned call)
{
	(void)path;
	return pread(fd, buffer, KIB_4, place(call, KIB_4)) == KIB_4 ? 0 : -1;
}

static int op_write_4k(int fd, const char *path, unsigned call)
{
	(void)path;
	return pwrite(fd, buffer, KIB_4, place(call, KIB_4)) == KIB_4 ? 0 : -1;
}

static int op_read_1m(int fd, const char *path, unsigned call)
{
	(void)path;
	return pread(fd, buffer, MIB_1, place(call, MIB_1)) == MIB_1 ? 0 : -1;
}

static int op_write_1m(int fd, const char *path, unsigned call)
{
	(void)path;
	return pwrite(fd, buffer, MIB_1, place(call, MIB_1)) == MIB_1 ? 0 : -1;
}

static int op_open_close(int fd, const char *path, unsigned call)
{
	(void)call;
	fd = open(path, O_RDWR | O_CLOEXEC);
	return fd < 0 ? -1 : close(fd);
}

static int op_mkdir_rmdir(int fd, const char *path, unsigned call)
{
	(void)fd, (void)path, (void)call;
	return mkdir(sibling, 0755) != 0 ? -1 : rmdir(sibling);
}

static int op_create_unlink(int fd, const char *path, unsigned call)
{
	(void)path, (void)call;
	fd = open(sibling, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	return fd < 0 || close(fd) != 0 ? -1 : unlink(sibling);
}

static const struct operation {
	const char *name;
	int (*call)(int fd, const char *path, unsigned call);
} operations[] = {
	{ "stat", op_stat },         { "fstat", op_fstat },
	{ "read_4k", op_read_4k },   { "write_4k", op_write_4k },
	{ "read_1m", op_read_1m },   { "write_1m", op_write_1m },
	{ "open_close", op_open_close }, { "mkdir_rmdir", op_mkdir_rmdir },
	{ "create_unlink", op_create_unlink },
};

static int64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void run(const char *name, unsigned count, const char *path)
{
	const struct operation *op = operations;
	const struct operation *end = operations + sizeof operations / sizeof *operations;
	int64_t before;
	unsigned call;
	int fd;

	while (op < end && strcmp(op->name, name) != 0)
		op++;
	if (op == end) {
		printf("error: %s: no such operation\n", name);
		return;
	}
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0) {
		printf("error: open: %s\n", strerror(errno));
		return;
	}
	snprintf(sibling, sizeof sibling, "%s.new", path);
	errno = 0;
	before = now();
	for (call = 0; call < count; call++)
		if (op->call(fd, path, call) != 0)
			break;
	if (call == count)
		printf("%lld\n", (long long)(now() - before));
	else
		printf("error: %s: %s\n", name, errno ? strerror(errno) : "short transfer");
	close(fd);
}

int main(void)
{
	char line[8192], name[32], path[4097];
	unsigned count;

	buffer = aligned_alloc(4096, MIB_1);
	if (buffer == NULL)
		return 1;
	memset(buffer, 'x', MIB_1);
	while (fgets(line, sizeof line, stdin) != NULL) {
		if (sscanf(line, "%31s %u %4096[^\n]", name, &count, path) == 3)
			run(name, count, path);
		else
			printf("error: OPERATION COUNT PATH expected\n");
		fflush(stdout);
	}
	return 0;
}
