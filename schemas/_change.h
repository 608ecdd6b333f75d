/* Where the fields of an encoded change stand (`Change` of avsc/frame.avsc, as schemas.changecodec writes it).
 * Nothing is copied but what a function says that it makes; every read is checked against the end of the data.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stddef.h>
#include <stdint.h>

#include "_varint.h"

#define TABLE_BYTES 8

enum { INSERT, UPDATE, DELETE, ROW_OPERATIONS };
enum { NO_OLD = 0, OLD_IS_KEY = 2, OLD_IS_ROW = 4 };

/* One change. absent: the whole encoded array, of `absent_count` indexes. */
typedef struct {
    uint8_t operation;
    const uint8_t *table;
    uint8_t old_branch;
    Piece old, row, absent;
    ptrdiff_t absent_count;
} ChangeView;

static inline int
view_absent(const uint8_t *data, ptrdiff_t end, ptrdiff_t *pos, ChangeView *change)
{
    ptrdiff_t p = *pos, index;
    if (read_count(data, end, &p, &change->absent_count) < 0 || change->absent_count > end - p)
        return -1;
    for (ptrdiff_t i = 0; i < change->absent_count; i++)
        if (read_count(data, end, &p, &index) < 0)
            return -1;
    if (change->absent_count && (p >= end || data[p++] != 0))
        return -1; /* an array in more than one block */
    change->absent.start = data + *pos;
    change->absent.size = p - *pos;
    *pos = p;
    return 0;
}

/* A change up to its payload's branch, which stands at the new *pos. 0, or -1. */
static inline int
view_change(const uint8_t *data, ptrdiff_t end, ptrdiff_t *pos, ChangeView *change)
{
    ptrdiff_t p = *pos;
    if (end - p < TABLE_BYTES + 3 || data[p] & 1)
        return -1;
    *change = (ChangeView){.operation = data[p] >> 1, .table = data + p + 1};
    p += 1 + TABLE_BYTES;
    change->old_branch = data[p++];
    if (change->old_branch != NO_OLD && change->old_branch != OLD_IS_KEY && change->old_branch != OLD_IS_ROW)
        return -1;
    if (change->old_branch && view_bytes(data, end, &p, &change->old) < 0)
        return -1;
    if (p >= end || (data[p] != 0 && data[p] != 2))
        return -1;
    if (data[p++] && view_bytes(data, end, &p, &change->row) < 0)
        return -1;
    if (view_absent(data, end, &p, change) < 0 || p >= end)
        return -1;
    *pos = p;
    return 0;
}

/* A change that is one row. 0 and *pos after it, or -1: it is none, or malformed. */
static inline int
view_row_change(const uint8_t *data, ptrdiff_t end, ptrdiff_t *pos, ChangeView *change)
{
    ptrdiff_t p = *pos;
    if (view_change(data, end, &p, change) < 0 || change->operation >= ROW_OPERATIONS || data[p] != 0)
        return -1;
    *pos = p + 1;
    return 0;
}

/* The indexes of an `absent` that was viewed: a tuple, or NULL with an exception. */
static inline PyObject *
make_absent(Piece encoded)
{
    ptrdiff_t pos = 0, count, index;
    read_count(encoded.start, encoded.size, &pos, &count);
    PyObject *absent = PyTuple_New(count);
    for (ptrdiff_t i = 0; absent != NULL && i < count; i++) {
        read_count(encoded.start, encoded.size, &pos, &index);
        PyObject *number = PyLong_FromSsize_t(index);
        if (number == NULL)
            Py_CLEAR(absent);
        else
            PyTuple_SET_ITEM(absent, i, number);
    }
    return absent;
}
