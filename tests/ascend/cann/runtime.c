/* The ACL runtime on host memory: devices, their memory, streams that run at once.
 *
 * STAND_IN_DEVICES: how many devices there are (1). STAND_IN_MB: memory of each (65536).
 * STAND_IN_LOG: a file that gets the launches of each process, by kernel, when it ends. */
#define _GNU_SOURCE
#include "tensor.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_DEVICE = 107001, NO_MEMORY = 207001 };

static size_t from_environment(const char *name, size_t otherwise) {
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 10) : otherwise;
}

static uint32_t devices(void) { return from_environment("STAND_IN_DEVICES", 1); }
static size_t capacity(void) { return from_environment("STAND_IN_MB", 65536) << 20; }
static size_t used;

const char *aclrtGetSocName(void) { return "Ascend910B1"; }
const char *aclGetRecentErrMsg(void) { return "stand-in for CANN"; }
int aclrtGetDeviceCount(uint32_t *count) { *count = devices(); return SUCCESS; }
int aclrtGetDevice(int *device) { *device = 0; return SUCCESS; }
int aclrtSetDevice(int device) { return device < (int)devices() ? SUCCESS : INVALID_DEVICE; }
int rtGetDevicePhyIdByIndex(uint32_t index, uint32_t *physical) { *physical = index; return SUCCESS; }
int aclrtGetRunMode(int *mode) { *mode = 1; return SUCCESS; } /* the host is not the device */

/* Memory. Pages are the kernel's business: what is never written takes none. */
static void *pages(size_t bytes) {
    void *p = mmap(NULL, bytes ? bytes : 1, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static int take(size_t bytes) {
    if (used + bytes > capacity()) return NO_MEMORY;
    used += bytes;
    return SUCCESS;
}

int aclrtMalloc(void **p, size_t bytes, int policy) {
    (void)policy;
    *p = take(bytes) == SUCCESS ? pages(bytes) : NULL;
    return *p ? SUCCESS : NO_MEMORY;
}
int aclrtFree(void *p) { (void)p; return SUCCESS; }
int aclrtMallocHost(void **p, size_t bytes) { *p = malloc(bytes ? bytes : 1); return SUCCESS; }
int aclrtFreeHost(void *p) { free(p); return SUCCESS; }
int aclrtReserveMemAddress(void **p, size_t bytes, size_t align, void *at, uint64_t flags) {
    (void)align, (void)at, (void)flags;
    *p = pages(bytes);
    return *p ? SUCCESS : NO_MEMORY;
}
int aclrtMallocPhysical(void **handle, size_t bytes, const void *kind, uint64_t flags) {
    (void)kind, (void)flags;
    *handle = NULL;
    if (take(bytes) != SUCCESS) return NO_MEMORY;
    size_t *size = malloc(sizeof *size);
    *size = bytes;
    *handle = size;
    return SUCCESS;
}
int aclrtFreePhysical(void *handle) { used -= *(size_t *)handle; free(handle); return SUCCESS; }
int aclrtGetMemInfo(int kind, size_t *free_bytes, size_t *total) {
    (void)kind;
    *total = capacity();
    *free_bytes = *total - used;
    return SUCCESS;
}
static int copy(void *to, const void *from, size_t bytes) {
    if (bytes) memmove(to, from, bytes);
    return SUCCESS;
}
int aclrtMemcpy(void *to, size_t most, const void *from, size_t n, int kind) {
    (void)most, (void)kind;
    return copy(to, from, n);
}
int aclrtMemcpyAsync(void *to, size_t most, const void *from, size_t n, int kind, void *stream) {
    (void)most, (void)kind, (void)stream;
    return copy(to, from, n);
}
int aclrtMemset(void *to, size_t most, int value, size_t n) {
    (void)most;
    memset(to, value, n);
    return SUCCESS;
}
int aclrtMemsetAsync(void *to, size_t most, int value, size_t n, void *stream) {
    (void)most, (void)stream;
    memset(to, value, n);
    return SUCCESS;
}

/* Handles that only have to be there. */
static char thing[4096];
static int handle(void **p) { *p = malloc(64); return SUCCESS; }
int aclrtCreateContext(void **p, int device) { (void)device; return handle(p); }
int aclrtGetCurrentContext(void **p) { *p = thing; return SUCCESS; }
int aclrtCreateStream(void **p) { return handle(p); }
int aclrtCreateStreamWithConfig(void **p, uint32_t rank, uint32_t flag) { (void)rank, (void)flag; return handle(p); }
int aclrtCreateEvent(void **p) { return handle(p); }
int aclrtCreateEventWithFlag(void **p, uint32_t flag) { (void)flag; return handle(p); }
int aclrtCreateEventExWithFlag(void **p, uint32_t flag) { (void)flag; return handle(p); }
int aclrtQueryEventStatus(void *event, int *status) { (void)event; *status = 1; return SUCCESS; }
int aclrtStreamQuery(void *stream, int *status) { (void)stream; *status = 0; return SUCCESS; }
int aclrtEventElapsedTime(float *ms, void *a, void *b) { (void)a, (void)b; *ms = 0; return SUCCESS; }
void *aclCreateBoolArray(void) { return thing; }
void *aclCreateFloatArray(void) { return thing; }
void *aclCreateScalarList(void) { return thing; }
void *aclmdlCreateDataset(void) { return thing; }
void *aclmdlCreateDesc(void) { return thing; }
void *aclrtAllocatorCreateDesc(void) { return thing; }

/* Launches, by kernel. */
#define MOST_KERNELS 512
static struct { char name[96]; long launches; } kernels[MOST_KERNELS];
static int known;
static pthread_mutex_t counting = PTHREAD_MUTEX_INITIALIZER;

void count_launch(const char *name) {
    pthread_mutex_lock(&counting);
    int i = 0;
    while (i < known && strcmp(kernels[i].name, name)) i++;
    if (i == known && known < MOST_KERNELS) strncpy(kernels[known++].name, name, 95);
    if (i < known) kernels[i].launches++;
    pthread_mutex_unlock(&counting);
}

/* For tests, which find them with ctypes: forget the launches, write them to a file. */
void stand_in_reset(void) { memset(kernels, 0, sizeof kernels), known = 0; }
void stand_in_dump(const char *path) {
    FILE *file = fopen(path, "a");
    if (!file) return;
    for (int i = 0; i < known; i++) fprintf(file, "%ld %s\n", kernels[i].launches, kernels[i].name);
    fclose(file);
}
__attribute__((destructor)) static void at_exit(void) {
    const char *path = getenv("STAND_IN_LOG");
    if (path) stand_in_dump(path);
}
