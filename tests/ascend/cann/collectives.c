/* HCCL between processes of this machine: ranks meet in shared memory, and wait for each other
 * for ever, as a sum does that one of them never comes to. Streams run at once (runtime.c). */
#define _GNU_SOURCE
#include "tensor.h"

#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SUCCESS = 0, MOST_RANKS = 16, NAME = 128, PLACE = 1 << 22 };
enum { SUM = 0 }; /* HcclReduceOp */

typedef struct {
    atomic_uint arrived, round;
    char place[MOST_RANKS][PLACE]; /* what each rank brings */
} Meeting;

typedef struct {
    char name[NAME];
    uint32_t rank, ranks;
    Meeting *meeting;
} Communicator;

typedef struct { char name[NAME], rest[4108 - NAME]; } RootInfo; /* HCCL_ROOT_INFO_BYTES */

static int aclnn_type(int hccl) { /* HcclDataType to aclDataType */
    switch (hccl) {
    case 2: return I32;
    case 3: return F16;
    case 4: return F32;
    case 5: return I64;
    case 11: return BF16;
    default: fail("a type that the stand-in does not sum", "HcclAllReduce");
    }
}

static void wait_for_all(Communicator *c) {
    Meeting *m = c->meeting;
    unsigned round = atomic_load(&m->round);
    if (atomic_fetch_add(&m->arrived, 1) + 1 == c->ranks) {
        atomic_store(&m->arrived, 0);
        atomic_fetch_add(&m->round, 1);
    } else {
        while (atomic_load(&m->round) == round) sched_yield();
    }
}

int HcclGetRootInfo(RootInfo *info) {
    static unsigned count;
    memset(info, 0, sizeof *info);
    snprintf(info->name, NAME, "/vidcap-stand-in-%d-%u", getpid(), count++);
    return SUCCESS;
}

int HcclCommInitRootInfo(uint32_t ranks, const RootInfo *info, uint32_t rank, void **comm) {
    Communicator *c = calloc(1, sizeof *c);
    int file = shm_open(info->name, O_CREAT | O_RDWR, 0600);
    if (ranks > MOST_RANKS || file < 0 || ftruncate(file, sizeof(Meeting)))
        fail("no shared memory for the ranks", info->name);
    c->meeting = mmap(NULL, sizeof(Meeting), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (c->meeting == MAP_FAILED) fail("no shared memory for the ranks", info->name);
    snprintf(c->name, NAME, "%s", info->name);
    c->rank = rank, c->ranks = ranks, *comm = c;
    wait_for_all(c);
    shm_unlink(info->name); /* all have it open */
    return SUCCESS;
}

int HcclCommInitRootInfoConfig(
    uint32_t ranks, const RootInfo *info, uint32_t rank, const void *config, void **comm) {
    (void)config;
    return HcclCommInitRootInfo(ranks, info, rank, comm);
}

int HcclCommDestroy(void *comm) { (void)comm; return SUCCESS; }
int HcclGetCommName(Communicator *c, char *name) { strcpy(name, c->name); return SUCCESS; }
int HcclGetRankId(Communicator *c, uint32_t *rank) { *rank = c->rank; return SUCCESS; }
int HcclGetRankSize(Communicator *c, uint32_t *ranks) { *ranks = c->ranks; return SUCCESS; }
int HcclGetCommAsyncError(Communicator *c, int *error) { (void)c; *error = SUCCESS; return SUCCESS; }
const char *HcclGetErrorString(int code) { (void)code; return "stand-in for HCCL"; }

int HcclBarrier(Communicator *c, void *stream) {
    (void)stream;
    wait_for_all(c);
    return SUCCESS;
}

static Tensor row(void *data, int type, int64_t count) {
    return (Tensor){.axes = 1, .type = type, .size = {count}, .stride = {1}, .data = data};
}

int HcclAllReduce(
    void *from, void *to, uint64_t count, int hccl_type, int op, Communicator *c, void *stream) {
    (void)stream;
    int type = aclnn_type(hccl_type);
    size_t item = item_size(type), most = PLACE / item;
    if (op != SUM) fail("only sums", "HcclAllReduce");
    count_launch("HcclAllReduce");
    for (uint64_t first = 0; first < count; first += most) {
        uint64_t some = count - first < most ? count - first : most;
        memcpy(c->meeting->place[c->rank], (char *)from + first * item, some * item);
        wait_for_all(c);
        double *total = calloc(some, sizeof *total);
        for (uint32_t rank = 0; rank < c->ranks; rank++) {
            Tensor theirs = row(c->meeting->place[rank], type, some);
            double *each = numbers(&theirs, &theirs);
            for (uint64_t i = 0; i < some; i++) total[i] += each[i];
            free(each);
        }
        Tensor sum = row((char *)to + first * item, type, some);
        store(&sum, total);
        free(total);
        wait_for_all(c); /* before the next part takes the places */
    }
    return SUCCESS;
}
