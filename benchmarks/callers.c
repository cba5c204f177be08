/*
 * Callers that call at once: the operations of caller.c, each by as many threads as are asked for.
 *
 * One command a line on standard input:    OPERATION*THREADS COUNT PATH
 * One answer a line on standard output:    NANOSECONDS        (until all have made COUNT calls)
 * or, when a call fails:                   error: WHAT: WHY
 */
#include <pthread.h>

#define main one_caller /* takes commands, too, but of its own */
#include "caller.c"
#undef main

enum { MOST_THREADS = 256 };

static const struct operation *wanted;
static unsigned calls;
static char where[4097];
static pthread_barrier_t together;
static int why; /* a call has failed */

struct thread {
	pthread_t id;
	unsigned first; /* the number of its first call */
	int64_t begin, end;
};

/* Each takes its own times: who is woken by a barrier may have to wait until a burst is over. */
static void *make_calls(void *argument)
{
	struct thread *thread = argument;
	int fd = open(where, O_RDWR | O_CLOEXEC);
	unsigned call;

	if (fd < 0)
		why = errno;
	pthread_barrier_wait(&together);
	thread->begin = now();
	for (call = 0; fd >= 0 && call < calls; call++)
		if (wanted->call(fd, where, thread->first + call) != 0) {
			why = errno ? errno : EIO;
			break;
		}
	thread->end = now();
	pthread_barrier_wait(&together); /* a close(2) is no part of it */
	if (fd >= 0)
		close(fd);
	return NULL;
}

static int64_t time_calls(unsigned count)
{
	static struct thread threads[MOST_THREADS];
	int64_t begin = INT64_MAX, end = 0;
	struct thread *thread;

	pthread_barrier_init(&together, NULL, count);
	for (thread = threads; thread < threads + count; thread++) {
		thread->first = (thread - threads) * calls;
		if (pthread_create(&thread->id, NULL, make_calls, thread) != 0)
			exit(1);
	}
	for (thread = threads; thread < threads + count; thread++) {
		pthread_join(thread->id, NULL);
		begin = thread->begin < begin ? thread->begin : begin;
		end = thread->end > end ? thread->end : end;
	}
	pthread_barrier_destroy(&together);
	return end - begin;
}

int main(void)
{
	const struct operation *end = operations + sizeof operations / sizeof *operations;
	char line[8192], name[32];
	unsigned count;
	int64_t ns;

	buffer = aligned_alloc(4096, MIB_1);
	if (buffer == NULL)
		return 1;
	memset(buffer, 'x', MIB_1);
	while (fgets(line, sizeof line, stdin) != NULL) {
		if (sscanf(line, "%31[^*]*%u %u %4096[^\n]", name, &count, &calls, where) != 4 ||
		    count - 1 >= MOST_THREADS)
			return 1;
		for (wanted = operations; wanted < end && strcmp(wanted->name, name) != 0;)
			wanted++;
		if (wanted == end)
			return 1;
		why = 0;
		ns = time_calls(count);
		if (why == 0)
			printf("%lld\n", (long long)ns);
		else
			printf("error: %s: %s\n", name, strerror(why));
		fflush(stdout);
	}
	return 0;
}
