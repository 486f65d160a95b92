/* What the sources share: vectors, types of weights, work on several threads.
 *
 * Written with the vector extensions of GCC and Clang; VECTOR_BYTES is the width of the processor's
 * registers that the build names.
 */
#ifndef VIDCAP_NATIVE_H
#define VIDCAP_NATIVE_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define LANES (VECTOR_BYTES / 4)
#define EXPORT __attribute__((visibility("default"))) /* all else is hidden */
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(VECTOR_BYTES)));
typedef int32_t ivec __attribute__((vector_size(VECTOR_BYTES)));
typedef uint16_t hvec __attribute__((vector_size(VECTOR_BYTES / 2)));

INLINE vec load(const float *from)
{
    vec x;
    memcpy(&x, from, sizeof x);
    return x;
}

INLINE void store(float *to, vec x)
{
    memcpy(to, &x, sizeof x);
}

INLINE vec splat(float x)
{
    return x - (vec){0};
}

/* Halves to each other: number by number, each would wait for the one before. */
INLINE float sum(vec x)
{
    for (int half = LANES / 2; half; half /= 2)
        for (int lane = 0; lane < half; lane++)
            x[lane] += x[lane + half];
    return x[0];
}

INLINE vec choose(ivec condition, vec yes, vec no)
{
    return (vec)(((ivec)yes & condition) | ((ivec)no & ~condition));
}

/* e^x within 2 ulp (Cephes expf): x = n ln 2 + r, a polynomial in r, n put into the exponent.
 * Below -87 it is 0, above 88 that of 88.
 */
INLINE vec vexp(vec x)
{
    const vec top = splat(88.0f), bottom = splat(-87.0f);
    ivec tiny = x < bottom;
    x = choose(x > top, top, choose(tiny, bottom, x));
    vec magic = splat(12582912.0f); /* 1.5 * 2^23: what is added to it is rounded to an integer */
    vec n = (x * 1.44269504088896341f + magic) - magic;
    vec r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    vec p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    ivec exponent = __builtin_convertvector(n, ivec) + 127;
    return choose(tiny, splat(0.0f), p * (vec)(exponent << 23));
}

/* The nearest bfloat16; of two the even one. */
INLINE uint16_t bfloat16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return x != x ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

INLINE float widened(uint16_t bfloat16)
{
    const uint32_t bits = (uint32_t)bfloat16 << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

INLINE int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* How many of ``part`` are as many as ``all`` or more. */
INLINE int64_t parts_of(int64_t all, int64_t part)
{
    return (all + part - 1) / part;
}

/* As many for each of as few parts as have no more than ``most``. */
INLINE int64_t even_parts(int64_t all, int64_t most)
{
    return parts_of(all, parts_of(all, most));
}

/* threads.c: do work(context, i) for all i below count, on the threads that there are. */
void parallel(void (*work)(void *context, int64_t index), void *context, int64_t count);

/* threads.c: how many there are for work. */
int64_t threads(void);

/* threads.c: memory of the calling thread, valid until it asks again for the same use: its own, to be
 * shared with the threads that do its work, or for what several kernels hand on. */
enum use { OWN, SHARED, LAYER };
float *scratch(enum use use, int64_t floats);

/* product.c: in what numbers weights are kept. */
enum kind { FLOAT32, FLOAT16, BFLOAT16 };

INLINE int64_t bytes_of(enum kind kind)
{
    return kind == FLOAT32 ? 4 : 2;
}

/* product.c: what becomes of a product: GELU is that with erf, QUICK_GELU x sigmoid(1.702 x)
 * (Hendrycks and Gimpel 2016), SWIGLU silu(x W0^T + b0) * (x W1^T + b1) (Shazeer 2020). */
enum activation { NONE, QUICK_GELU, GELU, SWIGLU };

/* y [m, n] = activation(x W^T + bias) + residual, x [m, k] and W [n, depth]. SWIGLU has two weights and
 * two biases. Biases [n] and residual [m, n] may be NULL. */
typedef struct {
    const float *x;
    const void *w[2];
    const float *bias[2], *residual;
    float *y;
    int64_t m, n, k, depth; /* depth: k, even for bfloat16 */
    enum kind kind;         /* of W */
    enum activation activation;
} product;

/* product.c */
EXPORT void multiply(const product *p);

/* product.c: a row of W [n, depth]. */
void unpack_row(float *to, const void *w, int64_t row, int64_t n, int64_t depth, enum kind kind);

#endif
