/* Products of pairs of bfloat16 numbers (pairs.c). */
#ifndef VIDCAP_PAIRS_H
#define VIDCAP_PAIRS_H

#include "product.h"

#if defined(__AVX512BF16__) && !defined(__AMX_BF16__) && LANES == 16
#define PAIRS 1
#else
#define PAIRS 0
#endif

/* y = x W^T of many rows of x, which are rounded to bfloat16. Weights of bfloat16 only. */
void multiply_by_pairs(const product *p);

#endif
