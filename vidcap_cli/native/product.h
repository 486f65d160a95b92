/* What the ways to compute a product share: product.c, tiles.c. */
#ifndef VIDCAP_PRODUCT_H
#define VIDCAP_PRODUCT_H

#include "native.h"

#if defined(__F16C__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#define PANEL 16 /* rows of W that lie together */
#define BLOCK_DEPTH 384 /* numbers of a row at a time; even, as are the depths of bfloat16 panels */

/* As many numbers of float16 as a vector has. */
INLINE vec half(const char *from)
{
#if LANES == 16 && defined(__AVX512F__)
    return (vec)_mm512_cvtph_ps(_mm256_loadu_si256((const void *)from));
#elif LANES == 8 && defined(__F16C__)
    return (vec)_mm256_cvtph_ps(_mm_loadu_si128((const void *)from));
#else
    vec x;
    _Float16 numbers[LANES];
    memcpy(numbers, from, sizeof numbers);
    for (int lane = 0; lane < LANES; lane++)
        x[lane] = numbers[lane];
    return x;
#endif
}

/* product.c: ``rows`` of y from ``row`` on, of some panels, from the sums of both products, whose
 * rows and panels are so many floats apart. */
void finish(
    const product *p, int64_t row, int64_t rows, int64_t panel, int64_t panels, const float *sums,
    const float *up, int64_t next_row, int64_t next_panel);

/* product.c: whether so many rows are to be rounded to bfloat16, where that is faster. */
bool rounded(int64_t rows);

/* The same of any number of rows. */
EXPORT int rounds_rows(void);

/* product.c: y [rows, 16] (+)= x W^T of a panel of float32. Rows of x are BLOCK_DEPTH floats apart,
 * those of y ``y_stride``. */
void multiply_panel(
    const float *x, int64_t rows, const float *panel, int64_t depth, float *y, int64_t y_stride,
    bool add);

#endif
