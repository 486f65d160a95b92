/* CANN's operators (aclnn): each is asked for in two calls, NAMEGetWorkspaceSize with its arguments,
 * then NAME with what the first gave. Both come here through the stubs that build.py writes.
 *
 * Numbers are computed in double, products in float. One row of `kernels` is one operator: its
 * arguments in the order of CANN's reference, and what computes it. A kernel that is missing ends
 * the process, so nothing is ever left uncomputed. */
#include "tensor.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef union {
    Tensor *tensor;
    List *list;
    Integers *integers;
    Scalar *scalar;
    const char *text;
    int64_t integer;
    double real;
} Argument;

typedef double One(double);
typedef double Two(double, double);
typedef struct Kernel Kernel;
typedef void Run(const Kernel *, Argument *);

/* `arguments`, a letter each: t tensor, l tensors, a integers, s scalar, i integer or text, d real.
 * 4 arguments "ttst" of Add: x, y, alpha, out. */
struct Kernel {
    const char *name, *arguments;
    Run *run;
    One *one;
    Two *two;
};

#define MOST_ARGUMENTS 24

static int64_t axis_of(const Tensor *x, int64_t axis) { return axis < 0 ? axis + x->axes : axis; }

/* Elementwise */

static double negative(double x) { return -x; }
static double inverse_root(double x) { return 1 / sqrt(x); }
static double sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double silu(double x) { return x * sigmoid(x); }
static double gelu(double x) { return x / 2 * (1 + erf(x / sqrt(2))); }
static double multiply(double x, double y) { return x * y; }
static double divide(double x, double y) { return x / y; }
static double add(double x, double y) { return x + y; }
static double subtract(double x, double y) { return x - y; }
static double greater(double x, double y) { return x > y; }
static double less(double x, double y) { return x < y; }
static double not_less(double x, double y) { return x >= y; }
static double larger(double x, double y) { return x > y ? x : y; }

static void map(const Kernel *kernel, Argument *a) {
    Tensor *out = a[1].tensor;
    double *x = numbers(a[0].tensor, out);
    for (int64_t i = 0, n = length(out); i < n; i++) x[i] = kernel->one(x[i]);
    store(out, x);
    free(x);
}

static void combine(const Kernel *kernel, const Tensor *first, const Tensor *other, double number,
                    double factor, const Tensor *out) {
    double *x = numbers(first, out), *y = other ? numbers(other, out) : NULL;
    for (int64_t i = 0, n = length(out); i < n; i++)
        x[i] = kernel->two(x[i], factor * (y ? y[i] : number));
    store(out, x);
    free(x), free(y);
}

static void pairwise(const Kernel *kernel, Argument *a) {
    combine(kernel, a[0].tensor, a[1].tensor, 0, 1, a[2].tensor);
}
static void pairwise_scaled(const Kernel *kernel, Argument *a) {
    combine(kernel, a[0].tensor, a[1].tensor, 0, a[2].scalar->value, a[3].tensor);
}
static void with_scalar(const Kernel *kernel, Argument *a) {
    combine(kernel, a[0].tensor, NULL, a[1].scalar->value, 1, a[2].tensor);
}
static void with_scalar_scaled(const Kernel *kernel, Argument *a) {
    combine(kernel, a[0].tensor, NULL, a[1].scalar->value, a[2].scalar->value, a[3].tensor);
}

static void copy_to(const Tensor *from, const Tensor *out) {
    double *x = numbers(from, out);
    store(out, x);
    free(x);
}
static void cast(const Kernel *kernel, Argument *a) { (void)kernel; copy_to(a[0].tensor, a[2].tensor); }
static void expand(const Kernel *kernel, Argument *a) { (void)kernel; copy_to(a[0].tensor, a[2].tensor); }
static void copy_in(const Kernel *kernel, Argument *a) { (void)kernel; copy_to(a[1].tensor, a[0].tensor); }

static void fill_with(const Tensor *out, double value) {
    int64_t n = length(out);
    double *x = malloc(8 * (n + 1));
    for (int64_t i = 0; i < n; i++) x[i] = value;
    store(out, x);
    free(x);
}
static void zero(const Kernel *kernel, Argument *a) { (void)kernel; fill_with(a[0].tensor, 0); }
static void one(const Kernel *kernel, Argument *a) { (void)kernel; fill_with(a[0].tensor, 1); }
static void fill(const Kernel *kernel, Argument *a) {
    (void)kernel;
    fill_with(a[0].tensor, a[1].scalar->value);
}

/* start, end, step, out */
static void arange(const Kernel *kernel, Argument *a) {
    (void)kernel;
    int64_t n = length(a[3].tensor);
    double *x = malloc(8 * (n + 1));
    for (int64_t i = 0; i < n; i++) x[i] = a[0].scalar->value + i * a[2].scalar->value;
    store(a[3].tensor, x);
    free(x);
}

static void where(const Kernel *kernel, Argument *a) {
    (void)kernel;
    Tensor *out = a[3].tensor;
    double *condition = numbers(a[0].tensor, out), *x = numbers(a[1].tensor, out);
    double *y = numbers(a[2].tensor, out);
    for (int64_t i = 0, n = length(out); i < n; i++) x[i] = condition[i] ? x[i] : y[i];
    store(out, x);
    free(condition), free(x), free(y);
}

/* Places: tensors cut, joined, turned, looked up */

static Tensor cut(const Tensor *x, int64_t axis, int64_t start, int64_t count) {
    Tensor part = *x;
    part.offset += start * x->stride[axis];
    part.size[axis] = count;
    return part;
}

static void concatenate(const Kernel *kernel, Argument *a) {
    (void)kernel;
    Tensor *out = a[2].tensor;
    int64_t axis = axis_of(out, a[1].integer), start = 0;
    for (int64_t i = 0; i < a[0].list->count; i++) {
        Tensor *part = a[0].list->of[i];
        Tensor target = cut(out, axis, start, part->size[axis]);
        copy_to(part, &target);
        start += part->size[axis];
    }
}

static void split(const Kernel *kernel, Argument *a) {
    (void)kernel;
    Tensor *x = a[0].tensor;
    int64_t axis = axis_of(x, a[2].integer), start = 0;
    for (int64_t i = 0; i < a[3].list->count; i++) {
        Tensor *part = a[3].list->of[i];
        Tensor source = cut(x, axis, start, part->size[axis]);
        copy_to(&source, part);
        start += part->size[axis];
    }
}

static void permute(const Kernel *kernel, Argument *a) {
    (void)kernel;
    Tensor *x = a[0].tensor, turned = *x;
    for (int i = 0; i < x->axes; i++) {
        int64_t axis = axis_of(x, a[1].integers->of[i]);
        turned.size[i] = x->size[axis], turned.stride[i] = x->stride[axis];
    }
    copy_to(&turned, a[2].tensor);
}

static void repeat(const Kernel *kernel, Argument *a) {
    (void)kernel;
    Tensor *x = a[0].tensor, *out = a[2].tensor, tiles = *out;
    int64_t place[MOST_AXES] = {0}, copies = 1;
    int lead = out->axes - x->axes;
    for (int i = 0; i < out->axes; i++) tiles.size[i] = i < lead ? 1 : x->size[i - lead];
    for (int i = 0; i < out->axes; i++) copies *= out->size[i] / tiles.size[i];
    while (copies--) {
        Tensor tile = tiles;
        for (int i = 0; i < out->axes; i++) tile.offset += place[i] * tiles.size[i] * out->stride[i];
        copy_to(x, &tile);
        for (int i = out->axes - 1; i >= 0 && ++place[i] == out->size[i] / tiles.size[i]; i--)
            place[i] = 0;
    }
}

/* Row `from` of `axis` of x, for every number of `index`, to the places of out one by one. */
static void look_up(const Tensor *x, int64_t axis, const Tensor *index, const Tensor *out) {
    double *from = numbers(index, index);
    for (int64_t i = 0, n = length(index); i < n; i++) {
        if (from[i] < 0 || from[i] >= x->size[axis]) fail("an index is out of range", "look_up");
        Tensor source = cut(x, axis, from[i], 1), target = cut(out, axis, i, 1);
        copy_to(&source, &target);
    }
    free(from);
}

static void index_select(const Kernel *kernel, Argument *a) {
    (void)kernel;
    look_up(a[0].tensor, axis_of(a[0].tensor, a[1].integer), a[2].tensor, a[3].tensor);
}

/* aclnnGather of rows [n, width] along the last axis: out[i][j] = x[i][index[i][j]]. */
static void gather(const Kernel *kernel, Argument *a) {
    Tensor *x = a[0].tensor, *index = a[2].tensor;
    if (x->axes != 2 || axis_of(x, a[1].integer) != 1) fail("not the last axis of two", kernel->name);
    int64_t width = x->size[1], each = index->size[1];
    double *value = numbers(x, x), *at = numbers(index, index);
    for (int64_t i = 0; i < length(index); i++) {
        if (at[i] < 0 || at[i] >= width) fail("an index is out of range", kernel->name);
        at[i] = value[i / each * width + (int64_t)at[i]];
    }
    store(a[3].tensor, at);
    free(value), free(at);
}

static void embedding(const Kernel *kernel, Argument *a) {
    (void)kernel;
    Tensor rows = *a[2].tensor; /* [..., width] as [n, width] */
    rows.axes = 2;
    rows.size[1] = a[0].tensor->size[1], rows.size[0] = length(a[1].tensor);
    rows.stride[1] = 1, rows.stride[0] = rows.size[1];
    look_up(a[0].tensor, 0, a[1].tensor, &rows);
}

/* aclnnInplaceScatterUpdate: of each b, updates[b] goes to `axis` from index[b] on. */
static void scatter_update(const Kernel *kernel, Argument *a) {
    (void)kernel;
    Tensor *data = a[0].tensor, *updates = a[2].tensor;
    int64_t axis = axis_of(data, a[3].integer);
    double *start = numbers(a[1].tensor, a[1].tensor);
    for (int64_t b = 0; b < data->size[0]; b++) {
        Tensor source = cut(updates, 0, b, 1), row = cut(data, 0, b, 1);
        if (start[b] < 0 || start[b] + updates->size[axis] > data->size[axis])
            fail("an index is out of range", kernel->name);
        Tensor target = cut(&row, axis, start[b], updates->size[axis]);
        copy_to(&source, &target);
    }
    free(start);
}

/* Reductions along the last axis; norms */

static void argmax(const Kernel *kernel, Argument *a) {
    Tensor *x = a[0].tensor, *out = a[3].tensor;
    if (axis_of(x, a[1].integer) != x->axes - 1) fail("not the last axis", kernel->name);
    int64_t width = x->size[x->axes - 1], rows = length(x) / width;
    double *value = numbers(x, x), *found = malloc(8 * (rows + 1));
    for (int64_t row = 0; row < rows; row++) {
        double *of = value + row * width;
        int64_t best = 0;
        for (int64_t i = 1; i < width; i++) if (of[i] > of[best]) best = i;
        found[row] = best;
    }
    store(out, found);
    free(value), free(found);
}

static void mean(const Kernel *kernel, Argument *a) {
    Tensor *x = a[0].tensor, *out = a[4].tensor;
    if (a[1].integers->count != 1 || axis_of(x, a[1].integers->of[0]) != x->axes - 1)
        fail("not the last axis alone", kernel->name);
    int64_t width = x->size[x->axes - 1], rows = length(x) / width;
    double *value = numbers(x, x);
    for (int64_t row = 0; row < rows; row++) {
        double sum = 0;
        for (int64_t i = 0; i < width; i++) sum += value[row * width + i];
        value[row] = sum / width;
    }
    store(out, value);
    free(value);
}

static void softmax_rows(double *value, int64_t rows, int64_t width) {
    for (double *of = value; of < value + rows * width; of += width) {
        double most = -INFINITY, sum = 0;
        for (int64_t i = 0; i < width; i++) most = fmax(most, of[i]);
        for (int64_t i = 0; i < width; i++) sum += of[i] = exp(of[i] - most);
        for (int64_t i = 0; i < width; i++) of[i] /= sum;
    }
}

static void softmax(const Kernel *kernel, Argument *a) {
    Tensor *x = a[0].tensor;
    if (axis_of(x, a[1].integer) != x->axes - 1) fail("not the last axis", kernel->name);
    int64_t width = x->size[x->axes - 1];
    double *value = numbers(x, x);
    softmax_rows(value, length(x) / width, width);
    store(a[2].tensor, value);
    free(value);
}

static void log_softmax(const Kernel *kernel, Argument *a) {
    Tensor *x = a[0].tensor;
    if (axis_of(x, a[1].integer) != x->axes - 1) fail("not the last axis", kernel->name);
    int64_t width = x->size[x->axes - 1], rows = length(x) / width;
    double *value = numbers(x, x);
    softmax_rows(value, rows, width);
    for (int64_t i = 0; i < rows * width; i++) value[i] = log(value[i]);
    store(a[2].tensor, value);
    free(value);
}

static void rms_norm_of(double *x, const Tensor *like, const Tensor *gamma, double eps,
                        const Tensor *out) {
    int64_t width = like->size[like->axes - 1], rows = length(like) / width;
    double *weight = numbers(gamma, gamma);
    for (double *row = x; row < x + rows * width; row += width) {
        double squares = 0;
        for (int64_t i = 0; i < width; i++) squares += row[i] * row[i];
        double scale = 1 / sqrt(squares / width + eps);
        for (int64_t i = 0; i < width; i++) row[i] *= scale * weight[i];
    }
    store(out, x);
    free(weight);
}

/* x, gamma, eps, y, rstd: only y is wanted here. */
static void rms_norm(const Kernel *kernel, Argument *a) {
    (void)kernel;
    double *x = numbers(a[0].tensor, a[0].tensor);
    rms_norm_of(x, a[0].tensor, a[1].tensor, a[2].real, a[3].tensor);
    free(x);
}

/* x1, x2, gamma, eps, y, rstd, x1 + x2 */
static void add_rms_norm(const Kernel *kernel, Argument *a) {
    (void)kernel;
    Tensor *like = a[0].tensor, *sum = a[6].tensor;
    double *x = numbers(like, like), *y = numbers(a[1].tensor, like);
    for (int64_t i = 0, n = length(like); i < n; i++) x[i] += y[i];
    store(sum, x);
    rms_norm_of(x, like, a[2].tensor, a[3].real, a[4].tensor);
    free(x), free(y);
}

/* x, shape, weight, bias, eps, y, mean, rstd */
static void layer_norm(const Kernel *kernel, Argument *a) {
    Tensor *like = a[0].tensor;
    if (a[1].integers->count != 1) fail("not the last axis alone", kernel->name);
    int64_t width = like->size[like->axes - 1], rows = length(like) / width;
    double *x = numbers(like, like), *weight = numbers(a[2].tensor, a[2].tensor);
    double *bias = numbers(a[3].tensor, a[3].tensor);
    for (double *row = x; row < x + rows * width; row += width) {
        double sum = 0, squares = 0;
        for (int64_t i = 0; i < width; i++) sum += row[i];
        for (int64_t i = 0; i < width; i++) row[i] -= sum / width, squares += row[i] * row[i];
        double scale = 1 / sqrt(squares / width + a[4].real);
        for (int64_t i = 0; i < width; i++) row[i] = row[i] * scale * weight[i] + bias[i];
    }
    store(a[5].tensor, x);
    free(x), free(weight), free(bias);
}

/* x, axis, y: silu(first half) * second half */
static void swiglu(const Kernel *kernel, Argument *a) {
    Tensor *x = a[0].tensor, *out = a[2].tensor;
    if (axis_of(x, a[1].integer) != x->axes - 1) fail("not the last axis", kernel->name);
    int64_t half = out->size[out->axes - 1];
    Tensor first = cut(x, x->axes - 1, 0, half), other = cut(x, x->axes - 1, half, half);
    double *gate = numbers(&first, out), *up = numbers(&other, out);
    for (int64_t i = 0, n = length(out); i < n; i++) gate[i] = silu(gate[i]) * up[i];
    store(out, gate);
    free(gate), free(up);
}

/* x, cos, sin, mode, y; mode 0: the two halves of the last axis turn together. */
static void rotary(const Kernel *kernel, Argument *a) {
    Tensor *like = a[0].tensor;
    if (a[3].integer != 0) fail("only mode 0, halves", kernel->name);
    if (like->axes != 4) fail("x has not four axes", kernel->name);
    int64_t width = like->size[3], half = width / 2;
    double *x = numbers(like, like), *cosine = numbers(a[1].tensor, like);
    double *sine = numbers(a[2].tensor, like), *y = malloc(8 * (length(like) + 1));
    for (int64_t i = 0, n = length(like); i < n; i++) {
        int upper = i % width >= half;
        y[i] = x[i] * cosine[i] + (upper ? x[i - half] : -x[i + half]) * sine[i];
    }
    store(a[4].tensor, y);
    free(x), free(cosine), free(sine), free(y);
}

/* Products */

static float *floats(const double *from, int64_t n) {
    float *to = malloc(4 * (n + 1));
    for (int64_t i = 0; i < n; i++) to[i] = from[i];
    return to;
}

/* x [rows, inner] times y [columns, inner] transposed. */
__attribute__((optimize("Ofast"))) static void product(const float *x, const float *y, double *out,
                                                       int64_t rows, int64_t columns,
                                                       int64_t inner) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) {
            const float *a = x + i * inner, *b = y + j * inner;
            float sum = 0;
            for (int64_t k = 0; k < inner; k++) sum += a[k] * b[k];
            out[i * columns + j] = sum;
        }
}

/* The same tensor with its last two axes exchanged. */
static Tensor transposed(const Tensor *x) {
    Tensor turned = *x;
    int last = x->axes - 1;
    turned.size[last] = x->size[last - 1], turned.size[last - 1] = x->size[last];
    turned.stride[last] = x->stride[last - 1], turned.stride[last - 1] = x->stride[last];
    return turned;
}

/* x [..., m, k] times y [..., k, n]; leading axes are spread. */
static double *matrices(const Tensor *x, const Tensor *y, const Tensor *out) {
    int last = out->axes - 1;
    int64_t rows = out->size[last - 1], columns = out->size[last], inner = x->size[x->axes - 1];
    Tensor turned = transposed(y), left = *out, right = *out;
    left.size[last] = right.size[last] = inner, right.size[last - 1] = columns;
    double *a = numbers(x, &left), *b = numbers(&turned, &right);
    float *fa = floats(a, length(&left)), *fb = floats(b, length(&right));
    double *result = malloc(8 * (length(out) + 1));
    for (int64_t batch = 0; batch < length(out) / (rows * columns); batch++)
        product(fa + batch * rows * inner, fb + batch * columns * inner,
                result + batch * rows * columns, rows, columns, inner);
    free(a), free(b), free(fa), free(fb);
    return result;
}

static void matmul(const Kernel *kernel, Argument *a) {
    (void)kernel;
    double *result = matrices(a[0].tensor, a[1].tensor, a[2].tensor);
    store(a[2].tensor, result);
    free(result);
}

/* self, x, y, beta, alpha, out: beta * self + alpha * x y */
static void addmm(const Kernel *kernel, Argument *a) {
    (void)kernel;
    Tensor *out = a[5].tensor;
    double *result = matrices(a[1].tensor, a[2].tensor, out), *bias = numbers(a[0].tensor, out);
    for (int64_t i = 0, n = length(out); i < n; i++)
        result[i] = a[3].scalar->value * bias[i] + a[4].scalar->value * result[i];
    store(out, result);
    free(result), free(bias);
}

/* Attention */

enum { GIVEN = 0, LEFT_UP = 2, RIGHT_DOWN = 3 }; /* sparse modes: what the mask says */
#define COMPRESSED 2048                          /* rows of the mask that LEFT_UP, RIGHT_DOWN want */

typedef struct {
    Tensor *q, *k, *v, *mask, *out;
    int64_t heads, kv_heads, mode;
    double scale;
} Attention;

/* One for every [B, 1, queries, keys] that must not be seen. */
static double *hidden(const Kernel *kernel, const Attention *of, const Tensor *scores) {
    int64_t queries = scores->size[2], keys = scores->size[3];
    Tensor shape = *scores, mask;
    shape.size[1] = 1;
    if (!of->mask) return calloc(length(&shape) + 1, 8);
    mask = *of->mask;
    if (mask.type != BOOL && mask.type != U8) fail("a mask that is not bool", kernel->name);
    if (of->mode == GIVEN) return numbers(&mask, &shape);
    if (mask.axes != 2 || mask.size[0] != COMPRESSED || mask.size[1] != COMPRESSED)
        fail("this sparse mode wants a mask [2048, 2048]", kernel->name);
    if (of->mode != LEFT_UP && of->mode != RIGHT_DOWN) fail("a sparse mode unknown here", kernel->name);
    double *hides = malloc(8 * (length(&shape) + 1));
    int64_t shift = of->mode == LEFT_UP ? 0 : keys - queries;
    for (int64_t i = 0, n = length(&shape); i < n; i++)
        hides[i] = i % keys > i / keys % queries + shift;
    return hides;
}

/* [B, n, heads * D] as [B, heads, n, D], each of the heads `times` times. */
static Tensor by_head(const Tensor *x, int64_t heads) {
    Tensor view = *x;
    view.axes = 4;
    view.size[1] = heads, view.size[2] = x->size[1], view.size[3] = x->size[2] / heads;
    view.stride[1] = x->stride[2] * view.size[3];
    view.stride[2] = x->stride[1], view.stride[3] = x->stride[2];
    return view;
}

static void attend(const Kernel *kernel, Attention of) {
    Tensor q = by_head(of.q, of.heads), k = by_head(of.k, of.kv_heads), v = by_head(of.v, of.kv_heads);
    int64_t group = of.heads / of.kv_heads, queries = q.size[2], keys = k.size[2], dim = q.size[3];
    Tensor scores = q, out = by_head(of.out, of.heads), values = transposed(&v);
    scores.size[1] = 1, scores.size[3] = keys;
    double *hides = hidden(kernel, &of, &scores);
    double *score = malloc(8 * queries * keys), *sum = malloc(8 * queries * dim);
    for (int64_t b = 0; b < q.size[0]; b++)
        for (int64_t head = 0; head < of.heads; head++) {
            Tensor parts[3] = {q, k, values};
            float *as_float[3];
            for (int i = 0; i < 3; i++) {
                Tensor one = cut(&parts[i], 0, b, 1);
                one = cut(&one, 1, i ? head / group : head, 1);
                double *wide = numbers(&one, &one);
                as_float[i] = floats(wide, length(&one));
                free(wide);
            }
            product(as_float[0], as_float[1], score, queries, keys, dim);
            for (int64_t i = 0; i < queries * keys; i++)
                score[i] = hides[b * queries * keys + i] ? -1e30 : score[i] * of.scale;
            softmax_rows(score, queries, keys);
            float *weights = floats(score, queries * keys);
            product(weights, as_float[2], sum, queries, dim, keys);
            Tensor target = cut(&out, 0, b, 1);
            target = cut(&target, 1, head, 1);
            store(&target, sum);
            free(weights);
            for (int i = 0; i < 3; i++) free(as_float[i]);
        }
    free(hides), free(score), free(sum);
}

static void require_bsh(const Kernel *kernel, const char *layout) {
    if (strcmp(layout, "BSH")) fail("only the layout BSH", kernel->name);
}

/* q, k, v, shift, drop, padding, mask | prefix | scale, keep | before, after, heads, layout, precise,
 * sparse mode | maxima, sums, softmax, out */
static void flash_attention(const Kernel *kernel, Argument *a) {
    require_bsh(kernel, a[13].text);
    if (a[3].tensor || a[4].tensor || a[9].real != 1) fail("neither shift nor dropout", kernel->name);
    Tensor *q = a[0].tensor, *k = a[1].tensor;
    int64_t heads = a[12].integer, dim = q->size[2] / heads;
    attend(kernel, (Attention){q, k, a[2].tensor, a[6].tensor, a[19].tensor, heads,
                               k->size[2] / dim, a[15].integer, a[8].real});
}

/* q, keys, values, shift, mask | lengths | 5 of quantisation, 2, block table, padding |
 * heads, scale, layout, kv heads, block, precise | out */
static void incre_flash_attention(const Kernel *kernel, Argument *a) {
    require_bsh(kernel, a[17].text);
    if (a[3].tensor || a[13].tensor) fail("neither shift nor blocks", kernel->name);
    if (a[5].integers && a[5].integers->count) fail("no lengths", kernel->name);
    Tensor *q = a[0].tensor;
    if (q->size[1] != 1) fail("more than one query", kernel->name);
    if (q->type == F32) fail("no float32", kernel->name);
    attend(kernel, (Attention){q, a[1].list->of[0], a[2].list->of[0], a[4].tensor, a[21].tensor,
                               a[15].integer, a[18].integer, GIVEN, a[16].real});
}

static const Kernel kernels[] = {
    {"aclnnNeg", "tt", map, .one = negative},
    {"aclnnRsqrt", "tt", map, .one = inverse_root},
    {"aclnnSqrt", "tt", map, .one = sqrt},
    {"aclnnSilu", "tt", map, .one = silu},
    {"aclnnSigmoid", "tt", map, .one = sigmoid},
    {"aclnnErf", "tt", map, .one = erf},
    {"aclnnGelu", "tt", map, .one = gelu},
    {"aclnnMul", "ttt", pairwise, .two = multiply},
    {"aclnnDiv", "ttt", pairwise, .two = divide},
    {"aclnnGtTensor", "ttt", pairwise, .two = greater},
    {"aclnnLtTensor", "ttt", pairwise, .two = less},
    {"aclnnGeTensor", "ttt", pairwise, .two = not_less},
    {"aclnnMaximum", "ttt", pairwise, .two = larger},
    {"aclnnAdd", "ttst", pairwise_scaled, .two = add},
    {"aclnnSub", "ttst", pairwise_scaled, .two = subtract},
    {"aclnnMuls", "tst", with_scalar, .two = multiply},
    {"aclnnDivs", "tst", with_scalar, .two = divide},
    {"aclnnGtScalar", "tst", with_scalar, .two = greater},
    {"aclnnLtScalar", "tst", with_scalar, .two = less},
    {"aclnnGeScalar", "tst", with_scalar, .two = not_less},
    {"aclnnAdds", "tsst", with_scalar_scaled, .two = add},
    {"aclnnSubs", "tsst", with_scalar_scaled, .two = subtract},
    {"aclnnCast", "tit", cast},
    {"aclnnExpand", "tat", expand},
    {"aclnnInplaceCopy", "tt", copy_in},
    {"aclnnInplaceZero", "t", zero},
    {"aclnnInplaceOne", "t", one},
    {"aclnnInplaceFillScalar", "ts", fill},
    {"aclnnArange", "ssst", arange},
    {"aclnnSWhere", "tttt", where},
    {"aclnnCat", "lit", concatenate},
    {"aclnnSplitTensor", "tiil", split},
    {"aclnnSplitWithSize", "tail", split},
    {"aclnnPermute", "tat", permute},
    {"aclnnRepeat", "tat", repeat},
    {"aclnnIndexSelect", "titt", index_select},
    {"aclnnGather", "titt", gather},
    {"aclnnEmbedding", "ttt", embedding},
    {"aclnnInplaceScatterUpdate", "ttti", scatter_update},
    {"aclnnArgMax", "tiit", argmax},
    {"aclnnMean", "taiit", mean},
    {"aclnnSoftmax", "tit", softmax},
    {"aclnnLogSoftmax", "tit", log_softmax},
    {"aclnnRmsNorm", "ttdtt", rms_norm},
    {"aclnnAddRmsNorm", "tttdttt", add_rms_norm},
    {"aclnnLayerNorm", "tattdttt", layer_norm},
    {"aclnnSwiGlu", "tit", swiglu},
    {"aclnnRotaryPositionEmbedding", "tttit", rotary},
    {"aclnnMm", "ttti", matmul},
    {"aclnnMatmul", "ttti", matmul},
    {"aclnnBatchMatMul", "ttti", matmul},
    {"aclnnAddmm", "tttssti", addmm},
    {"aclnnFlashAttentionScore", "tttttttaddiiiiiitttt", flash_attention},
    {"aclnnIncreFlashAttentionV4", "tllttatttttttttidiiiit", incre_flash_attention},
};

static const Kernel *find(const char *name, size_t length) {
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++)
        if (strlen(kernels[i].name) == length && !strncmp(kernels[i].name, name, length))
            return &kernels[i];
    fail("there is no such kernel; add it to aclnn.c", name);
}

typedef struct {
    const Kernel *kernel;
    Argument arguments[MOST_ARGUMENTS];
} Executor;

/* What a stub has found in the registers of a call (System V ABI, x86-64). */
typedef struct {
    double reals[8];
    uint64_t integers[6];
    uint64_t frame[2]; /* of the stub: caller's rbp, return address */
    uint64_t stack[];
} Call;

static uint64_t next_integer(const Call *call, int *taken) {
    int place = (*taken)++;
    return place < 6 ? call->integers[place] : call->stack[place - 6];
}

/* NAMEGetWorkspaceSize(arguments..., workspace size *, executor **) */
uint64_t stand_in_prepare(const char *name, const Call *call) {
    const Kernel *kernel = find(name, strlen(name) - strlen("GetWorkspaceSize"));
    Executor *executor = calloc(1, sizeof *executor);
    executor->kernel = kernel;
    int integers = 0, reals = 0;
    for (int i = 0; kernel->arguments[i]; i++) {
        if (kernel->arguments[i] == 'd') executor->arguments[i].real = call->reals[reals++];
        else executor->arguments[i].integer = next_integer(call, &integers);
    }
    *(uint64_t *)next_integer(call, &integers) = 0;
    *(Executor **)next_integer(call, &integers) = executor;
    return 0;
}

/* NAME(workspace, its size, executor, stream) */
uint64_t stand_in_launch(const char *name, const Call *call) {
    count_launch(name);
    Executor *executor = (Executor *)call->integers[2];
    executor->kernel->run(executor->kernel, executor->arguments);
    return 0;
}

/* Operators of the older interface, compiled on the device one by one, which vidcap does without. */
int aclopCompileAndExecuteV2(const char *name) { fail("a legacy operator", name); }
int aclopCompileAndExecute(const char *name) { fail("a legacy operator", name); }
