/* A pool of threads that look for work for a moment before they sleep.
 *
 * A decode step starts some hundreds of kernels of some 100 us each, one after the other: work must
 * begin within a few microseconds, and must not wait for a thread that the system runs elsewhere.
 */
#include "native.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MOST_THREADS 256
#define LARGE_PAGE (2 << 20) /* bytes */
#define SPINS 5000 /* looks at the next job, some 100 us */

/* One job at a time. Its number is in the upper half of ``left``, the items that nobody has taken
 * in the lower: who takes one finds the fields below as the job wrote them, since the job is not
 * over before that item is done, however late the thread comes.
 */
static struct {
    void (*work)(void *, int64_t);
    void *context;
    _Atomic uint64_t left;
    _Atomic int64_t undone;
    _Atomic uint32_t number; /* what threads sleep on */
    _Atomic int asleep;
} job;

static pthread_mutex_t busy = PTHREAD_MUTEX_INITIALIZER;
static int helpers;

INLINE void pause_a_moment(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    __asm__ volatile("yield");
#endif
}

static void take_items(void)
{
    uint64_t left = atomic_load(&job.left);
    while ((uint32_t)left)
        if (atomic_compare_exchange_weak(&job.left, &left, left - 1)) {
            job.work(job.context, (uint32_t)left - 1);
            atomic_fetch_sub(&job.undone, 1);
            left = atomic_load(&job.left);
        }
}

static void *help(void *unused)
{
    for (;;) {
        uint32_t seen = atomic_load(&job.number);
        take_items();
        for (int spin = 0; spin < SPINS && atomic_load(&job.number) == seen; spin++)
            pause_a_moment();
        if (atomic_load(&job.number) == seen) {
            atomic_fetch_add(&job.asleep, 1);
            syscall(SYS_futex, &job.number, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
            atomic_fetch_sub(&job.asleep, 1);
        }
    }
    return unused;
}

/* Have at least so many threads for kernels, the one that starts them among these. */
EXPORT void set_threads(int threads)
{
    pthread_mutex_lock(&busy);
    for (; helpers < threads - 1 && helpers < MOST_THREADS; helpers++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, help, NULL))
            break; /* fewer do as well */
        pthread_detach(thread);
    }
    pthread_mutex_unlock(&busy);
}

void parallel(void (*work)(void *, int64_t), void *context, int64_t count)
{
    if (count < 2 || !helpers || pthread_mutex_trylock(&busy)) {
        /* Of kernels that run at the same time one has the pool. */
        for (int64_t index = 0; index < count; index++)
            work(context, index);
        return;
    }
    uint32_t number = atomic_load(&job.number) + 1;
    job.work = work;
    job.context = context;
    atomic_store(&job.undone, count);
    atomic_store(&job.left, (uint64_t)number << 32 | (uint64_t)count);
    atomic_store(&job.number, number);
    if (atomic_load(&job.asleep))
        syscall(SYS_futex, &job.number, FUTEX_WAKE_PRIVATE, MOST_THREADS, NULL, NULL, 0);
    take_items();
    for (int spin = 0; atomic_load(&job.undone); spin++)
        if (spin < SPINS)
            pause_a_moment();
        else
            sched_yield();
    pthread_mutex_unlock(&busy);
}

int64_t threads(void)
{
    return helpers + 1;
}

/* Whole pages that nobody had before: what malloc gives may lie on small ones already. */
static void *large_pages(size_t bytes)
{
    char *const all =
        mmap(NULL, bytes + LARGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED)
        return NULL;
    const size_t before = -(uintptr_t)all % LARGE_PAGE;
    if (before)
        munmap(all, before);
    munmap(all + before + bytes, LARGE_PAGE - before);
    madvise(all + before, bytes, MADV_HUGEPAGE); /* fewer pages to look up */
    return all + before;
}

float *scratch(enum use use, int64_t floats)
{
    static _Thread_local struct {
        float *memory;
        size_t bytes;
        int64_t size;
    } kept[LAYER + 1];
    if (floats > kept[use].size) {
        if (kept[use].memory)
            munmap(kept[use].memory, kept[use].bytes);
        kept[use].bytes = (size_t)parts_of(floats * 4, LARGE_PAGE) * LARGE_PAGE;
        kept[use].memory = large_pages(kept[use].bytes);
        kept[use].size = kept[use].memory ? floats : 0;
    }
    return kept[use].memory;
}
