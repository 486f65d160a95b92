/* Attention of many queries: flash.c, flash_tiles.c. */
#ifndef VIDCAP_FLASH_H
#define VIDCAP_FLASH_H

#include "product.h"

/* softmax(q k^T / sqrt(head_dim)) v within each sequence. Queries are rows of all heads ``next_query``
 * floats apart, what they attend to is rows [sequences * queries, heads * head_dim]; keys, and values,
 * are ``next_key`` or ``next_value``, and ``next_head`` floats apart, sequence after sequence. Heads of
 * queries that share keys follow each other. Query i sees the first ``first + i * more`` keys. With
 * ``cos`` and ``sin`` [sequences * keys, head_dim], which may be NULL, queries and keys are given their
 * rotary positions first; there are as many of both then.
 */
typedef struct {
    const float *q, *k, *v, *cos, *sin;
    float *attended;
    int64_t sequences, queries, keys, heads, kv_heads, head_dim;
    int64_t next_query, next_key, next_value, next_head;
    int64_t first, more;
} flash;

void flash_attention(const flash *p);

#define MOST_HEAD_DIM BLOCK_DEPTH
#define MOST_QUERIES 96  /* in a block */
#define KEYS BLOCK_DEPTH /* in a block */
#define PACKED 32        /* keys that are packed at a time */
/* Rows of a head are apart by those of all heads, which processors do not foresee: so far ahead they are
 * fetched. */
#define ROWS_AHEAD 8
#define PANELS_OF(n) parts_of(n, PANEL)
#define KEY_PANELS (KEYS / PANEL)

/* Where scores and sums lie, and in what numbers weights are: in rows and float32, in tiles and two of
 * bfloat16, in rows and bfloat16. */
enum way { IN_VECTORS, IN_TILES, IN_PAIRS };

/* The two products of attention, on vectors (flash.c), on matrix registers (flash_tiles.c) or by pairs
 * (flash_pairs.c). The keys and values of a head are packed beforehand, blocks of queries when their
 * turn comes: into room for MOST_QUERIES * BLOCK_DEPTH floats.
 */
typedef struct {
    int64_t queries; /* in a block */
    enum way way;
    /* Floats of the packed keys and values of a head. */
    int64_t (*packed_floats)(const flash *p);
    /* PACKED keys and values of a head: ``k`` and ``v`` are those of token ``start``. */
    void (*pack)(const flash *p, const float *k, const float *v, int64_t start, float *packed);
    /* ``rows`` of queries of a head, times ``by``. */
    void (*pack_queries)(const flash *p, const float *q, int64_t rows, float by, float *queries);
    /* Scores of ``panels`` of 16 keys from ``start`` on. */
    void (*score)(
        const flash *p, const float *queries, int64_t rows, const float *packed, int64_t start,
        int64_t panels, float *scores);
    /* sums (+)= weights v, of the same keys. */
    void (*weigh)(
        const flash *p, const float *weights, int64_t rows, const float *packed, int64_t start,
        int64_t panels, float *sums, bool add);
} products;

/* flash_tiles.c; not to be used unless ``tiles_usable``. */
extern const products on_tiles;

/* flash_pairs.c; only where there are PAIRS, for keys that are to be ``rounded``. */
extern const products on_pairs;

#endif
