/* Tensors as CANN's callers describe them, and their numbers as double. */
#ifndef TENSOR_H
#define TENSOR_H

#include <stdint.h>
#include <stdlib.h>

/* aclDataType */
enum { F32 = 0, F16 = 1, I8 = 2, I32 = 3, U8 = 4, I16 = 6, U16 = 7, U32 = 8, I64 = 9, U64 = 10,
       F64 = 11, BOOL = 12, BF16 = 27 };

#define MOST_AXES 8

typedef struct {
    int axes, type;
    int64_t size[MOST_AXES], stride[MOST_AXES], offset;
    char *data;
} Tensor;

typedef struct { int64_t count; void **of; } List;       /* aclTensorList */
typedef struct { int64_t count; int64_t *of; } Integers; /* aclIntArray */
typedef struct { double value; } Scalar;                 /* aclScalar */

size_t item_size(int type);
int64_t length(const Tensor *x); /* numbers in all */
double number(const void *at, int type);

/* The numbers of x in order, spread to the shape of `like` (broadcasting); the caller frees them. */
double *numbers(const Tensor *x, const Tensor *like);
/* Store numbers, in order, in x. */
void store(const Tensor *x, const double *from);

/* Ends the process: the stand-in was asked for what it does not do. */
void fail(const char *what, const char *name) __attribute__((noreturn));
void count_launch(const char *name);

#endif
