/* The slowest steps of a query, compiled: normalize and reduce it, search a graph for candidates, rescore them exactly,
   and read their texts.

   The files are memory-mapped and may be damaged, so every number from a file is checked before it is used as an
   offset. The GIL is released during the work. kernels.pyi documents the functions; arrays are passed by the buffer
   protocol. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* The inner loops are compiled for several processors; loading the module chooses the best version. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif
#if defined(__GNUC__)
#define PREFETCH(address) __builtin_prefetch(address, 0, 2)
#define INLINE static inline __attribute__((always_inline)) /* a search takes 20 % less time */
#else
#define PREFETCH(address) ((void)(address))
#define INLINE static inline
#endif

#define LANES 64  /* parallel sums of float32: four registers of AVX-512 */
#define WIDE 16   /* parallel sums of float64; their order, so the scores, are equal on all processors */
#define LINE 64   /* bytes of a cache line */
#define WHOLE 32767 /* the length of a vector of integers */
#define AHEAD 8   /* how many rows ahead vectors are prefetched */
#define LEAD 512  /* bytes to prefetch of each; the processor prefetches the rest */

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
            sums[j] += (double)a[i + j] * (double)b[i + j]; /* exact, so a fused sum gives the same */
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

INLINE void fetch(const void *address, Py_ssize_t bytes)
{
    for (Py_ssize_t at = 0; at < bytes; at += LINE)
        PREFETCH((const char *)address + at);
}

/* Vectors of integers have the length 32767, so products of two of them fit into 32 bits. */
static double whole_numbers(const float *vector, Py_ssize_t d, int16_t *into)
{
    double length = sqrt(product64(vector, vector, d));
    for (Py_ssize_t i = 0; i < d; i++)
        into[i] = length > 0 && isfinite(length) ? (int16_t)lrint(vector[i] / length * WHOLE) : 0;
    return length;
}

/* rescore: the k rows with the highest products with a query. */

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

/* Write the k highest scores to the front of `scored` (m). Return how many, -1 for a row that is out of range or
   appears twice, -2 for a score that is not finite. */
static Py_ssize_t highest_of(const float *vectors, Py_ssize_t n, Py_ssize_t d, const int64_t *rows, Py_ssize_t m,
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
        if (scored[i].row == scored[i - 1].row) /* equal rows have equal scores, so they are neighbours */
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

static PyObject *rescore(PyObject *module, PyObject *args)
{
    Py_buffer vectors, rows, query, found = {0}, scores = {0};
    PyObject *found_object, *scores_object, *result = NULL;
    Py_ssize_t k;
    double rounding;
    if (!PyArg_ParseTuple(args, "y*y*y*ndOO:rescore", &vectors, &rows, &query, &k, &rounding, &found_object,
                          &scores_object))
        return NULL;
    Py_ssize_t d = query.len / 4, m = rows.len / 8, kept = k < m ? k : m, count = 0;
    if (d < 1 || k < 1 || query.len % 4 || rows.len % 8 || vectors.len % query.len) {
        PyErr_SetString(PyExc_ValueError, "vectors, rows, query or k do not match");
    } else if (writable(found_object, &found, kept * 8, "found")) {
        if (writable(scores_object, &scores, kept * 8, "scores")) {
            Scored *scored = malloc((m ? m : 1) * sizeof(Scored));
            if (scored == NULL) {
                PyErr_NoMemory();
            } else {
                Py_BEGIN_ALLOW_THREADS
                count = highest_of(vectors.buf, vectors.len / query.len, d, rows.buf, m, query.buf, k, rounding,
                                   scored);
                for (Py_ssize_t i = 0; i < count; i++) {
                    ((int64_t *)found.buf)[i] = scored[i].row;
                    ((double *)scores.buf)[i] = scored[i].score;
                }
                free(scored);
                Py_END_ALLOW_THREADS
                if (count == -1)
                    PyErr_SetString(PyExc_IndexError, "a row is out of range or appears twice");
                else if (count == -2)
                    PyErr_SetString(PyExc_FloatingPointError, "a vector has values that are not finite");
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

/* search_graph: the nearest nodes of a graph by Malkov and Yashunin's algorithms 2 and 5 (arXiv:1603.09320).

   A node is one number that combines its score and its slot, so nodes compare by score. */

#define MAX_LINKS 4096
#define NO_LINK UINT32_MAX /* ends a list of links in our file */
#define NODE_HEAD 10       /* bytes of a node of usearch's file before its links: its key and its level */

/* A graph in our own format (docs/index-format.md, FIELD-NNNNN.graph), or in usearch's file if `starts` is not NULL.
   Values from a file are checked when they are read; the offsets in `starts` are ours. */
typedef struct {
    const int8_t *vectors;
    const uint32_t *keys, *upper_offsets, *lowest, *upper;
    Py_ssize_t blocks;
    const unsigned char *file;
    const int64_t *starts;
    Py_ssize_t bytes;
    Py_ssize_t n, d, lowest_links, upper_links, highest_level, entry;
} Graph;

static int64_t node(int32_t score, uint32_t slot) { return (int64_t)((uint64_t)(uint32_t)score << 32 | slot); }
static uint32_t slot_of(int64_t one) { return (uint32_t)one; }

/* Heaps with the smallest number on top. */
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

/* Return the key of a node, unchecked. */
INLINE uint64_t key_of(const Graph *graph, uint32_t slot)
{
    uint64_t key;
    if (!graph->starts)
        return graph->keys[slot];
    memcpy(&key, graph->file + graph->starts[slot], 8);
    return key;
}

/* Does what links_of does, for usearch's file. */
INLINE Py_ssize_t usearch_links_of(const Graph *graph, uint32_t slot, Py_ssize_t level, uint32_t *links)
{
    Py_ssize_t start = graph->starts[slot] + NODE_HEAD, room = level ? graph->upper_links : graph->lowest_links;
    uint32_t count;
    int16_t own;
    memcpy(&own, graph->file + start - 2, 2);
    if (own < level)
        return -1;
    if (level)
        start += 4 * (1 + graph->lowest_links) + 4 * (level - 1) * (1 + graph->upper_links);
    if (start + 4 * (1 + room) > graph->bytes)
        return -1;
    memcpy(&count, graph->file + start, 4);
    if (count > (uint32_t)room)
        return -1;
    memcpy(links, graph->file + start + 4, 4 * (size_t)count);
    return count;
}

/* Copy a node's links on a level, because the file may change while they are used. Return their maximum number, or -1
   if the file is damaged. The links are not checked yet: a link of n or more ends the list or is damage. */
INLINE Py_ssize_t links_of(const Graph *graph, uint32_t slot, Py_ssize_t level, uint32_t *links)
{
    if (graph->starts)
        return usearch_links_of(graph, slot, level, links);
    Py_ssize_t room = graph->lowest_links;
    const uint32_t *from = graph->lowest + slot * room;
    if (level) {
        Py_ssize_t first = graph->upper_offsets[slot], end = graph->upper_offsets[slot + 1];
        if (end > graph->blocks || first + level > end)
            return -1;
        room = graph->upper_links;
        from = graph->upper + (first + level - 1) * room;
    }
    memcpy(links, from, 4 * (size_t)room);
    return room;
}

INLINE int ends_links(const Graph *graph, uint32_t link) { return link == NO_LINK && !graph->starts; }

INLINE void fetch_links(const Graph *graph, uint32_t slot)
{
    if (graph->starts)
        fetch(graph->file + graph->starts[slot], NODE_HEAD + 4 * (1 + graph->lowest_links));
    else
        fetch(graph->lowest + slot * graph->lowest_links, 4 * graph->lowest_links);
}

/* Descend through the upper levels, always to the nearest node; return the last one, or -1 if the graph is damaged. An
   excluded node can only be the start. */
static int64_t descend(const Graph *graph, const int16_t *query, int64_t left_out, uint32_t *links)
{
    Py_ssize_t d = graph->d;
    uint32_t at = (uint32_t)graph->entry;
    int32_t score = at == left_out ? INT32_MIN : product8(graph->vectors + at * d, query, d);
    for (Py_ssize_t level = graph->highest_level; level > 0; level--)
        for (int moved = 1; moved;) {
            Py_ssize_t count = links_of(graph, at, level, links);
            moved = 0;
            if (count < 0)
                return -1;
            for (Py_ssize_t i = 0; i < count; i++) {
                if (ends_links(graph, links[i]))
                    count = i;
                else if (links[i] >= graph->n)
                    return -1;
                else
                    fetch(graph->vectors + links[i] * d, d);
            }
            for (Py_ssize_t i = 0; i < count; i++) {
                int32_t other = product8(graph->vectors + links[i] * d, query, d);
                if (other > score && links[i] != left_out) {
                    score = other;
                    at = links[i];
                    moved = 1;
                }
            }
        }
    return at;
}

/* Write the rows of the `count` nearest of `expansion` nodes, best first; return how many, or -1 if the graph is
   damaged. The node in the slot `left_out` is ignored (-1 for none). `kept` has room for `expansion` numbers, `open` for
   `n`, `seen` for `n` bits. */
static Py_ssize_t search_one(const Graph *graph, const int16_t *query, Py_ssize_t expansion, Py_ssize_t count,
                             int64_t left_out, int64_t *kept, int64_t *open, unsigned char *seen, int64_t *rows)
{
    uint32_t links[MAX_LINKS];
    Py_ssize_t d = graph->d, kept_count = 0, open_count = 0;
    int64_t entry = descend(graph, query, left_out, links);
    if (entry < 0)
        return -1;
    memset(seen, 0, (graph->n + 7) / 8);
    seen[entry >> 3] |= 1 << (entry & 7);
    int64_t first = node(product8(graph->vectors + entry * d, query, d), (uint32_t)entry);
    push(open, &open_count, -first); /* the highest score on top */
    if (entry != left_out)
        push(kept, &kept_count, first);
    if (left_out >= 0)
        seen[left_out >> 3] |= 1 << (left_out & 7);
    while (open_count) {
        int64_t next = -pop(open, &open_count);
        if (kept_count == expansion && next < kept[0])
            break;
        Py_ssize_t links_count = links_of(graph, slot_of(next), 0, links), fresh = 0;
        if (links_count < 0)
            return -1;
        for (Py_ssize_t i = 0; i < links_count; i++) {
            uint32_t link = links[i];
            if (link >= graph->n) {
                if (ends_links(graph, link))
                    break;
                return -1;
            }
            if (seen[link >> 3] >> (link & 7) & 1)
                continue;
            seen[link >> 3] |= 1 << (link & 7);
            links[fresh++] = link;
            fetch(graph->vectors + link * d, d);
        }
        for (Py_ssize_t i = 0; i < fresh; i++) {
            int64_t one = node(product8(graph->vectors + links[i] * d, query, d), links[i]);
            if (kept_count == expansion) {
                if (one < kept[0])
                    continue;
                pop(kept, &kept_count);
            }
            push(kept, &kept_count, one);
            push(open, &open_count, -one);
            fetch_links(graph, links[i]); /* it may be the next node */
        }
    }
    while (kept_count > count)
        pop(kept, &kept_count);
    count = kept_count;
    while (kept_count) {
        uint64_t key = key_of(graph, slot_of(pop(kept, &kept_count)));
        if (key >= (uint64_t)graph->n)
            return -1;
        rows[kept_count] = (int64_t)key;
    }
    return count;
}

static int64_t slot_with_key(const Graph *graph, int64_t key)
{
    if (key >= 0)
        for (Py_ssize_t slot = 0; slot < graph->n; slot++)
            if (key_of(graph, (uint32_t)slot) == (uint64_t)key)
                return slot;
    return -1;
}

/* The inputs and outputs of a search. */
typedef struct {
    Py_buffer queries, without, found, counts;
    PyObject *without_object, *found_object, *counts_object;
    Py_ssize_t expansion, count;
} Search;

/* Search for each query and write the results; return 0, -1 if the graph is damaged, -2 if memory ran out. */
static int search_all(const Graph *graph, const Search *search, Py_ssize_t n)
{
    Py_ssize_t d = graph->d, expansion = search->expansion < graph->n ? search->expansion : graph->n;
    Py_ssize_t count = search->count < expansion ? search->count : expansion;
    const int64_t *without = search->without.obj ? search->without.buf : NULL;
    int64_t *kept = malloc(expansion * 8), *open = malloc(graph->n * 8);
    unsigned char *seen = malloc((graph->n + 7) / 8);
    int16_t *query = malloc(d * 2);
    int result = kept && open && seen && query ? 0 : -2;
    for (Py_ssize_t i = 0; i < n && !result; i++) {
        whole_numbers((const float *)search->queries.buf + i * d, d, query);
        int64_t left_out = without ? slot_with_key(graph, without[i]) : -1;
        Py_ssize_t found = search_one(graph, query, expansion, count, left_out, kept, open, seen,
                                      (int64_t *)search->found.buf + i * search->count);
        result = found < 0 ? -1 : 0;
        ((int64_t *)search->counts.buf)[i] = found;
    }
    free(kept);
    free(open);
    free(seen);
    free(query);
    return result;
}

static int graph_fits(const Graph *graph)
{
    return graph->d >= 1 && graph->n >= 1 && graph->n < UINT32_MAX && graph->lowest_links >= 0 &&
           graph->lowest_links <= MAX_LINKS && graph->upper_links >= 0 && graph->upper_links <= MAX_LINKS &&
           graph->highest_level >= 0 && graph->entry >= 0 && graph->entry < graph->n;
}

/* Check the inputs, search, and release the buffers of `search`. */
static PyObject *search_checked(const Graph *graph, int fits, Search *search)
{
    PyObject *result = NULL;
    Py_ssize_t n = fits ? search->queries.len / 4 / graph->d : 0;
    if (!fits || search->queries.len != 4 * n * graph->d || search->expansion < 1 || search->count < 1 ||
        search->count > search->expansion) {
        PyErr_SetString(PyExc_ValueError, "the graph, its layout, the queries or the counts do not match");
    } else if (search->without_object != Py_None &&
               PyObject_GetBuffer(search->without_object, &search->without, PyBUF_SIMPLE) < 0) {
        result = NULL;
    } else if (search->without.obj && search->without.len != 8 * n) {
        PyErr_SetString(PyExc_ValueError, "the number of rows to leave out is not the number of queries");
    } else if (writable(search->found_object, &search->found, n * search->count * 8, "found")) {
        if (writable(search->counts_object, &search->counts, n * 8, "counts")) {
            int failed;
            Py_BEGIN_ALLOW_THREADS
            failed = search_all(graph, search, n);
            Py_END_ALLOW_THREADS
            if (failed == -1)
                PyErr_SetString(PyExc_IndexError, "a link or a key is out of range");
            else if (failed)
                PyErr_NoMemory();
            else
                result = Py_NewRef(Py_None);
            PyBuffer_Release(&search->counts);
        }
        PyBuffer_Release(&search->found);
    }
    if (search->without.obj)
        PyBuffer_Release(&search->without);
    PyBuffer_Release(&search->queries);
    return result;
}

static PyObject *search_graph(PyObject *module, PyObject *args)
{
    Py_buffer vectors, keys, upper_offsets, lowest, upper;
    Graph graph = {0};
    Search search = {{0}};
    if (!PyArg_ParseTuple(args, "(y*y*y*y*y*)(nnnnn)y*OnnOO:search_graph", &vectors, &keys, &upper_offsets, &lowest,
                          &upper, &graph.d, &graph.lowest_links, &graph.upper_links, &graph.highest_level,
                          &graph.entry, &search.queries, &search.without_object, &search.expansion, &search.count,
                          &search.found_object, &search.counts_object))
        return NULL;
    graph.vectors = vectors.buf;
    graph.keys = keys.buf;
    graph.upper_offsets = upper_offsets.buf;
    graph.lowest = lowest.buf;
    graph.upper = upper.buf;
    graph.n = keys.len / 4;
    int fits = graph_fits(&graph) && vectors.len == graph.n * graph.d && keys.len == 4 * graph.n &&
               upper_offsets.len == 4 * (graph.n + 1) && lowest.len == 4 * graph.n * graph.lowest_links &&
               (graph.upper_links ? upper.len % (4 * graph.upper_links) : upper.len) == 0;
    graph.blocks = fits && graph.upper_links ? upper.len / 4 / graph.upper_links : 0;
    PyObject *result = search_checked(&graph, fits, &search);
    PyBuffer_Release(&vectors);
    PyBuffer_Release(&keys);
    PyBuffer_Release(&upper_offsets);
    PyBuffer_Release(&lowest);
    PyBuffer_Release(&upper);
    return result;
}

static PyObject *search_usearch_graph(PyObject *module, PyObject *args)
{
    Py_buffer file, starts;
    Graph graph = {0};
    Search search = {{0}};
    if (!PyArg_ParseTuple(args, "(y*y*)(nnnnn)y*OnnOO:search_usearch_graph", &file, &starts, &graph.d,
                          &graph.lowest_links, &graph.upper_links, &graph.highest_level, &graph.entry,
                          &search.queries, &search.without_object, &search.expansion, &search.count,
                          &search.found_object, &search.counts_object))
        return NULL;
    graph.file = file.buf;
    graph.bytes = file.len;
    graph.vectors = (const int8_t *)file.buf + 8;
    graph.starts = starts.buf;
    graph.n = starts.len / 8;
    int fits = graph_fits(&graph) && file.len - 8 >= graph.n * graph.d;
    PyObject *result = search_checked(&graph, fits, &search);
    PyBuffer_Release(&file);
    PyBuffer_Release(&starts);
    return result;
}

/* normalize: vectors divided by their lengths. */

static PyObject *normalize(PyObject *module, PyObject *args)
{
    Py_buffer wide, narrow = {0};
    PyObject *narrow_object, *result = NULL;
    Py_ssize_t d, good = 0;
    double min_square, max_square;
    if (!PyArg_ParseTuple(args, "y*nddO:normalize", &wide, &d, &min_square, &max_square, &narrow_object))
        return NULL;
    if (d < 1 || wide.len % (8 * d)) {
        PyErr_SetString(PyExc_ValueError, "the vectors do not have this many dimensions");
    } else if (writable(narrow_object, &narrow, wide.len / 2, "narrow")) {
        Py_ssize_t n = wide.len / 8 / d;
        Py_BEGIN_ALLOW_THREADS
        for (; good < n; good++) {
            const double *from = (const double *)wide.buf + good * d;
            float *into = (float *)narrow.buf + good * d;
            double square = square64(from, d);
            if (!(square > min_square && square < max_square)) /* false for NaN */
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

/* reduce: products with directions of length one; int16, because each query reads them all. */

static PyObject *reduce(PyObject *module, PyObject *args)
{
    Py_buffer queries, directions, reduced = {0};
    PyObject *reduced_object, *result = NULL;
    Py_ssize_t d;
    if (!PyArg_ParseTuple(args, "y*y*nO:reduce", &queries, &directions, &d, &reduced_object))
        return NULL;
    Py_ssize_t n = d > 0 ? queries.len / 4 / d : 0, r = d > 0 ? directions.len / 2 / d : 0;
    if (d < 1 || queries.len != 4 * n * d || directions.len != 2 * r * d) {
        PyErr_SetString(PyExc_ValueError, "the queries or the directions do not have this many dimensions");
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
                PyErr_SetString(PyExc_ValueError, "its row is outside the column");
            } else if (valid.obj && !(((const unsigned char *)valid.buf)[at >> 3] >> (at & 7) & 1)) {
                text = Py_NewRef(Py_None);
            } else {
                low = wide ? ((const int64_t *)offsets.buf)[at] : ((const int32_t *)offsets.buf)[at];
                high = wide ? ((const int64_t *)offsets.buf)[at + 1] : ((const int32_t *)offsets.buf)[at + 1];
                if (low < 0 || low > high || high > data.len)
                    PyErr_SetString(PyExc_ValueError, "its bytes are outside the file");
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
    {"rescore", rescore, METH_VARARGS, NULL},
    {"search_graph", search_graph, METH_VARARGS, NULL},
    {"search_usearch_graph", search_usearch_graph, METH_VARARGS, NULL},
    {"normalize", normalize, METH_VARARGS, NULL},
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
