/* Changes in C: `Change` of avsc/frame.avsc to and from its bytes, as schemas.changecodec writes and reads it,
 * for the changes that are one row; those with a payload are left to the Python. And the transactions around
 * them, as schemas.framecodec reads them.
 *
 * Optional, as _rowcode.c is. Every read is checked against the end of the data; nothing is written but
 * new Python objects.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>

#include "_change.h"

/* The fields of schemas.change.Change. */
enum { OPERATION, TABLE, OLD_KEY, OLD_ROW, ROW, ABSENT, PAYLOAD, FIELDS };

/* ---- writing */

/* The union's branch, length and bytes; branch 0 for None. */
static uint8_t *
put_optional(uint8_t *p, PyObject *value, uint8_t branch)
{
    if (value == Py_None) {
        *p++ = 0;
        return p;
    }
    *p++ = branch;
    p = put_long(p, PyBytes_GET_SIZE(value));
    memcpy(p, PyBytes_AS_STRING(value), (size_t)PyBytes_GET_SIZE(value));
    return p + PyBytes_GET_SIZE(value);
}

static int
is_bytes_or_none(PyObject *value)
{
    return value == Py_None || PyBytes_Check(value);
}

static Py_ssize_t
size_of(PyObject *value)
{
    return value == Py_None ? 0 : PyBytes_GET_SIZE(value);
}

PyDoc_STRVAR(encode_row_change_doc,
"encode_row_change(change) -> bytes\n\n"
"change: a Change without payload. Raises TypeError for anything else.");

static PyObject *
encode_row_change(PyObject *module, PyObject *change)
{
    if (!PyTuple_Check(change) || PyTuple_GET_SIZE(change) != FIELDS)
        return PyErr_Format(PyExc_TypeError, "not a change");
    PyObject **field = &PyTuple_GET_ITEM(change, 0);
    if (!PyLong_Check(field[OPERATION]) || !PyBytes_Check(field[TABLE]) ||
        PyBytes_GET_SIZE(field[TABLE]) != TABLE_BYTES || !is_bytes_or_none(field[OLD_KEY]) ||
        !is_bytes_or_none(field[OLD_ROW]) || !is_bytes_or_none(field[ROW]) || !PyTuple_Check(field[ABSENT]) ||
        field[PAYLOAD] != Py_None)
        return PyErr_Format(PyExc_TypeError, "not a change of one row");
    long operation = PyLong_AsLong(field[OPERATION]);
    Py_ssize_t absent = PyTuple_GET_SIZE(field[ABSENT]);
    if (operation < 0 || operation > 63)
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_TypeError, "not an operation");
    PyObject *old = field[OLD_KEY] != Py_None ? field[OLD_KEY] : field[OLD_ROW];
    Py_ssize_t most = size_of(old) + size_of(field[ROW]) + TABLE_BYTES + 8 + (4 + absent) * MOST_BYTES_OF_A_LONG;
    PyObject *encoded = PyBytes_FromStringAndSize(NULL, most);
    if (encoded == NULL)
        return NULL;
    uint8_t *start = (uint8_t *)PyBytes_AS_STRING(encoded), *p = start;
    *p++ = (uint8_t)(operation << 1);
    memcpy(p, PyBytes_AS_STRING(field[TABLE]), TABLE_BYTES);
    p = put_optional(p + TABLE_BYTES, old, field[OLD_KEY] != Py_None ? 2 : 4);
    p = put_optional(p, field[ROW], 2);
    if (absent)
        p = put_long(p, absent);
    for (Py_ssize_t i = 0; i < absent; i++) {
        Py_ssize_t index = PyLong_AsSsize_t(PyTuple_GET_ITEM(field[ABSENT], i));
        if (index < 0) {
            Py_DECREF(encoded);
            return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_TypeError, "not a column's index");
        }
        p = put_long(p, index);
    }
    *p++ = 0; /* the array's end */
    *p++ = 0; /* no payload */
    _PyBytes_Resize(&encoded, p - start);
    return encoded;
}

/* ---- reading */

static PyObject *
make_bytes(Piece piece)
{
    return PyBytes_FromStringAndSize((const char *)piece.start, piece.size);
}

static PyObject *
make_bytes_or_none(Piece piece)
{
    return piece.start != NULL ? make_bytes(piece) : Py_NewRef(Py_None);
}

/* The encoded branch of an operation's payload: none for INSERT, UPDATE, DELETE; then 1, 2, 3. */
static uint8_t
payload_branch(uint8_t operation)
{
    return operation < 3 ? 0 : (uint8_t)((operation - 2) << 1);
}

/* A new reference for one of the fields. 0, or -1 with an exception. */
static int
set_field(PyObject *fields, int field, PyObject *value)
{
    if (value == NULL)
        return -1;
    PyTuple_SET_ITEM(fields, field, value);
    return 0;
}

/* The fields of one change. 0 and a new *pos, or -1 with or without an exception. */
static int
read_fields(PyObject *block, PyObject *operations, PyObject *read_payload, Py_ssize_t *pos, PyObject *fields)
{
    const uint8_t *data = (const uint8_t *)PyBytes_AS_STRING(block);
    Py_ssize_t end = PyBytes_GET_SIZE(block), p = *pos;
    ChangeView change;
    if (view_change(data, end, &p, &change) < 0 || change.operation >= PyTuple_GET_SIZE(operations) ||
        data[p] != payload_branch(change.operation))
        return -1;
    Piece table = {change.table, TABLE_BYTES}, none = {NULL, 0};
    int is_row = change.old_branch == OLD_IS_ROW;
    if (set_field(fields, OPERATION, Py_NewRef(PyTuple_GET_ITEM(operations, change.operation))) < 0 ||
        set_field(fields, TABLE, make_bytes(table)) < 0 ||
        set_field(fields, OLD_KEY, make_bytes_or_none(is_row ? none : change.old)) < 0 ||
        set_field(fields, OLD_ROW, make_bytes_or_none(is_row ? change.old : none)) < 0 ||
        set_field(fields, ROW, make_bytes_or_none(change.row)) < 0 ||
        set_field(fields, ABSENT, make_absent(change.absent)) < 0)
        return -1;
    if (data[p] == 0) {
        PyTuple_SET_ITEM(fields, PAYLOAD, Py_NewRef(Py_None));
        *pos = p + 1;
        return 0;
    }
    if (p - *pos != 1 + TABLE_BYTES + 3)
        return -1; /* a row beside what is not one row */
    PyObject *pair = PyObject_CallFunction(read_payload, "On", block, p);
    if (pair == NULL)
        return -1;
    int result = -1;
    if (PyTuple_Check(pair) && PyTuple_GET_SIZE(pair) == 2) {
        Py_ssize_t after = PyLong_AsSsize_t(PyTuple_GET_ITEM(pair, 1));
        if (after > p && after <= end) {
            PyTuple_SET_ITEM(fields, PAYLOAD, Py_NewRef(PyTuple_GET_ITEM(pair, 0)));
            *pos = after;
            result = 0;
        }
    }
    Py_DECREF(pair);
    return result;
}

static PyObject *
make(PyTypeObject *type, PyObject *fields)
{
    PyObject *arguments = PyTuple_Pack(1, fields), *made = NULL;
    if (arguments != NULL) {
        made = PyTuple_Type.tp_new(type, arguments, NULL);
        Py_DECREF(arguments);
    }
    return made;
}

static PyObject *
read_change(PyObject *block, PyTypeObject *type, PyObject *operations, PyObject *read_payload, Py_ssize_t *pos)
{
    PyObject *fields = PyTuple_New(FIELDS), *change = NULL;
    if (fields == NULL)
        return NULL;
    if (read_fields(block, operations, read_payload, pos, fields) < 0) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "no change stands here");
    } else
        change = make(type, fields);
    Py_DECREF(fields);
    return change;
}

PyDoc_STRVAR(decode_changes_doc,
"decode_changes(block, change type, operations, read_payload) -> list of changes\n\n"
"They stand back to back in the block. read_payload: called as (block, position) where a payload stands,\n"
"returns (payload, position after it). Raises ValueError, and what read_payload raises.");

static PyObject *
decode_changes(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 4 || !PyBytes_Check(args[0]) || !PyType_Check(args[1]) || !PyTuple_Check(args[2]) ||
        !PyType_IsSubtype((PyTypeObject *)args[1], &PyTuple_Type))
        return PyErr_Format(PyExc_TypeError, "decode_changes(bytes, tuple type, tuple, callable)");
    PyObject *changes = PyList_New(0);
    Py_ssize_t pos = 0, end = PyBytes_GET_SIZE(args[0]);
    while (changes != NULL && pos < end) {
        PyObject *change = read_change(args[0], (PyTypeObject *)args[1], args[2], args[3], &pos);
        if (change == NULL || PyList_Append(changes, change) < 0)
            Py_CLEAR(changes);
        Py_XDECREF(change);
    }
    return changes;
}

/* ---- rows that are not decoded */

PyDoc_STRVAR(are_rows_doc,
"are_rows(block, count) -> bool\n\n"
"Whether so many changes stand in the block, back to back, and each is one row.");

static PyObject *
are_rows(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2 || !PyBytes_Check(args[0]) || !PyLong_Check(args[1]))
        return PyErr_Format(PyExc_TypeError, "are_rows(bytes, int)");
    const uint8_t *data = (const uint8_t *)PyBytes_AS_STRING(args[0]);
    Py_ssize_t pos = 0, end = PyBytes_GET_SIZE(args[0]), left = PyLong_AsSsize_t(args[1]);
    if (left == -1 && PyErr_Occurred())
        return NULL;
    ChangeView change;
    for (; pos < end; left--)
        if (view_row_change(data, end, &pos, &change) < 0)
            Py_RETURN_FALSE;
    return PyBool_FromLong(left == 0);
}

/* What stands of one table: how many changes, how many bytes they are, and the largest of them; then where the
 * next one goes. */
typedef struct {
    uint8_t table[TABLE_BYTES];
    Py_ssize_t count, size, widest;
    PyObject *block;
    char *next;
} Share;

/* In a row there are few tables, and mostly the same as just before. NULL with an exception. */
static Share *
find_share(Share **shares, Py_ssize_t *known, Py_ssize_t *room, const uint8_t *table)
{
    for (Py_ssize_t i = *known - 1; i >= 0; i--)
        if (memcmp((*shares)[i].table, table, TABLE_BYTES) == 0)
            return &(*shares)[i];
    if (*known == *room) {
        Share *more = PyMem_Resize(*shares, Share, (size_t)*room * 2);
        if (more == NULL) {
            PyErr_NoMemory();
            return NULL;
        }
        *shares = more;
        *room *= 2;
    }
    Share *made = &(*shares)[(*known)++];
    *made = (Share){.count = 0};
    memcpy(made->table, table, TABLE_BYTES);
    return made;
}

/* Count the changes of all blocks (copying 0), or copy them. 0, or -1 with an exception. */
static int
walk_blocks(PyObject *blocks, Share **shares, Py_ssize_t *known, Py_ssize_t *room, int copying)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(blocks); i++) {
        PyObject *block = PyList_GET_ITEM(blocks, i);
        if (!PyBytes_Check(block)) {
            PyErr_SetString(PyExc_TypeError, "a block is bytes");
            return -1;
        }
        const uint8_t *data = (const uint8_t *)PyBytes_AS_STRING(block);
        Py_ssize_t pos = 0, end = PyBytes_GET_SIZE(block);
        while (pos < end) {
            Py_ssize_t start = pos;
            ChangeView change;
            if (view_row_change(data, end, &pos, &change) < 0) {
                PyErr_SetString(PyExc_ValueError, "not a change of one row");
                return -1;
            }
            Share *share = find_share(shares, known, room, change.table);
            if (share == NULL)
                return -1;
            if (copying) {
                memcpy(share->next, data + start, (size_t)(pos - start));
                share->next += pos - start;
            } else {
                share->count++;
                share->size += pos - start;
                if (pos - start > share->widest)
                    share->widest = pos - start;
            }
        }
    }
    return 0;
}

static PyObject *
make_shares(Share *shares, Py_ssize_t known)
{
    PyObject *by_table = PyDict_New();
    for (Py_ssize_t i = 0; by_table != NULL && i < known; i++) {
        PyObject *table = PyBytes_FromStringAndSize((const char *)shares[i].table, TABLE_BYTES);
        PyObject *share =
            table != NULL ? Py_BuildValue("nOn", shares[i].count, shares[i].block, shares[i].widest) : NULL;
        if (share == NULL || PyDict_SetItem(by_table, table, share) < 0)
            Py_CLEAR(by_table);
        Py_XDECREF(share);
        Py_XDECREF(table);
    }
    return by_table;
}

PyDoc_STRVAR(split_by_table_doc,
"split_by_table(blocks) -> {table: (count, block, widest)}\n\n"
"blocks: a list of encoded changes, all of one row, back to back. Of each table its own, in the same order.\n"
"widest: how many bytes the largest of them takes.\n"
"Raises ValueError for anything else.");

static PyObject *
split_by_table(PyObject *module, PyObject *blocks)
{
    if (!PyList_Check(blocks))
        return PyErr_Format(PyExc_TypeError, "blocks are a list");
    Py_ssize_t known = 0, room = 8;
    Share *shares = PyMem_New(Share, (size_t)room);
    if (shares == NULL)
        return PyErr_NoMemory();
    PyObject *by_table = NULL;
    int failed = walk_blocks(blocks, &shares, &known, &room, 0);
    for (Py_ssize_t i = 0; !failed && i < known; i++) {
        shares[i].block = PyBytes_FromStringAndSize(NULL, shares[i].size);
        failed = shares[i].block == NULL;
        shares[i].next = failed ? NULL : PyBytes_AS_STRING(shares[i].block);
    }
    if (!failed && walk_blocks(blocks, &shares, &known, &room, 1) == 0)
        by_table = make_shares(shares, known);
    for (Py_ssize_t i = 0; i < known; i++)
        Py_XDECREF(shares[i].block);
    PyMem_Free(shares);
    return by_table;
}

/* ---- reading whole transactions */

/* The fields of schemas.frame.Transaction. */
enum { XID, COMMIT_LSN, END_LSN, COMMIT_TIME, ORIGIN, CHANGE_COUNT, CHANGES, TRANSACTION_FIELDS };

static PyObject *
read_origin(PyObject *record, Py_ssize_t *pos)
{
    const uint8_t *data = (const uint8_t *)PyBytes_AS_STRING(record);
    Py_ssize_t end = PyBytes_GET_SIZE(record);
    Piece text;
    if (*pos >= end || (data[*pos] != 0 && data[*pos] != 2))
        return NULL;
    if (data[(*pos)++] == 0)
        return Py_NewRef(Py_None);
    if (view_bytes(data, end, pos, &text) < 0)
        return NULL;
    return PyUnicode_DecodeUTF8((const char *)text.start, text.size, NULL);
}

/* An array of changes in one block with its size, not decoded. 0 and a new *pos, or -1. */
static int
read_block(PyObject *record, Py_ssize_t *pos, PyObject *fields)
{
    const uint8_t *data = (const uint8_t *)PyBytes_AS_STRING(record);
    Py_ssize_t end = PyBytes_GET_SIZE(record);
    Piece block = {data, 0};
    int64_t count;
    if (read_long(data, end, pos, &count) < 0 || count > 0 || count == INT64_MIN)
        return -1;
    if (count && view_bytes(data, end, pos, &block) < 0)
        return -1;
    PyObject *changes = make_bytes(block);
    if (changes == NULL)
        return -1;
    PyTuple_SET_ITEM(fields, CHANGES, changes);
    if (count && (*pos >= end || data[(*pos)++] != 0))
        return -1;
    PyObject *number = PyLong_FromLongLong(-count);
    if (number == NULL)
        return -1;
    PyTuple_SET_ITEM(fields, CHANGE_COUNT, number);
    return 0;
}

static int
read_transaction_fields(PyObject *record, Py_ssize_t *pos, PyObject *fields)
{
    const uint8_t *data = (const uint8_t *)PyBytes_AS_STRING(record);
    PyObject *value;
    int64_t number;
    for (int field = XID; field <= COMMIT_TIME; field++) {
        if (read_long(data, PyBytes_GET_SIZE(record), pos, &number) < 0 ||
            (value = PyLong_FromLongLong(number)) == NULL)
            return -1;
        PyTuple_SET_ITEM(fields, field, value);
    }
    if ((value = read_origin(record, pos)) == NULL)
        return -1;
    PyTuple_SET_ITEM(fields, ORIGIN, value);
    return read_block(record, pos, fields);
}

PyDoc_STRVAR(decode_transactions_doc,
"decode_transactions(record, position, count, transaction type) -> (list of transactions, position after)\n\n"
"They stand back to back. Raises ValueError.");

static PyObject *
decode_transactions(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 4 || !PyBytes_Check(args[0]) || !PyType_Check(args[3]) ||
        !PyType_IsSubtype((PyTypeObject *)args[3], &PyTuple_Type))
        return PyErr_Format(PyExc_TypeError, "decode_transactions(bytes, int, int, tuple type)");
    Py_ssize_t pos = PyLong_AsSsize_t(args[1]), count = PyLong_AsSsize_t(args[2]);
    if (pos < 0 || count < 0)
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_ValueError, "a negative position or count");
    PyObject *transactions = PyList_New(0);
    for (Py_ssize_t i = 0; transactions != NULL && i < count; i++) {
        PyObject *fields = PyTuple_New(TRANSACTION_FIELDS), *transaction = NULL;
        if (fields != NULL && read_transaction_fields(args[0], &pos, fields) == 0)
            transaction = make((PyTypeObject *)args[3], fields);
        else if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "no transaction stands here");
        Py_XDECREF(fields);
        if (transaction == NULL || PyList_Append(transactions, transaction) < 0)
            Py_CLEAR(transactions);
        Py_XDECREF(transaction);
    }
    return transactions != NULL ? Py_BuildValue("Nn", transactions, pos) : NULL;
}

static PyMethodDef methods[] = {
    {"encode_row_change", encode_row_change, METH_O, encode_row_change_doc},
    {"decode_transactions", (PyCFunction)(void (*)(void))decode_transactions, METH_FASTCALL,
     decode_transactions_doc},
    {"are_rows", (PyCFunction)(void (*)(void))are_rows, METH_FASTCALL, are_rows_doc},
    {"split_by_table", split_by_table, METH_O, split_by_table_doc},
    {"decode_changes", (PyCFunction)(void (*)(void))decode_changes, METH_FASTCALL, decode_changes_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "schemas._changecode", "Changes to and from Avro, compiled.", 0, methods, NULL, NULL,
    NULL, NULL,
};

PyMODINIT_FUNC
PyInit__changecode(void)
{
    return PyModuleDef_Init(&module);
}
