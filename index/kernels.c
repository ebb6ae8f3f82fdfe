/* What a query's time is spent in, compiled: making it a unit vector, reducing it, walking a graph to find candidates,
   scoring them exactly, and reading their texts.

   The files are mapped, and anyone may have damaged them, so every number that is taken from one is checked before it
   leads anywhere. Other Python threads run meanwhile. kernels.pyi says how the functions are called; arrays come and
   go by the buffer protocol. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* The inner loops are compiled for newer processors too, and the one that runs is chosen when the module is loaded. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif
#if defined(__GNUC__)
#define PREFETCH(address) __builtin_prefetch(address, 0, 2)
#else
#define PREFETCH(address) ((void)(address))
#endif

#define LANES 64  /* sums of float32 that run side by side: four registers of AVX-512 */
#define WIDE 16   /* and of float64; their order is the same on all processors, so scores are */
#define LINE 64   /* bytes of a cache line */
#define WHOLE 32767
#define AHEAD 8   /* rows whose beginnings are fetched before they are needed; the processor goes on by itself */
#define LEAD 512  /* bytes of such a beginning */

/* Add up sums, a power of two of them, in an order that is the same on all processors. */
#define ADD_UP(sums, count)                           \
    for (int half = (count) / 2; half; half /= 2)     \
        for (int j = 0; j < half; j++)                \
            (sums)[j] += (sums)[j + half]

CLONES static float product32(const float *a, const float *b, Py_ssize_t n)
{
    float sums[LANES] = {0};
    Py_ssize_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++)
            sums[j] += a[i + j] * b[i + j];
    for (; i < n; i++)
        sums[i % LANES] += a[i] * b[i];
    ADD_UP(sums, LANES);
    return sums[0];
}

CLONES static double product64(const float *a, const float *b, Py_ssize_t n)
{
    double sums[WIDE] = {0};
    Py_ssize_t i = 0;
    for (; i + WIDE <= n; i += WIDE)
        for (int j = 0; j < WIDE; j++)
            sums[j] += (double)a[i + j] * (double)b[i + j]; /* exact, so a fused sum is the same */
    for (; i < n; i++)
        sums[i % WIDE] += (double)a[i] * (double)b[i];
    ADD_UP(sums, WIDE);
    return sums[0];
}

CLONES static double square64(const double *a, Py_ssize_t n)
{
    double sums[WIDE] = {0};
    Py_ssize_t i = 0;
    for (; i + WIDE <= n; i += WIDE)
        for (int j = 0; j < WIDE; j++)
            sums[j] += a[i + j] * a[i + j];
    for (; i < n; i++)
        sums[i % WIDE] += a[i] * a[i];
    ADD_UP(sums, WIDE);
    return sums[0];
}

CLONES static int32_t product16(const int16_t *a, const int16_t *b, Py_ssize_t n)
{
    int32_t total = 0;
    for (Py_ssize_t i = 0; i < n; i++)
        total += (int32_t)a[i] * (int32_t)b[i];
    return total;
}

CLONES static int32_t product8(const int8_t *a, const int16_t *b, Py_ssize_t n)
{
    int32_t total = 0;
    for (Py_ssize_t i = 0; i < n; i++)
        total += (int32_t)(int16_t)a[i] * (int32_t)b[i];
    return total;
}

static void fetch(const void *address, Py_ssize_t bytes)
{
    for (Py_ssize_t at = 0; at < bytes; at += LINE)
        PREFETCH((const char *)address + at);
}

/* A vector in whole numbers of length 32767. A product of two, or of one with as many bytes, fits into 32 bits. */
static double whole_numbers(const float *vector, Py_ssize_t d, int16_t *into)
{
    double length = sqrt(product64(vector, vector, d));
    for (Py_ssize_t i = 0; i < d; i++)
        into[i] = length > 0 && isfinite(length) ? (int16_t)lrint(vector[i] / length * WHOLE) : 0;
    return length;
}

/* best: the k rows of highest product with a query. */

typedef struct {
    double score;
    int64_t row;
} Scored;

static int higher(const void *left, const void *right)
{
    const Scored *a = left, *b = right;
    if (a->score != b->score)
        return a->score < b->score ? 1 : -1;
    return (a->row > b->row) - (a->row < b->row);
}

/* Return how many of `scored` (m) are filled with the best, -1 for a row that is none or that comes twice among them,
   -2 for a score that is not finite. */
static Py_ssize_t best_of(const float *vectors, Py_ssize_t n, Py_ssize_t d, const int64_t *rows, Py_ssize_t m,
                          const float *query, Py_ssize_t k, double rounding, Scored *scored)
{
    for (Py_ssize_t i = 0; i < m; i++)
        if (rows[i] < 0 || rows[i] >= n)
            return -1;
    Py_ssize_t lead = d * 4 < LEAD ? d * 4 : LEAD;
    for (Py_ssize_t i = 0; i < m && i < AHEAD; i++)
        fetch(vectors + rows[i] * d, lead);
    for (Py_ssize_t i = 0; i < m; i++) {
        if (i + AHEAD < m)
            fetch(vectors + rows[i + AHEAD] * d, lead);
        scored[i].row = rows[i];
        scored[i].score = product32(vectors + rows[i] * d, query, d);
        if (!isfinite(scored[i].score))
            return -2;
    }
    Py_ssize_t kept = m;
    if (k < m) {
        qsort(scored, m, sizeof(Scored), higher);
        double threshold = scored[k - 1].score - rounding;
        for (kept = k; kept < m && scored[kept].score >= threshold;)
            kept++;
    }
    for (Py_ssize_t i = 0; i < kept; i++)
        scored[i].score = product64(vectors + scored[i].row * d, query, d);
    qsort(scored, kept, sizeof(Scored), higher);
    for (Py_ssize_t i = 1; i < kept; i++)
        if (scored[i].row == scored[i - 1].row) /* the same row, so the same score, so next to each other */
            return -1;
    return k < kept ? k : kept;
}

static int writable(PyObject *object, Py_buffer *view, Py_ssize_t bytes, const char *name)
{
    if (PyObject_GetBuffer(object, view, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE) < 0)
        return 0;
    if (view->len >= bytes)
        return 1;
    PyErr_Format(PyExc_ValueError, "%s has %zd bytes; expected %zd", name, view->len, bytes);
    PyBuffer_Release(view);
    return 0;
}

static PyObject *best(PyObject *module, PyObject *args)
{
    Py_buffer vectors, rows, query, found = {0}, scores = {0};
    PyObject *found_object, *scores_object, *result = NULL;
    Py_ssize_t k;
    double rounding;
    if (!PyArg_ParseTuple(args, "y*y*y*ndOO:best", &vectors, &rows, &query, &k, &rounding, &found_object,
                          &scores_object))
        return NULL;
    Py_ssize_t d = query.len / 4, m = rows.len / 8, kept = k < m ? k : m, count = 0;
    if (d < 1 || k < 1 || query.len % 4 || rows.len % 8 || vectors.len % query.len) {
        PyErr_SetString(PyExc_ValueError, "vectors, rows, query or k do not fit together");
    } else if (writable(found_object, &found, kept * 8, "found")) {
        if (writable(scores_object, &scores, kept * 8, "scores")) {
            Scored *scored = malloc((m ? m : 1) * sizeof(Scored));
            if (scored == NULL) {
                PyErr_NoMemory();
            } else {
                Py_BEGIN_ALLOW_THREADS
                count = best_of(vectors.buf, vectors.len / query.len, d, rows.buf, m, query.buf, k, rounding, scored);
                for (Py_ssize_t i = 0; i < count; i++) {
                    ((int64_t *)found.buf)[i] = scored[i].row;
                    ((double *)scores.buf)[i] = scored[i].score;
                }
                free(scored);
                Py_END_ALLOW_THREADS
                if (count == -1)
                    PyErr_SetString(PyExc_IndexError, "a row is none of the vectors', or comes twice");
                else if (count == -2)
                    PyErr_SetString(PyExc_FloatingPointError, "a vector holds numbers that are not finite");
                else
                    result = PyLong_FromSsize_t(count);
            }
            PyBuffer_Release(&scores);
        }
        PyBuffer_Release(&found);
    }
    PyBuffer_Release(&vectors);
    PyBuffer_Release(&rows);
    PyBuffer_Release(&query);
    return result;
}

/* walk: the nearest nodes of a graph, as Malkov and Yashunin's algorithms 2 and 5 find them (arXiv:1603.09320).

   A node is its score and its slot in one number, and numbers compare as scores do. */

typedef struct {
    const int8_t *vectors;
    const unsigned char *file;
    const int64_t *starts; /* of each node in the file; not of the file, so not checked */
    Py_ssize_t bytes, items, rows, d, lowest, upper, levels, entry;
} Graph;

#define HEAD 10 /* bytes of a node before its links: its key and its level */
#define MOST_LINKS 4096

static int64_t node(int32_t score, uint32_t slot) { return (int64_t)((uint64_t)(uint32_t)score << 32 | slot); }
static uint32_t slot_of(int64_t one) { return (uint32_t)one; }

/* Heaps with the least number on top. */
static void push(int64_t *heap, Py_ssize_t *size, int64_t one)
{
    Py_ssize_t at = (*size)++;
    for (; at && heap[(at - 1) / 2] > one; at = (at - 1) / 2)
        heap[at] = heap[(at - 1) / 2];
    heap[at] = one;
}

static int64_t pop(int64_t *heap, Py_ssize_t *size)
{
    int64_t top = heap[0], last = heap[--*size];
    Py_ssize_t at = 0, child;
    while ((child = 2 * at + 1) < *size) {
        if (child + 1 < *size && heap[child + 1] < heap[child])
            child++;
        if (heap[child] >= last)
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = last;
    return top;
}

/* Copy the links of a node at a level; return how many there are, or -1 where they are damaged. */
static Py_ssize_t links_of(const Graph *graph, uint32_t slot, Py_ssize_t level, uint32_t *links)
{
    Py_ssize_t start = graph->starts[slot] + HEAD, most = level ? graph->upper : graph->lowest;
    uint32_t count;
    int16_t own;
    memcpy(&own, graph->file + start - 2, 2);
    if (own < level)
        return -1;
    if (level)
        start += 4 * (1 + graph->lowest) + 4 * (level - 1) * (1 + graph->upper);
    if (start + 4 * (1 + most) > graph->bytes)
        return -1;
    memcpy(&count, graph->file + start, 4);
    if (count > (uint32_t)most)
        return -1;
    memcpy(links, graph->file + start + 4, 4 * (size_t)count);
    for (uint32_t i = 0; i < count; i++)
        if (links[i] >= graph->items)
            return -1;
    return count;
}

/* Write the rows of the `count` nearest nodes of the `expansion` that are kept, best first; return how many, or -1
   where the graph is damaged. `kept` has room for `expansion` numbers, `open` for `items`, `seen` for a bit each. */
static Py_ssize_t walk_one(const Graph *graph, const int16_t *query, Py_ssize_t expansion, Py_ssize_t count,
                           int64_t *kept, int64_t *open, unsigned char *seen, int64_t *rows)
{
    uint32_t links[MOST_LINKS];
    Py_ssize_t d = graph->d, kepts = 0, opens = 0;
    uint32_t at = (uint32_t)graph->entry;
    int32_t score = product8(graph->vectors + at * d, query, d);
    for (Py_ssize_t level = graph->levels; level > 0; level--)
        for (int moved = 1; moved;) {
            Py_ssize_t having = links_of(graph, at, level, links);
            moved = 0;
            if (having < 0)
                return -1;
            for (Py_ssize_t i = 0; i < having; i++)
                fetch(graph->vectors + links[i] * d, d);
            for (Py_ssize_t i = 0; i < having; i++) {
                int32_t other = product8(graph->vectors + links[i] * d, query, d);
                if (other > score) {
                    score = other;
                    at = links[i];
                    moved = 1;
                }
            }
        }
    memset(seen, 0, (graph->items + 7) / 8);
    seen[at >> 3] |= 1 << (at & 7);
    push(kept, &kepts, node(score, at));
    push(open, &opens, -node(score, at)); /* the highest score on top */
    while (opens) {
        int64_t next = -pop(open, &opens);
        if (kepts == expansion && next < kept[0])
            break;
        Py_ssize_t having = links_of(graph, slot_of(next), 0, links), fresh = 0;
        if (having < 0)
            return -1;
        for (Py_ssize_t i = 0; i < having; i++) {
            uint32_t link = links[i];
            if (seen[link >> 3] >> (link & 7) & 1)
                continue;
            seen[link >> 3] |= 1 << (link & 7);
            links[fresh++] = link;
            fetch(graph->vectors + link * d, d);
        }
        for (Py_ssize_t i = 0; i < fresh; i++) {
            int64_t one = node(product8(graph->vectors + links[i] * d, query, d), links[i]);
            if (kepts == expansion) {
                if (one < kept[0])
                    continue;
                pop(kept, &kepts);
            }
            push(kept, &kepts, one);
            push(open, &opens, -one);
            fetch(graph->file + graph->starts[links[i]], HEAD + 4 * (1 + graph->lowest)); /* it may be next */
        }
    }
    while (kepts > count)
        pop(kept, &kepts);
    count = kepts;
    while (kepts) {
        uint64_t key;
        uint32_t slot = slot_of(pop(kept, &kepts));
        memcpy(&key, graph->file + graph->starts[slot], 8);
        if (key >= (uint64_t)graph->rows)
            return -1;
        rows[kepts] = (int64_t)key;
    }
    return count;
}

static PyObject *walk(PyObject *module, PyObject *args)
{
    Py_buffer file, starts, queries, found = {0}, counts = {0};
    PyObject *found_object, *counts_object, *result = NULL;
    Graph graph;
    Py_ssize_t expansion, count, bad = 0;
    if (!PyArg_ParseTuple(args, "y*y*(nnnnn)ny*nnOO:walk", &file, &starts, &graph.d, &graph.lowest,
                          &graph.upper, &graph.levels, &graph.entry, &graph.rows, &queries, &expansion, &count, &found_object, &counts_object))
        return NULL;
    graph.file = file.buf;
    graph.bytes = file.len;
    graph.vectors = (const int8_t *)file.buf + 8;
    graph.starts = starts.buf;
    graph.items = starts.len / 8;
    Py_ssize_t d = graph.d, n = d > 0 ? queries.len / 4 / d : 0;
    if (d < 1 || graph.lowest < 0 || graph.lowest > MOST_LINKS || graph.upper < 0 || graph.upper > MOST_LINKS ||
        graph.levels < 0 || graph.entry < 0 || graph.entry >= graph.items || graph.items > UINT32_MAX ||
        file.len - 8 < graph.items * d || queries.len != 4 * n * d || expansion < 1 || count < 1 || count > expansion) {
        PyErr_SetString(PyExc_ValueError, "the graph, its layout, the queries or the counts do not fit together");
    } else if (writable(found_object, &found, n * count * 8, "found")) {
        if (writable(counts_object, &counts, n * 8, "counts")) {
            Py_ssize_t most = expansion < graph.items ? expansion : graph.items;
            int64_t *kept = malloc(most * 8), *open = malloc(graph.items * 8);
            unsigned char *seen = malloc((graph.items + 7) / 8);
            int16_t *query = malloc(d * 2);
            if (kept && open && seen && query) {
                Py_BEGIN_ALLOW_THREADS
                for (Py_ssize_t i = 0; i < n && !bad; i++) {
                    whole_numbers((const float *)queries.buf + i * d, d, query);
                    Py_ssize_t having = walk_one(&graph, query, most, count < most ? count : most, kept, open, seen,
                                                 (int64_t *)found.buf + i * count);
                    bad = having < 0;
                    ((int64_t *)counts.buf)[i] = having;
                }
                Py_END_ALLOW_THREADS
                if (bad)
                    PyErr_SetString(PyExc_IndexError, "a node leads out of the graph");
                else
                    result = Py_NewRef(Py_None);
            } else {
                PyErr_NoMemory();
            }
            free(kept);
            free(open);
            free(seen);
            free(query);
            PyBuffer_Release(&counts);
        }
        PyBuffer_Release(&found);
    }
    PyBuffer_Release(&file);
    PyBuffer_Release(&starts);
    PyBuffer_Release(&queries);
    return result;
}

/* units: rows made as long as one. */

static PyObject *units(PyObject *module, PyObject *args)
{
    Py_buffer wide, narrow = {0};
    PyObject *narrow_object, *result = NULL;
    Py_ssize_t d, good = 0;
    double least, most;
    if (!PyArg_ParseTuple(args, "y*nddO:units", &wide, &d, &least, &most, &narrow_object))
        return NULL;
    if (d < 1 || wide.len % (8 * d)) {
        PyErr_SetString(PyExc_ValueError, "the vectors are not of so many dimensions");
    } else if (writable(narrow_object, &narrow, wide.len / 2, "narrow")) {
        Py_ssize_t n = wide.len / 8 / d;
        Py_BEGIN_ALLOW_THREADS
        for (; good < n; good++) {
            const double *from = (const double *)wide.buf + good * d;
            float *into = (float *)narrow.buf + good * d;
            double square = square64(from, d);
            if (!(square > least && square < most)) /* of NaN, neither is true */
                break;
            double length = sqrt(square);
            for (Py_ssize_t i = 0; i < d; i++)
                into[i] = (float)(from[i] / length);
        }
        Py_END_ALLOW_THREADS
        result = PyLong_FromSsize_t(good);
        PyBuffer_Release(&narrow);
    }
    PyBuffer_Release(&wide);
    return result;
}

/* reduce: products with directions of length one, which are in half the bytes, for all are read for each query. */

static PyObject *reduce(PyObject *module, PyObject *args)
{
    Py_buffer queries, directions, reduced = {0};
    PyObject *reduced_object, *result = NULL;
    Py_ssize_t d;
    if (!PyArg_ParseTuple(args, "y*y*nO:reduce", &queries, &directions, &d, &reduced_object))
        return NULL;
    Py_ssize_t n = d > 0 ? queries.len / 4 / d : 0, r = d > 0 ? directions.len / 2 / d : 0;
    if (d < 1 || queries.len != 4 * n * d || directions.len != 2 * r * d) {
        PyErr_SetString(PyExc_ValueError, "the queries or the directions are not of so many dimensions");
    } else if (writable(reduced_object, &reduced, n * r * 4, "reduced")) {
        int16_t *query = malloc(d * 2);
        if (query == NULL) {
            PyErr_NoMemory();
        } else {
            Py_BEGIN_ALLOW_THREADS
            for (Py_ssize_t i = 0; i < n; i++) {
                double scale = whole_numbers((const float *)queries.buf + i * d, d, query) / WHOLE / WHOLE;
                for (Py_ssize_t j = 0; j < r; j++)
                    ((float *)reduced.buf)[i * r + j] =
                        (float)(scale * product16(query, (const int16_t *)directions.buf + j * d, d));
            }
            Py_END_ALLOW_THREADS
            free(query);
            result = Py_NewRef(Py_None);
        }
        PyBuffer_Release(&reduced);
    }
    PyBuffer_Release(&queries);
    PyBuffer_Release(&directions);
    return result;
}

/* texts: strings of an Arrow column. */

static PyObject *texts(PyObject *module, PyObject *args)
{
    Py_buffer offsets, data, valid = {0}, rows;
    PyObject *valid_object, *result = NULL;
    Py_ssize_t first;
    int wide;
    if (!PyArg_ParseTuple(args, "y*py*Ony*:texts", &offsets, &wide, &data, &valid_object, &first, &rows))
        return NULL;
    if (valid_object == Py_None || PyObject_GetBuffer(valid_object, &valid, PyBUF_SIMPLE) == 0) {
        Py_ssize_t m = rows.len / 8, items = offsets.len / (wide ? 8 : 4) - 1;
        result = PyList_New(m);
        for (Py_ssize_t i = 0; i < m && result; i++) {
            int64_t row = ((const int64_t *)rows.buf)[i], at, low, high;
            PyObject *text = NULL;
            int fits = row >= 0 && row < items - first;
            at = fits ? row + first : 0;
            if (!fits || (valid.obj && at / 8 >= valid.len)) {
                PyErr_SetString(PyExc_ValueError, "its row lies outside the column");
            } else if (valid.obj && !(((const unsigned char *)valid.buf)[at >> 3] >> (at & 7) & 1)) {
                text = Py_NewRef(Py_None);
            } else {
                low = wide ? ((const int64_t *)offsets.buf)[at] : ((const int32_t *)offsets.buf)[at];
                high = wide ? ((const int64_t *)offsets.buf)[at + 1] : ((const int32_t *)offsets.buf)[at + 1];
                if (low < 0 || low > high || high > data.len)
                    PyErr_SetString(PyExc_ValueError, "its bytes lie outside the file");
                else
                    text = PyUnicode_DecodeUTF8((const char *)data.buf + low, high - low, NULL);
            }
            if (text == NULL || PyList_SetItem(result, i, text) < 0)
                Py_CLEAR(result);
        }
        if (valid.obj)
            PyBuffer_Release(&valid);
    }
    PyBuffer_Release(&offsets);
    PyBuffer_Release(&data);
    PyBuffer_Release(&rows);
    return result;
}

static PyMethodDef methods[] = {
    {"best", best, METH_VARARGS, NULL},
    {"walk", walk, METH_VARARGS, NULL},
    {"units", units, METH_VARARGS, NULL},
    {"reduce", reduce, METH_VARARGS, NULL},
    {"texts", texts, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "kernels",
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit_kernels(void) { return PyModuleDef_Init(&definition); }
