/* Runs of pgoutput messages that need no look, straight to the log's bytes: the rows of an open transaction, and
 * whole transactions of rows. What it writes for a message is what connectors.postgres.replication.pgoutput,
 * schemas.changecodec and schemas.framecodec write one after the other; tests hold it against them.
 *
 * It never judges: whatever is not a plain row of a table that it was told of, in an order that it knows, ends
 * the run before it and is left to those three. Optional, as schemas/_rowcode.c is.
 */

#include "../../../schemas/_tuple.h"

#define TABLE_BYTES 8
#define BEGIN_BYTES 21
#define COMMIT_BYTES 26
#define EPOCH_US 946684800000000LL /* PostgreSQL's zero, 2000, since 1970 */
#define MOST_TIME_US (INT64_MAX / 4)

/* How a run goes on. */
typedef enum { FAILED = -1, DONE, ENDED, FULL } Outcome;

/* Everything that a call works with. `relations`: oid -> (id, kinds of a row, kinds of a key, codecs). */
typedef struct {
    PyObject *messages;
    PyObject *relations;
    Row row;   /* one tuple */
    Row block; /* the changes of one transaction */
} Run;

/* ---- reading */

static uint32_t
uint32_at(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static int64_t
int64_at(const uint8_t *p)
{
    return (int64_t)((uint64_t)uint32_at(p) << 32 | uint32_at(p + 4));
}

/* The message, borrowed; NULL if there is none of bytes. */
static PyObject *
message_at(PyObject *messages, Py_ssize_t index)
{
    if (index >= PyList_GET_SIZE(messages))
        return NULL;
    PyObject *message = PyList_GET_ITEM(messages, index);
    return PyBytes_Check(message) && PyBytes_GET_SIZE(message) ? message : NULL;
}

static const uint8_t *
content(PyObject *message)
{
    return (const uint8_t *)PyBytes_AS_STRING(message);
}

/* What is known of the row's table, borrowed; NULL with or without an exception. */
static PyObject *
relation_of(PyObject *relations, PyObject *message)
{
    if (PyBytes_GET_SIZE(message) < 6)
        return NULL;
    PyObject *oid = PyLong_FromUnsignedLong(uint32_at(content(message) + 1));
    if (oid == NULL)
        return NULL;
    PyObject *known = PyDict_GetItemWithError(relations, oid);
    Py_DECREF(oid);
    return known;
}

static int
is_relation(PyObject *known)
{
    return PyTuple_Check(known) && PyTuple_GET_SIZE(known) == 4 && PyBytes_Check(PyTuple_GET_ITEM(known, 0)) &&
           PyBytes_GET_SIZE(PyTuple_GET_ITEM(known, 0)) == TABLE_BYTES && PyBytes_Check(PyTuple_GET_ITEM(known, 1)) &&
           PyBytes_Check(PyTuple_GET_ITEM(known, 2)) && PyTuple_Check(PyTuple_GET_ITEM(known, 3)) &&
           PyTuple_GET_SIZE(PyTuple_GET_ITEM(known, 3)) == PyBytes_GET_SIZE(PyTuple_GET_ITEM(known, 1)) &&
           PyBytes_GET_SIZE(PyTuple_GET_ITEM(known, 2)) == PyBytes_GET_SIZE(PyTuple_GET_ITEM(known, 1));
}

/* ---- writing */

static int
put_byte(Row *out, uint8_t byte)
{
    if (reserve(out, 1) < 0)
        return -1;
    PyBytes_AS_STRING(out->bytes)[out->size++] = (char)byte;
    return 0;
}

static int
put_number(Row *out, int64_t value)
{
    if (reserve(out, MOST_BYTES_OF_A_LONG) < 0)
        return -1;
    add_long(out, value);
    return 0;
}

/* A length and that many bytes of another row. */
static int
put_sized(Row *out, const Row *other)
{
    return put_number(out, other->size) < 0 ? -1 : put_bytes(out, PyBytes_AS_STRING(other->bytes), other->size);
}

/* A tuple after the union's branch. ENDED if it is not plainly well-formed. */
static Outcome
put_tuple(Run *run, Row *out, PyObject *known, int whole, uint8_t branch, PyObject *message, Py_ssize_t *pos,
          PyObject **absent)
{
    run->row.size = 0;
    PyObject *kinds = PyTuple_GET_ITEM(known, whole ? 1 : 2), *codecs = PyTuple_GET_ITEM(known, 3);
    if (encode_columns(&run->row, kinds, codecs, whole, message, pos, absent) < 0)
        return PyErr_Occurred() ? FAILED : ENDED;
    return put_byte(out, branch) < 0 || put_sized(out, &run->row) < 0 ? FAILED : DONE;
}

/* The array of unsent columns. */
static int
put_absent(Row *out, PyObject *absent)
{
    Py_ssize_t count = absent == NULL ? 0 : PyList_GET_SIZE(absent);
    if (count && put_number(out, count) < 0)
        return -1;
    for (Py_ssize_t i = 0; i < count; i++)
        if (put_number(out, PyLong_AsSsize_t(PyList_GET_ITEM(absent, i))) < 0)
            return -1;
    return put_byte(out, 0);
}

/* The tuples of a row's message: `I` N, `U` [K | O] N, `D` K | O. */
static Outcome
put_tuples(Run *run, Row *out, PyObject *known, PyObject *message, PyObject **absent)
{
    const uint8_t *data = content(message);
    Py_ssize_t end = PyBytes_GET_SIZE(message), pos = 6;
    uint8_t kind = data[0], form = data[5];
    Outcome outcome;
    if (kind != 'I' && form != 'N') {
        if (form != 'K' && form != 'O')
            return ENDED;
        outcome = put_tuple(run, out, known, form == 'O', form == 'O' ? 4 : 2, message, &pos, absent);
        if (outcome != DONE)
            return outcome;
        if (*absent != NULL)
            return ENDED;
        if (kind == 'D')
            return pos == end && put_byte(out, 0) == 0 ? DONE : PyErr_Occurred() ? FAILED : ENDED;
        if (pos >= end)
            return ENDED;
        form = data[pos++];
    } else if (put_byte(out, 0) < 0)
        return FAILED;
    if (form != 'N' || kind == 'D')
        return ENDED;
    outcome = put_tuple(run, out, known, 1, 2, message, &pos, absent);
    if (outcome != DONE)
        return outcome;
    return pos != end || (kind == 'I' && *absent != NULL) ? ENDED : DONE;
}

/* One row's message as a Change at the end of `out`, which is as it was unless DONE. */
static Outcome
put_change(Run *run, Row *out, PyObject *message)
{
    uint8_t kind = content(message)[0];
    if (kind != 'I' && kind != 'U' && kind != 'D')
        return ENDED;
    PyObject *known = relation_of(run->relations, message), *absent = NULL;
    if (known == NULL || !is_relation(known))
        return PyErr_Occurred() ? FAILED : ENDED;
    Py_ssize_t before = out->size;
    Outcome outcome = FAILED;
    if (put_byte(out, kind == 'I' ? 0 : kind == 'U' ? 2 : 4) == 0 &&
        put_bytes(out, PyBytes_AS_STRING(PyTuple_GET_ITEM(known, 0)), TABLE_BYTES) == 0)
        outcome = put_tuples(run, out, known, message, &absent);
    if (outcome == DONE && (put_absent(out, absent) < 0 || put_byte(out, 0) < 0))
        outcome = FAILED;
    Py_XDECREF(absent);
    if (outcome != DONE)
        out->size = before;
    return outcome;
}

/* Changes from messages[*index] on, until something else comes or `room` bytes would not do. Never DONE. */
static Outcome
put_changes(Run *run, Row *out, Py_ssize_t room, Py_ssize_t *index, Py_ssize_t *changes)
{
    for (;; ++*index, ++*changes) {
        PyObject *message = message_at(run->messages, *index);
        if (message == NULL || PyBytes_GET_SIZE(message) > room)
            return ENDED; /* a wide row is not copied about */
        Py_ssize_t before = out->size;
        Outcome outcome = put_change(run, out, message);
        if (outcome != DONE)
            return outcome;
        if (out->size > room) {
            out->size = before;
            return FULL;
        }
    }
}

/* ---- the functions */

static int
open_run(Run *run, PyObject *messages, PyObject *relations)
{
    *run = (Run){messages, relations, {PyBytes_FromStringAndSize(NULL, 1024), 0},
                 {PyBytes_FromStringAndSize(NULL, 4096), 0}};
    return run->row.bytes == NULL || run->block.bytes == NULL ? -1 : 0;
}

static void
close_run(Run *run)
{
    Py_XDECREF(run->row.bytes);
    Py_XDECREF(run->block.bytes);
}

PyDoc_STRVAR(encode_changes_doc,
"encode_changes(messages, index, relations, room) -> (index after, bytes, changes)\n\n"
"Rows of the open transaction, from messages[index] on, as encoded changes of at most `room` bytes.\n"
"relations: oid -> (id, kinds of a row, kinds of a key, codecs), as encode_row of schemas._rowcode takes them.");

static PyObject *
encode_changes(PyObject *module, PyObject *args)
{
    PyObject *messages, *relations, *result = NULL;
    Py_ssize_t index, room, changes = 0;
    Run run;
    if (!PyArg_ParseTuple(args, "O!nO!n", &PyList_Type, &messages, &index, &PyDict_Type, &relations, &room))
        return NULL;
    if (index < 0)
        return PyErr_Format(PyExc_ValueError, "a negative index");
    if (open_run(&run, messages, relations) == 0 && put_changes(&run, &run.block, room, &index, &changes) != FAILED &&
        _PyBytes_Resize(&run.block.bytes, run.block.size) == 0)
        result = Py_BuildValue("nOn", index, run.block.bytes, changes);
    close_run(&run);
    return result;
}

/* What Begin and Commit say of a whole transaction. */
typedef struct {
    int64_t xid, commit_lsn, end_lsn, commit_time;
} Bounds;

/* Whether messages[first] and messages[last] are its Begin and its Commit. */
static int
read_bounds(PyObject *messages, Py_ssize_t first, Py_ssize_t last, Bounds *bounds)
{
    PyObject *begin = message_at(messages, first), *commit = message_at(messages, last);
    if (begin == NULL || commit == NULL || PyBytes_GET_SIZE(begin) != BEGIN_BYTES ||
        PyBytes_GET_SIZE(commit) != COMMIT_BYTES)
        return 0;
    const uint8_t *b = content(begin), *c = content(commit);
    int64_t time = int64_at(b + 9);
    if (b[0] != 'B' || c[0] != 'C' || c[1] != 0 || memcmp(b + 1, c + 2, 8) != 0 || int64_at(c + 18) != time ||
        time > MOST_TIME_US || time < -MOST_TIME_US)
        return 0;
    *bounds = (Bounds){uint32_at(b + 17), int64_at(b + 1), int64_at(c + 10), time + EPOCH_US};
    return bounds->commit_lsn >= 0 && bounds->end_lsn >= 0;
}

/* Whether a Begin, rows and nothing else, and a Commit are there. */
static int
is_whole(PyObject *messages, Py_ssize_t index)
{
    PyObject *message = message_at(messages, index);
    if (message == NULL || content(message)[0] != 'B')
        return 0;
    do
        message = message_at(messages, ++index);
    while (message != NULL && strchr("IUD", content(message)[0]) != NULL && content(message)[0]);
    return message != NULL && content(message)[0] == 'C';
}

/* One whole transaction at the end of `out`. `target`: where a transaction is cut into parts. */
static Outcome
put_transaction(Run *run, Row *out, Py_ssize_t target, Py_ssize_t *index, Py_ssize_t *changes, Bounds *bounds)
{
    Py_ssize_t last = *index + 1, count = 0;
    if (!is_whole(run->messages, *index))
        return ENDED;
    run->block.size = 0;
    Outcome outcome = put_changes(run, &run->block, target, &last, &count);
    if (outcome == FAILED)
        return FAILED;
    if (outcome == FULL || !read_bounds(run->messages, *index, last, bounds))
        return ENDED;
    if (put_number(out, bounds->xid) < 0 || put_number(out, bounds->commit_lsn) < 0 ||
        put_number(out, bounds->end_lsn) < 0 || put_number(out, bounds->commit_time) < 0 || put_byte(out, 0) < 0 ||
        (count && (put_number(out, -count) < 0 || put_sized(out, &run->block) < 0)) || put_byte(out, 0) < 0)
        return FAILED;
    *index = last + 1;
    *changes += count;
    return DONE;
}

PyDoc_STRVAR(encode_transactions_doc,
"encode_transactions(messages, index, relations, held, target)\n"
"    -> (index after, bytes, transactions, changes, full, xid, commit_lsn, end_lsn, commit_time)\n\n"
"Whole transactions from messages[index] on, encoded, beside `held` bytes that a frame has already: as many as\n"
"`target` bytes take, one at least into an empty frame. full: whether that ended it. The rest is the last one's.");

static PyObject *
encode_transactions(PyObject *module, PyObject *args)
{
    PyObject *messages, *relations, *result = NULL;
    Py_ssize_t index, held, target, transactions = 0, changes = 0;
    Bounds bounds = {0, 0, 0, 0}, next;
    Run run;
    if (!PyArg_ParseTuple(args, "O!nO!nn", &PyList_Type, &messages, &index, &PyDict_Type, &relations, &held, &target))
        return NULL;
    if (index < 0)
        return PyErr_Format(PyExc_ValueError, "a negative index");
    Row out = {PyBytes_FromStringAndSize(NULL, 4096), 0};
    Outcome outcome = open_run(&run, messages, relations) < 0 || out.bytes == NULL ? FAILED : DONE;
    while (outcome == DONE) {
        Py_ssize_t before = out.size, next_index = index, next_changes = changes;
        outcome = put_transaction(&run, &out, target, &next_index, &next_changes, &next);
        if (outcome == DONE && held + before && held + out.size > target) {
            out.size = before;
            outcome = FULL;
        } else if (outcome == DONE) {
            index = next_index;
            changes = next_changes;
            bounds = next;
            transactions++;
            if (held + out.size >= target)
                outcome = FULL;
        }
    }
    if (outcome != FAILED && _PyBytes_Resize(&out.bytes, out.size) == 0)
        result = Py_BuildValue("nOnnOLLLL", index, out.bytes, transactions, changes,
                               outcome == FULL ? Py_True : Py_False, (long long)bounds.xid,
                               (long long)bounds.commit_lsn, (long long)bounds.end_lsn,
                               (long long)bounds.commit_time);
    Py_XDECREF(out.bytes);
    close_run(&run);
    return result;
}

static PyMethodDef methods[] = {
    {"encode_changes", encode_changes, METH_VARARGS, encode_changes_doc},
    {"encode_transactions", encode_transactions, METH_VARARGS, encode_transactions_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "connectors.postgres.replication._runs", "Runs of pgoutput messages, compiled.", 0, methods, NULL, NULL,
    NULL, NULL,
};

PyMODINIT_FUNC
PyInit__runs(void)
{
    return PyModuleDef_Init(&module);
}
