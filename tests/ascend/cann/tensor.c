/* Tensors of CANN: description, conversion of types, and strided access. */
#include "tensor.h"

#include <stdio.h>
#include <string.h>

void fail(const char *what, const char *name) {
    fprintf(stderr, "stand-in for CANN: %s: %s\n", name, what);
    fflush(stderr);
    abort();
}

size_t item_size(int type) {
    switch (type) {
    case F32: case I32: case U32: return 4;
    case F16: case BF16: case I16: case U16: return 2;
    case I64: case U64: case F64: return 8;
    default: return 1;
    }
}

int64_t length(const Tensor *x) {
    int64_t n = 1;
    for (int i = 0; i < x->axes; i++) n *= x->size[i];
    return n;
}

static double from_f16(const void *p) { _Float16 h; memcpy(&h, p, 2); return h; }
static void to_f16(void *p, double v) { _Float16 h = v; memcpy(p, &h, 2); }

static double from_bf16(const void *p) {
    uint16_t half;
    memcpy(&half, p, 2);
    uint32_t bits = (uint32_t)half << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

static void to_bf16(void *p, double v) {
    float f = v;
    uint32_t bits;
    memcpy(&bits, &f, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) bits |= 0x400000; /* NaN stays NaN */
    else bits += 0x7fff + ((bits >> 16) & 1);               /* round to nearest, ties to even */
    uint16_t half = bits >> 16;
    memcpy(p, &half, 2);
}

double number(const void *p, int type) {
    switch (type) {
    case F32: return *(const float *)p;
    case F64: return *(const double *)p;
    case F16: return from_f16(p);
    case BF16: return from_bf16(p);
    case I64: return *(const int64_t *)p;
    case U64: return *(const uint64_t *)p;
    case I32: return *(const int32_t *)p;
    case U32: return *(const uint32_t *)p;
    case I16: return *(const int16_t *)p;
    case U16: return *(const uint16_t *)p;
    case I8: return *(const int8_t *)p;
    default: return *(const uint8_t *)p;
    }
}

static void set_number(void *p, int type, double v) {
    switch (type) {
    case F32: *(float *)p = v; return;
    case F64: *(double *)p = v; return;
    case F16: to_f16(p, v); return;
    case BF16: to_bf16(p, v); return;
    case I64: *(int64_t *)p = v; return;
    case U64: *(uint64_t *)p = v; return;
    case I32: *(int32_t *)p = v; return;
    case U32: *(uint32_t *)p = v; return;
    case I16: *(int16_t *)p = v; return;
    case U16: *(uint16_t *)p = v; return;
    case I8: *(int8_t *)p = v; return;
    case BOOL: *(uint8_t *)p = v != 0; return;
    default: *(uint8_t *)p = v; return;
    }
}

/* Walks `shape` row by row: calls visit for every run along the last axis. */
typedef void Visit(char *at, int64_t step, int64_t count, int type, double *numbers);

static void walk(const Tensor *x, const int64_t *stride, const Tensor *shape, double *numbers,
                 Visit *visit) {
    int last = shape->axes - 1;
    int64_t total = length(shape), run = last < 0 ? 1 : shape->size[last];
    int64_t step = last < 0 ? 0 : stride[last], place[MOST_AXES] = {0};
    size_t item = item_size(x->type);
    for (int64_t done = 0; done < total; done += run) {
        int64_t offset = x->offset;
        for (int i = 0; i < last; i++) offset += place[i] * stride[i];
        visit(x->data + offset * item, step * item, run, x->type, numbers + done);
        for (int i = last - 1; i >= 0 && ++place[i] == shape->size[i]; i--) place[i] = 0;
    }
}

/* The type is looked at once a run for what is common. */
static void load_run(char *at, int64_t step, int64_t count, int type, double *to) {
    if (type == F32)
        for (int64_t i = 0; i < count; i++) to[i] = *(float *)(at + i * step);
    else if (type == F16)
        for (int64_t i = 0; i < count; i++) to[i] = from_f16(at + i * step);
    else if (type == BF16)
        for (int64_t i = 0; i < count; i++) to[i] = from_bf16(at + i * step);
    else
        for (int64_t i = 0; i < count; i++) to[i] = number(at + i * step, type);
}

static void store_run(char *at, int64_t step, int64_t count, int type, double *from) {
    if (type == F32)
        for (int64_t i = 0; i < count; i++) *(float *)(at + i * step) = from[i];
    else if (type == F16)
        for (int64_t i = 0; i < count; i++) to_f16(at + i * step, from[i]);
    else if (type == BF16)
        for (int64_t i = 0; i < count; i++) to_bf16(at + i * step, from[i]);
    else
        for (int64_t i = 0; i < count; i++) set_number(at + i * step, type, from[i]);
}

double *numbers(const Tensor *x, const Tensor *like) {
    int64_t stride[MOST_AXES] = {0};
    for (int i = 0; i < x->axes; i++)
        stride[like->axes - x->axes + i] = x->size[i] == 1 ? 0 : x->stride[i];
    double *to = malloc(8 * (length(like) + 1));
    walk(x, stride, like, to, load_run);
    return to;
}

void store(const Tensor *x, const double *from) {
    walk(x, x->stride, x, (double *)from, store_run);
}

/* The part of CANN's interface that makes these things. Nothing is freed: a run makes some MB. */

Tensor *aclCreateTensor(const int64_t *size, uint64_t axes, int type, const int64_t *stride,
                        int64_t offset, int format, const int64_t *storage, uint64_t storage_axes,
                        void *data) {
    (void)format, (void)storage, (void)storage_axes;
    Tensor *x = calloc(1, sizeof *x);
    x->axes = axes, x->type = type, x->offset = offset, x->data = data;
    int64_t next = 1;
    for (int i = (int)axes - 1; i >= 0; i--) {
        x->size[i] = size[i];
        x->stride[i] = stride ? stride[i] : next;
        next *= size[i];
    }
    return x;
}

Scalar *aclCreateScalar(const void *value, int type) {
    Scalar *scalar = malloc(sizeof *scalar);
    scalar->value = number(value, type);
    return scalar;
}

static void *copied(const void *from, size_t count) {
    void *copy = malloc(8 * (count + 1));
    memcpy(copy, from, 8 * count);
    return copy;
}

Integers *aclCreateIntArray(const int64_t *of, uint64_t count) {
    Integers *array = malloc(sizeof *array);
    array->count = count, array->of = copied(of, count);
    return array;
}

List *aclCreateTensorList(void *const *of, uint64_t count) {
    List *list = malloc(sizeof *list);
    list->count = count, list->of = copied(of, count);
    return list;
}

/* Executors are kept and given new addresses; they share these tensors. */
static int move(Tensor *x, void *data) { x->data = data; return 0; }
int aclSetTensorAddr(void *e, size_t i, Tensor *x, void *p) { (void)e, (void)i; return move(x, p); }
int aclSetInputTensorAddr(void *e, size_t i, Tensor *x, void *p) { (void)e, (void)i; return move(x, p); }
int aclSetOutputTensorAddr(void *e, size_t i, Tensor *x, void *p) { (void)e, (void)i; return move(x, p); }
int aclSetDynamicTensorAddr(void *e, size_t i, size_t n, List *list, void *p) {
    (void)e, (void)i;
    return move(list->of[n], p);
}
int aclSetDynamicInputTensorAddr(void *e, size_t i, size_t n, List *list, void *p) {
    (void)e, (void)i;
    return move(list->of[n], p);
}
size_t aclDataTypeSize(int type) { return item_size(type); }
